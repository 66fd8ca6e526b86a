"""Embeddings by a frozen encoder: image sources, inference threads, and the cache."""
