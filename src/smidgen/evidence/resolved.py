"""Evidence as index arrays over one training set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import torch
from torch import Tensor


def _empty(*shape: int, dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


@dataclass(frozen=True)
class Resolved:
    """Evidence as index arrays over one training set, on the CPU; every part is empty where nothing is known.

    class_names: the classes that the evidence names (labels, proportions, presence).
    labels: (n_images,) int64, -1 unknown.
    members, offsets: bags; the images of bag b are `members[offsets[b]:offsets[b + 1]]`. bag_names: their names.
    count_bags, counts_min, counts_max: (counts,) int64, bag numbers and the range of their unique class count.
    proportion_bags, proportions: (m,) int64 and (m, classes) float32, rows sum to one.
    presence_bags, presence: (m,) and (m, classes) int64; 1 present, 0 absent, -1 unknown.
    pairs, same: (pairs, 2) int64 rows of images, (pairs,) bool.
    lost: (bags,) int64, the images of each bag that could not be read and are not in it; empty for none at all.
    """

    n_images: int
    labels: Tensor
    class_names: tuple[str, ...] = ()
    bag_names: tuple[str, ...] = ()
    members: Tensor = field(default_factory=lambda: _empty(0))
    offsets: Tensor = field(default_factory=lambda: _empty(1))
    count_bags: Tensor = field(default_factory=lambda: _empty(0))
    counts_min: Tensor = field(default_factory=lambda: _empty(0))
    counts_max: Tensor = field(default_factory=lambda: _empty(0))
    proportion_bags: Tensor = field(default_factory=lambda: _empty(0))
    proportions: Tensor = field(default_factory=lambda: _empty(0, 0, dtype=torch.float32))
    presence_bags: Tensor = field(default_factory=lambda: _empty(0))
    presence: Tensor = field(default_factory=lambda: _empty(0, 0))
    pairs: Tensor = field(default_factory=lambda: _empty(0, 2))
    same: Tensor = field(default_factory=lambda: _empty(0, dtype=torch.bool))
    lost: Tensor = field(default_factory=lambda: _empty(0))

    @staticmethod
    def nothing(n_images: int) -> Resolved:
        """Return the evidence of someone who knows nothing about `n_images` images."""
        return Resolved(n_images=n_images, labels=torch.full((n_images,), -1))

    def fingerprint(self) -> str:
        """Return the sha256, as hex, over all that is known: a run is resumed with the same evidence only."""
        hasher = hashlib.sha256(repr((self.n_images, self.class_names, self.bag_names)).encode(errors="replace"))
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and name != "lost":  # the images that are there say as much
                hasher.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
                hasher.update(value.contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def sizes(self) -> dict[str, int]:
        """Return how much there is of each kind that is there: images, bags, or pairs.

        >>> Resolved(3, labels=torch.tensor([0, -1, 1]), class_names=("a", "b")).sizes()
        {'labels': 2}
        """
        numbers = {
            "labels": int((self.labels >= 0).sum()),
            "bags": len(self.bag_names),
            "counts": len(self.count_bags),
            "proportions": len(self.proportion_bags),
            "presence": len(self.presence_bags),
            "pairs": len(self.pairs),
        }
        return {kind: n for kind, n in numbers.items() if n}

    @property
    def bag_sizes(self) -> Tensor:
        """Images per bag, (bags,) int64; an image that is in a bag twice counts twice."""
        return self.offsets.diff()
