"""Heads: embeddings in, logits out."""

from __future__ import annotations

from torch import Tensor, nn


class LinearHeads(nn.Module):
    """Several linear heads side by side, as one matrix product."""

    def __init__(self, features: int, n_clusters: int, *, heads: int = 1) -> None:
        super().__init__()
        self.heads, self.n_clusters = heads, n_clusters
        self.linear = nn.Linear(features, heads * n_clusters)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits (batch, heads, clusters) of embeddings (batch, features)."""
        return self.linear(embeddings).view(-1, self.heads, self.n_clusters)
