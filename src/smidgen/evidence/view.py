"""Resolved evidence as NumPy arrays, and what it allows: how many images of each class a bag may hold."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from smidgen.evidence.kinds import LEARNED, all_kinds, kind_of
from smidgen.evidence.resolved import Resolved

_BLOCK = 4096  # images looked at together


class EvidenceView:
    """The evidence as NumPy arrays, those of `Resolved` by their names, with the bag of every membership."""

    def __init__(self, resolved: Resolved, n_clusters: int) -> None:
        self.resolved, self.names = resolved, resolved.class_names
        self.arrays = {name: array.numpy() for name, array in resolved.arrays.items()}
        self.n_clusters = max(n_clusters, len(self.names))
        self.members, self.offsets, self.sizes = (
            tensor.numpy() for tensor in (resolved.members, resolved.offsets, resolved.bag_sizes)
        )
        self.n_bags = len(self.sizes)
        self.lost = resolved.lost.numpy() if len(resolved.lost) else np.zeros(self.n_bags, dtype=np.int64)
        self.bag = np.repeat(np.arange(self.n_bags), self.sizes)
        self.keys = np.unique(self.bag * np.int64(resolved.n_images) + self.members, return_counts=True)
        self.distinct = np.bincount(self.keys[0] // max(1, resolved.n_images), minlength=self.n_bags)
        self.labelled = self._labelled_in_bags()

    def __getattr__(self, name: str) -> np.ndarray:
        if name != "arrays" and name in self.arrays:
            return self.arrays[name]
        raise AttributeError(f"EvidenceView has no {name!r}")

    def _labelled_in_bags(self) -> np.ndarray:
        """Return (bags, clusters) how many labelled images of each class lie in each bag."""
        labels = self.labels[self.members]
        table = np.zeros((self.n_bags, self.n_clusters), dtype=np.int64)
        np.add.at(table, (self.bag[labels >= 0], labels[labels >= 0]), 1)
        return table

    def images_of(self, bag: int) -> np.ndarray:
        """Return the images of a bag; one that is in it twice comes twice."""
        return self.members[self.offsets[bag] : self.offsets[bag + 1]]

    def may_be(self, rows: np.ndarray) -> np.ndarray:
        """Return which classes each of some images may be of, by what is said of single images, (rows, clusters)."""
        allowed = np.ones((len(rows), self.n_clusters), dtype=bool)
        for kind in all_kinds():
            if (own := kind.may_be(self, rows)) is not None:
                allowed &= own
        return allowed

    def all_may_be(self) -> np.ndarray:
        """Return the classes, (clusters,) bool, that every image may be of."""
        starts = range(0, self.resolved.n_images, _BLOCK)
        blocks = [self.may_be(np.arange(s, min(s + _BLOCK, self.resolved.n_images))).all(0) for s in starts]
        return np.logical_and.reduce(blocks, axis=0) if blocks else np.ones(self.n_clusters, dtype=bool)

    def bounds(self, kinds: Collection[str] = LEARNED) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest number of images of each class in each bag, (bags, clusters) int64 each.

        kinds: of evidence, those that are looked at.
        """
        low = np.zeros((self.n_bags, self.n_clusters), dtype=np.int64)
        high = np.repeat(self.sizes[:, None], self.n_clusters, axis=1)
        for kind in kinds:
            kind_of(kind).bounds(self, low, high)
        return low, high

    def counts(self, kinds: Collection[str] = LEARNED) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest number of classes in each bag, (bags,) int64 each."""
        low, high = np.ones(self.n_bags, dtype=np.int64), np.minimum(self.distinct, self.n_clusters)
        if "counts" in kinds:
            low[self.count_bags] = self.counts_min
            high[self.count_bags] = np.minimum(high[self.count_bags], self.counts_max)
        return low, high

    def pure(self) -> np.ndarray:
        """Return the bags (bags,) bool of two or more images that a count or shares say are of one class."""
        _, high = self.bounds(("proportions",))
        return (self.distinct > 1) & ((self.counts()[1] == 1) | ((high > 0).sum(1) == 1))

    def listed(self, bags: np.ndarray) -> str:
        """Return the names of a few bags."""
        names = [repr(self.resolved.bag_names[b]) for b in bags[:3].tolist()]
        return ", ".join(names) + (", …" if len(bags) > 3 else "")

    def classes(self, numbers: np.ndarray) -> str:
        """Return the names of a few classes."""
        return ", ".join(self.names[k] for k in numbers[:5].tolist()) + (", …" if len(numbers) > 5 else "")
