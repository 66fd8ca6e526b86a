"""Evidence as index arrays over one training set."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from smidgen.evidence.kinds import LEARNED, all_kinds, kind_of


class Resolved:
    """Evidence as index arrays over one training set, on the CPU; every part is empty where nothing is known.

    class_names: the classes that the evidence names.
    labels: (n_images,) int64, -1 unknown.
    members, offsets: bags; the images of bag b are `members[offsets[b]:offsets[b + 1]]`. bag_names: their names.
    lost: (bags,) int64, the images of each bag that could not be read and are not in it; empty for none at all.
    arrays: of each kind of evidence those that its file (`evidence.kinds`) names; they are attributes too:
    count_bags, counts_min, counts_max · proportion_bags, proportions · presence_bags, presence · pairs, same · …
    """

    def __init__(
        self,
        n_images: int,
        labels: Tensor | None = None,
        class_names: Sequence[str] = (),
        bag_names: Sequence[str] = (),
        members: Tensor | None = None,
        offsets: Tensor | None = None,
        *,
        lost: Tensor | None = None,
        **arrays: Tensor,
    ) -> None:
        self.n_images, self.class_names, self.bag_names = n_images, tuple(class_names), tuple(bag_names)
        self.members = torch.zeros(0, dtype=torch.int64) if members is None else members
        self.offsets = torch.zeros(1, dtype=torch.int64) if offsets is None else offsets
        self.lost = torch.zeros(0, dtype=torch.int64) if lost is None else lost
        if labels is not None:
            arrays["labels"] = labels
        nothing = {name: value for kind in all_kinds() for name, value in kind.nothing(n_images).items()}
        if strange := arrays.keys() - nothing:
            raise TypeError(f"Resolved has no array {sorted(strange)[0]!r}; there are {', '.join(nothing)}.")
        self.arrays: Mapping[str, Tensor] = {
            name: arrays[name] if name in arrays else torch.from_numpy(value) for name, value in nothing.items()
        }

    def __getattr__(self, name: str) -> Tensor:
        if name != "arrays" and name in self.arrays:
            return self.arrays[name]
        raise AttributeError(f"Resolved has no {name!r}")

    def __repr__(self) -> str:
        return f"Resolved(n_images={self.n_images}, {self.sizes()})"

    @staticmethod
    def nothing(n_images: int) -> Resolved:
        """Return the evidence of someone who knows nothing about `n_images` images."""
        return Resolved(n_images)

    def replaced(self, **changes: Any) -> Resolved:
        """Return the same evidence with other values for some arguments.

        >>> Resolved.nothing(2).replaced(labels=torch.tensor([0, -1]), class_names=("cat",)).labels
        tensor([ 0, -1])
        """
        own = {name: value for name, value in vars(self).items() if name != "arrays"}
        return Resolved(**{**own, **self.arrays, **changes})

    def fingerprint(self) -> str:
        """Return the sha256, as hex, over all that is known: a run is resumed with the same evidence only.

        Arrays of kinds that say nothing are not in it, so that new kinds leave it as it is.
        """
        hasher = hashlib.sha256(repr((self.n_images, self.class_names, self.bag_names)).encode(errors="replace"))
        there = self.sizes()  # without `lost`: the images that are there say as much
        arrays = {"members": self.members, "offsets": self.offsets}
        for kind in all_kinds():
            arrays |= {name: self.arrays[name] for name in kind.nothing(0) if kind.name in there}
        for name, value in arrays.items():
            hasher.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            hasher.update(value.contiguous().numpy().tobytes())
        return hasher.hexdigest()

    def sizes(self) -> dict[str, int]:
        """Return how much there is of each kind that is there: images, bags, or pairs.

        >>> Resolved(3, labels=torch.tensor([0, -1, 1]), class_names=("a", "b")).sizes()
        {'labels': 2}
        """
        numbers = {kind.name: len(kind.known(self)) for kind in all_kinds()}
        return {kind: n for kind, n in numbers.items() if n}

    def bags_known(self, kinds: Collection[str] = LEARNED) -> Tensor:
        """Return the numbers of the bags of which something is known, of some kinds, (m,) int64 in order."""
        bags = [kind.known(self) for kind in map(kind_of, kinds) if kind.about == "bags" and kind.name != "bags"]
        return torch.cat([torch.zeros(0, dtype=torch.int64), *bags]).unique()

    @property
    def bag_sizes(self) -> Tensor:
        """Images per bag, (bags,) int64; an image that is in a bag twice counts twice."""
        return self.offsets.diff()

    def images_of(self, bags: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images of some bags one after the other, and their offsets (bags + 1,)."""
        starts, sizes = self.offsets[bags], self.bag_sizes[bags]
        members = [self.members[s : s + n] for s, n in zip(starts.tolist(), sizes.tolist(), strict=True)]
        return torch.cat([self.members[:0], *members]), torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
