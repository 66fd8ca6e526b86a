"""Embeddings by a frozen encoder: where images come from, the threads that run the net, and what is kept."""
