"""Scores on label arrays and probes on embeddings."""
