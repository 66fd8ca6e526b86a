"""Clusters as centroids among features: found by k-means, kept with the model, the nearest one chosen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smidgen.errors import InputError
from smidgen.maths.kmeans import kmeans
from smidgen.maths.soft_clusters import assignments_by_distance, calibrated_spread


class Centroids(nn.Module):
    """The centroids (clusters, features) of k-means and how far points spread around theirs; zeros at first."""

    centroids: Tensor
    spread: Tensor

    def __init__(self, n_clusters: int, features: int) -> None:
        super().__init__()
        self.register_buffer("centroids", torch.zeros(n_clusters, features))
        self.register_buffer("spread", torch.tensor(1.0))

    def find(self, features: Tensor, *, generator: torch.Generator, n_init: int = 10) -> None:
        """Run k-means (greedy k-means++, the best of n_init) on features (images, features).

        Raises InputError for fewer images than clusters.
        """
        n_clusters = len(self.centroids)
        if len(features) < n_clusters:
            raise InputError(f"{n_clusters} clusters were wanted of {len(features)} images: ask for fewer clusters.")
        found = kmeans(features.cpu(), n_clusters, n_init=n_init, generator=generator)
        spread = calibrated_spread(features.cpu(), found.centroids, found.labels, generator=generator)
        self.spread, self.centroids = spread.to(self.centroids), found.centroids.to(self.centroids)

    def reorder(self, order: Tensor) -> None:
        """Put the clusters into another order: the new cluster k is the old order[k]."""
        self.centroids = self.centroids[order.to(self.centroids.device)]

    def forward(self, features: Tensor) -> Tensor:
        """Return assignments (batch, clusters) by distance: the hard labels of k-means, see `maths.soft_clusters`."""
        return assignments_by_distance(features, self.centroids, self.spread)

    def of_all(self, features: Tensor) -> Tensor:
        """Return the assignments, on the CPU, of features (images, features) that may be many and elsewhere."""
        device = self.centroids.device
        return torch.cat([self(block.to(device)).cpu() for block in features.split(8192)])
