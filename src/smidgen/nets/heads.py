"""Heads: embeddings in, logits out."""

from __future__ import annotations

from torch import Tensor, nn

from smidgen.nets.encoder import Encoder


class LinearHeads(nn.Module):
    """Several linear heads side by side, as one matrix product."""

    def __init__(self, features: int, n_clusters: int, *, heads: int = 1) -> None:
        super().__init__()
        self.heads, self.n_clusters = heads, n_clusters
        self.linear = nn.Linear(features, heads * n_clusters)

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits (batch, heads, clusters) of embeddings (batch, features)."""
        return self.linear(embeddings).view(-1, self.heads, self.n_clusters)


class HeadedNet(nn.Module):
    """An encoder with linear heads on its embeddings."""

    def __init__(self, encoder: Encoder, n_clusters: int, *, heads: int = 1) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, LinearHeads(encoder.features, n_clusters, heads=heads)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, heads, clusters) of images (batch, channels, height, width)."""
        return self.heads(self.encoder(images))
