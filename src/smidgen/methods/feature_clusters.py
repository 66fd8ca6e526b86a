"""Clusters of a net's features: what DeepCluster, SeLa and SwAV end with where they learn from other groups.

Features are centred, brought to their first principal components and to length one, and k-means finds the clusters.
Without whitening, whatever a method learns from: on five collections k-means of whitened features agrees less with
itself from one start to the next, which needs no labels to see, and less with the classes (LAB.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from smidgen.maths.kmeans import kmeans
from smidgen.maths.pca import fit_pca
from smidgen.maths.scaling import unit_rows
from smidgen.maths.soft_clusters import assignments_by_distance, calibrated_spread, spread_among_centroids
from smidgen.methods.base import Embed

Blocks = Callable[[], Iterable[Tensor]]
"""Gives features (rows, features) of all images, block by block, as often as it is called."""

_MULTIPLE = 16  # of components: with others, BLAS gives a row another last bit wherever it lies in the batch
_STARTS = 10  # of the last k-means
_HELD = 2**28  # numbers, 1 GB, that are held rather than computed again
_ROWS = 8192
_STEPS = 2**16  # of a coordinate from 0 to 1: finer differences are rounding


def features_of_all(embed: Embed, function: Callable[[Tensor], Tensor], *, n_images: int, features: int) -> Blocks:
    """Return what gives a function's features of all images: held in memory, or made anew where they are too large."""
    if n_images * features > _HELD:
        return lambda: (outputs for _, outputs in embed.blocks(function))
    held = embed.on_device(function).split(_ROWS)
    return lambda: held


def directions(points: Tensor) -> Tensor:
    """Return rows of length one, or zero, as k-means gets them: equal images are equal, whatever rounding says."""
    return (unit_rows(points) * _STEPS).round() / _STEPS


class FeatureClusters(nn.Module):
    """Features (batch, features) in, assignments (batch, clusters) out; without gradient.

    components: how many principal components, at most. Before `fit` and `find` every cluster is equally likely.
    """

    mean: Tensor
    weights: Tensor
    centroids: Tensor
    spread: Tensor

    def __init__(self, features: int, n_clusters: int, *, components: int = 256) -> None:
        super().__init__()
        self.n_clusters, self.components = n_clusters, min(components, features)
        columns = self.components + -self.components % _MULTIPLE
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("weights", torch.zeros(features, columns))
        self.register_buffer("centroids", torch.zeros(n_clusters, columns))
        self.register_buffer("spread", torch.ones(()))

    def fit(self, blocks: Blocks) -> Tensor:
        """Learn the principal components, and return what whitens them: 1 / standard deviation of each, 0 for none.

        With fewer than two rows there are none, and all points lie at the origin.
        """
        n_rows, scale = sum(map(len, blocks())), torch.zeros(self.weights.shape[1], device=self.weights.device)
        self.weights.zero_()
        if n_rows >= 2:
            pca = fit_pca(blocks, min(self.components, n_rows), whiten=True)
            self.mean.copy_(pca.mean)
            self.weights[:, : len(pca.components)] = pca.components.T.to(self.weights)
            scale[: len(pca.scale)] = pca.scale.to(scale)
        return scale

    def project(self, features: Tensor) -> Tensor:
        """Return components (batch, components and zeros up to a multiple of 16) of features, in float32."""
        with torch.autocast(features.device.type, enabled=False):
            return (features.float() - self.mean) @ self.weights

    def find(self, points: Tensor, generator: torch.Generator) -> None:
        """Find the clusters of projected features by one run of k-means: for a look while the net learns."""
        points = directions(points)
        found = kmeans(points, self.n_clusters, n_init=1, generator=generator)
        spread = spread_among_centroids(points.cpu(), found.centroids.cpu(), found.labels.cpu())
        self.centroids, self.spread = found.centroids.to(self.centroids), spread.to(self.spread)

    def finish(self, blocks: Blocks, generator: torch.Generator) -> Tensor:
        """Find them finally: by the best of ten runs, with assignments on average as sure as clusters are stable.

        Returns what `fit` does.
        """
        scale = self.fit(blocks)
        points = directions(torch.cat([self.project(block).cpu() for block in blocks()]))
        found = kmeans(points, self.n_clusters, n_init=_STARTS, generator=generator)
        spread = calibrated_spread(points, found.centroids, found.labels, generator=generator)
        self.centroids, self.spread = found.centroids.to(self.centroids), spread.to(self.spread)
        return scale

    def forward(self, features: Tensor) -> Tensor:
        """Return assignments (batch, clusters): the nearest centroid is the likeliest."""
        return assignments_by_distance(unit_rows(self.project(features)), self.centroids, self.spread)
