"""Heads with more groups than clusters, whose groups are united by their neighbours into clusters of any sizes.

A net whose clusters are held at equal sizes cuts large classes into several clusters and unites small ones, and sure as
it is by then, it does not leave that optimum when the sizes are released. Several times as many groups of equal size
cut classes too, but unite few; and groups of one class are each other's neighbours. So they are united until as many
are left as there are clusters. What tells them from clusters of equal sizes is the normalised cut: the mean over
clusters, not over images, of the part of neighbours that are in other clusters.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.maths.agglomeration import association, neighbour_flow, united
from smidgen.nets.heads import LinearHeads

PER_CLUSTER = 5
"""Groups for each cluster."""

HEADS = 4

MOST_CLUSTERS = 100
"""Clusters up to which there are groups: uniting so many times as many costs time that grows with their cube."""

LEAST_IN_GROUP = 10
"""Images on average in a group, without which it says nothing of its neighbours."""

GAIN = 0.005
"""By how much the association of united groups must exceed that of the clusters for these to give way."""


class GroupHeads(LinearHeads):
    """Several linear heads of `PER_CLUSTER` groups for each cluster."""

    def __init__(self, features: int, n_clusters: int) -> None:
        super().__init__(features, PER_CLUSTER * n_clusters, heads=HEADS)
        self.wanted = n_clusters

    @torch.no_grad()
    def united(self, embeddings: Tensor, neighbours: Tensor) -> Iterator[Tensor]:
        """Yield the united groups of each head, assignments (images, clusters).

        embeddings: (images, features) and neighbours: rows (images, k), on one device.
        """
        for head in range(self.heads):
            rows = slice(head * self.n_clusters, (head + 1) * self.n_clusters)
            groups = F.linear(embeddings, self.linear.weight[rows], self.linear.bias[rows]).float().softmax(-1)
            clusters = united(neighbour_flow(groups, neighbours).cpu(), self.wanted).to(groups.device)
            yield groups @ F.one_hot(clusters, self.wanted).to(groups)


def has_groups(*, n_images: int, n_clusters: int) -> bool:
    """Return whether there are enough images and not too many clusters for groups.

    >>> has_groups(n_images=500, n_clusters=10), has_groups(n_images=300, n_clusters=10)
    (True, False)
    """
    return 1 < n_clusters <= MOST_CLUSTERS and n_images >= LEAST_IN_GROUP * PER_CLUSTER * n_clusters


def association_of(p: Tensor, neighbours: Tensor) -> float:
    """Return the association of the largest assignments of p (images, clusters), see `maths.agglomeration`."""
    return association(neighbour_flow(F.one_hot(p.argmax(1), p.shape[1]).float(), neighbours))
