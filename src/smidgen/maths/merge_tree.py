"""A tree of merges over many points: many small clusters by k-means, joined two by two by average linkage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.cluster.hierarchy import linkage

from smidgen.errors import InputError
from smidgen.maths.kmeans import kmeans

MOST_LEAVES = 600
_POINTS_PER_LEAF = 15


@dataclass(frozen=True, eq=False)
class MergeTree:
    """Nodes 0 … leaves − 1 are small clusters; node leaves + i joins the two in `merges[i]`, the nearest first.

    leaf_of: (n,) int64, each point's leaf. merges: (leaves − 1, 2) int64. heights: (leaves − 1,), the mean distance
    between the points' leaves that a merge joins, never falling. sizes, typical: (2 leaves − 1,) int64, of each node
    its number of points, and the row of the point nearest to the centre of its largest leaf.
    """

    leaf_of: np.ndarray
    merges: np.ndarray
    heights: np.ndarray
    sizes: np.ndarray
    typical: np.ndarray

    @property
    def n_leaves(self) -> int:
        """How many small clusters there are: the finest cut."""
        return len(self.merges) + 1

    def nodes(self, n_clusters: int) -> list[int]:
        """Return the nodes of the cut into `n_clusters`, in the order of the tree: those merged next lie side by side.

        Raises InputError for a number that is not from 1 to that of the leaves.
        """
        if not 1 <= n_clusters <= self.n_leaves:
            raise InputError(f"A cut must have from 1 to {self.n_leaves} clusters, got {n_clusters}.")
        last = 2 * self.n_leaves - 1 - n_clusters  # nodes beyond it are merges that the cut undoes
        stack, found = [2 * self.n_leaves - 2], []
        while stack:
            node = stack.pop()
            if node <= last:
                found.append(node)
            else:
                stack += self.merges[node - self.n_leaves].tolist()[::-1]
        return found

    def cut(self, n_clusters: int) -> np.ndarray:
        """Return each point's cluster in the cut into `n_clusters`, (n,) int64, numbered in the order of `nodes`."""
        of_leaf = np.zeros(self.n_leaves, dtype=np.int64)
        for number, node in enumerate(self.nodes(n_clusters)):
            of_leaf[self._leaves(node)] = number
        return of_leaf[self.leaf_of]

    def _leaves(self, node: int) -> list[int]:
        stack, found = [node], []
        while stack:
            node = stack.pop()
            if node < self.n_leaves:
                found.append(node)
            else:
                stack += self.merges[node - self.n_leaves].tolist()
        return found


def merge_tree(points: np.ndarray, *, seed: int, least: int = 2) -> MergeTree:
    """Return the tree of merges of points (n, features).

    It has n / 15 leaves, at most 600 and at least `least`, where there are as many different points.

    >>> tree = merge_tree(np.array([[0.0], [0.1], [5.0], [5.1], [5.2]]), seed=0)
    >>> sorted(np.bincount(tree.cut(2)).tolist())
    [2, 3]
    """
    x = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float32))
    n_leaves = min(len(x), max(least, min(MOST_LEAVES, len(x) // _POINTS_PER_LEAF)))
    found = kmeans(x, n_leaves, n_init=1, max_iterations=20, generator=torch.Generator().manual_seed(seed))
    kept, leaf_of = np.unique(found.labels.numpy(), return_inverse=True)  # equal points fill fewer
    if len(kept) < 2:
        raise InputError("All images are the same: there is nothing to cluster.")
    centroids = found.centroids.numpy()[kept]
    joined = linkage(centroids, "average")
    merges, heights = joined[:, :2].astype(np.int64), joined[:, 2]
    distances = np.linalg.norm(x.numpy() - centroids[leaf_of], axis=1)
    order = np.lexsort((distances, leaf_of))
    sizes = np.bincount(leaf_of).tolist()
    typical = order[np.searchsorted(leaf_of[order], np.arange(len(kept)))].tolist()
    largest = list(sizes)
    for left, right in merges.tolist():
        first = left if largest[left] >= largest[right] else right
        sizes.append(sizes[left] + sizes[right])
        typical.append(typical[first])
        largest.append(largest[first])
    return MergeTree(leaf_of.astype(np.int64), merges, heights, np.array(sizes), np.array(typical))
