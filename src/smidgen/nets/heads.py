"""Heads: embeddings in, logits out."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.maths.matching import in_order_of_classes
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


class OrderedHeads(LinearHeads):
    """Linear heads whose clusters are put into the order of the classes once it is known which is which."""

    order: Tensor  # (heads, clusters): cluster → output

    def __init__(self, features: int, n_clusters: int, *, heads: int = 1) -> None:
        super().__init__(features, n_clusters, heads=heads)
        self.register_buffer("order", torch.arange(n_clusters).repeat(heads, 1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Return logits (batch, heads, clusters) in float32, in the order of the classes."""
        logits = super().forward(embeddings).float()
        return logits.gather(2, self.order.expand(len(logits), -1, -1))

    def put_in_order(self, head: int, votes: np.ndarray) -> None:
        """Match a head's clusters to classes by how much speaks for each match, (clusters, classes)."""
        order = in_order_of_classes(votes)
        self.order[head] = self.order[head, torch.tensor(order, device=self.order.device)]

    def layer(self, head: int) -> tuple[Tensor, Tensor]:
        """Return weight (clusters, features) and bias (clusters,) of one head, in the order of the classes."""
        rows = head * self.n_clusters + self.order[head]
        return self.linear.weight[rows], self.linear.bias[rows]


class HeadedNet(nn.Module):
    """An encoder with linear heads on its embeddings."""

    def __init__(self, encoder: Encoder, n_clusters: int, *, heads: int = 1) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, LinearHeads(encoder.features, n_clusters, heads=heads)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (batch, heads, clusters) of images (batch, channels, height, width)."""
        return self.heads(self.encoder(images))
