"""Resolved evidence as NumPy arrays, and what it allows: how many images of each class a bag may hold."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from smidgen.evidence.resolved import Resolved

KINDS = ("labels", "counts", "shares", "presence")
"""The kinds of statements that bear on what a bag holds."""

_WHOLE = 0.1  # images: what a share may be off a whole number for having been rounded
_ROUNDED = 0.005  # of shares given in whole percent


class EvidenceView:
    """The evidence as NumPy arrays, with the bag of every membership."""

    def __init__(self, resolved: Resolved, n_clusters: int) -> None:
        self.resolved, self.names = resolved, resolved.class_names
        self.n_clusters = max(n_clusters, len(self.names))
        self.labels, self.members = resolved.labels.numpy(), resolved.members.numpy()
        self.offsets, self.sizes = resolved.offsets.numpy(), resolved.bag_sizes.numpy()
        self.n_bags = len(self.sizes)
        self.lost = resolved.lost.numpy() if len(resolved.lost) else np.zeros(self.n_bags, dtype=np.int64)
        self.bag = np.repeat(np.arange(self.n_bags), self.sizes)
        self.keys = np.unique(self.bag * np.int64(resolved.n_images) + self.members, return_counts=True)
        self.distinct = np.bincount(self.keys[0] // max(1, resolved.n_images), minlength=self.n_bags)
        self.count_bags, self.least = resolved.count_bags.numpy(), resolved.counts_min.numpy()
        self.largest = resolved.counts_max.numpy()
        self.share_bags, self.shares = resolved.proportion_bags.numpy(), resolved.proportions.numpy()
        self.presence_bags, self.presence = resolved.presence_bags.numpy(), resolved.presence.numpy()
        self.pairs, self.same = resolved.pairs.numpy(), resolved.same.numpy()
        self.labelled = self._labelled_in_bags()

    def _labelled_in_bags(self) -> np.ndarray:
        """Return (bags, clusters) how many labelled images of each class lie in each bag."""
        labels = self.labels[self.members]
        table = np.zeros((self.n_bags, self.n_clusters), dtype=np.int64)
        np.add.at(table, (self.bag[labels >= 0], labels[labels >= 0]), 1)
        return table

    def images_of(self, bag: int) -> np.ndarray:
        """Return the images of a bag; one that is in it twice comes twice."""
        return self.members[self.offsets[bag] : self.offsets[bag + 1]]

    def bounds(self, kinds: Collection[str] = KINDS) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest number of images of each class in each bag, (bags, clusters) int64 each.

        A share is a whole number of images where all of the bag's are, give or take rounding; otherwise one of the
        whole numbers around it. A class without a share, or without a name beside shares, is not in the bag. Images
        of the bag that could not be read may have been of any class.
        """
        low = np.zeros((self.n_bags, self.n_clusters), dtype=np.int64)
        high = np.repeat(self.sizes[:, None], self.n_clusters, axis=1)
        if "shares" in kinds and len(self.share_bags):
            low[self.share_bags], high[self.share_bags] = self._by_shares()
        if "presence" in kinds and len(self.presence_bags):
            stated = np.full((len(self.presence), self.n_clusters), -1)
            stated[:, : len(self.names)] = self.presence
            low[self.presence_bags] = np.maximum(low[self.presence_bags], stated == 1)
            high[self.presence_bags] = np.where(stated == 0, 0, high[self.presence_bags])
        if "labels" in kinds:
            low = np.maximum(low, self.labelled)
            others = self.labelled.sum(1, keepdims=True) - self.labelled
            high = np.minimum(high, self.sizes[:, None] - others)
        return low, high

    def _by_shares(self) -> tuple[np.ndarray, np.ndarray]:
        lost = self.lost[self.share_bags, None]
        sizes = self.sizes[self.share_bags, None] + lost
        images = np.zeros((len(self.shares), self.n_clusters))
        images[:, : len(self.names)] = self.shares.astype(np.float64) * sizes
        nearest = np.rint(images)
        whole = (np.abs(images - nearest) <= _WHOLE).all(1, keepdims=True) & (nearest.sum(1, keepdims=True) == sizes)
        low = np.where(whole, nearest, np.floor(images - _ROUNDED * sizes))
        high = np.where(whole, nearest, np.ceil(images + _ROUNDED * sizes))
        low, high = (np.where(images > 0, side, 0) for side in (low - lost, high))
        return low.clip(0).astype(np.int64), high.clip(0).astype(np.int64)

    def counts(self, kinds: Collection[str] = KINDS) -> tuple[np.ndarray, np.ndarray]:
        """Return the least and the largest number of classes in each bag, (bags,) int64 each."""
        least, largest = np.ones(self.n_bags, dtype=np.int64), np.minimum(self.distinct, self.n_clusters)
        if "counts" in kinds:
            least[self.count_bags] = self.least
            largest[self.count_bags] = np.minimum(largest[self.count_bags], self.largest)
        return least, largest

    def pure(self) -> np.ndarray:
        """Return the bags (bags,) bool of two or more images that a count or shares say are of one class."""
        _, high = self.bounds(("shares",))
        return (self.distinct > 1) & ((self.counts()[1] == 1) | ((high > 0).sum(1) == 1))

    def listed(self, bags: np.ndarray) -> str:
        """Return the names of a few bags."""
        names = [repr(self.resolved.bag_names[b]) for b in bags[:3].tolist()]
        return ", ".join(names) + (", …" if len(bags) > 3 else "")

    def classes(self, numbers: np.ndarray) -> str:
        """Return the names of a few classes."""
        return ", ".join(self.names[k] for k in numbers[:5].tolist()) + (", …" if len(numbers) > 5 else "")


def number_of(n: int, one: str, many: str | None = None) -> str:
    """Return a number and what it counts.

    >>> number_of(1, "bag"), number_of(2000, "bag")
    ('1 bag', '2,000 bags')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
