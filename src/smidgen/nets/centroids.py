"""Clusters as centroids among features: found by k-means, kept with the model, the nearest one chosen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smidgen.errors import InputError
from smidgen.maths.kmeans import kmeans


class Centroids(nn.Module):
    """The centroids (clusters, features) of k-means and the mean squared distance to the own one; zeros at first."""

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
        self.centroids = found.centroids.to(self.centroids)
        self.spread = torch.tensor(float(found.inertia) / len(features)).to(self.centroids)

    def reorder(self, order: Tensor) -> None:
        """Put the clusters into another order: the new cluster k is the old order[k]."""
        self.centroids = self.centroids[order.to(self.centroids.device)]

    def forward(self, features: Tensor) -> Tensor:
        """Return assignments (batch, clusters): a softmax of −d² / (mean d² to the own centroid).

        The hard labels are those of k-means; the confidences only rank the images, they are not calibrated.
        """
        distances = torch.cdist(features, self.centroids, compute_mode="donot_use_mm_for_euclid_dist")
        return (-(distances**2) / self.spread.clamp_min(1e-12)).softmax(1)
