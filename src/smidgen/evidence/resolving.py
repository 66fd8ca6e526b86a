"""From statements that name images, bags and classes to index arrays over one training set, all of them checked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from smidgen.data.cells import ImageKey
from smidgen.data.collection import natural_key
from smidgen.data.image_index import ImageIndex
from smidgen.data.names import name_of
from smidgen.errors import InputError, unknown
from smidgen.evidence.findings import number_of
from smidgen.evidence.kinds import all_kinds
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.statements import Statements


def resolve(
    evidence: Statements,
    ids: Sequence[str] | np.ndarray,
    *,
    class_names: Sequence[str] | None = None,
    n_clusters: int | None = None,
    skipped: Collection[str] = (),
    keep_contradictory_pairs: bool = False,
    kind_of_images: str = "training images",
    data: Path | str = "",
) -> Resolved:
    """Return the evidence over the images `ids`; see `Evidence.resolve`."""
    images = ImageIndex(ids, skipped=skipped, kind_of_images=kind_of_images, data=data)
    names = _class_names(evidence, class_names, n_clusters)
    walk = Walk(evidence, images, names, n_clusters, keep_contradictory_pairs)
    arrays = {name: array for kind in all_kinds() for name, array in kind.resolve(walk).items()}
    bags = walk.bags
    return Resolved(
        n_images=len(ids),
        class_names=names,
        bag_names=tuple(bags.names),
        members=torch.from_numpy(bags.members),
        offsets=torch.from_numpy(bags.offsets),
        lost=torch.from_numpy(bags.lost if bags.lost.any() else bags.lost[:0]),
        **{name: torch.from_numpy(array) for name, array in arrays.items()},
    )


def _class_names(evidence: Statements, given: Sequence[str] | None, n_clusters: int | None) -> tuple[str, ...]:
    """Return the classes that are named, in the given or the natural order."""
    named = {label: (kind, i) for kind, i, label in reversed(list(evidence.class_mentions()))}
    for label, (kind, i) in named.items():
        if not isinstance(label, str):
            raise InputError(
                f"{evidence.where(kind, i)}: a class must be a text, got {label!r}; `Evidence.from_labels` and the like"
                " make texts of numbers."
            )
    if given is not None:
        wanted = [name_of(name) for name in given]
        for label, (kind, i) in named.items():
            if label not in wanted:
                raise InputError(f"{evidence.where(kind, i)}: {unknown('class', label, wanted)}")
        names = tuple(name for name in wanted if name in named)
    else:
        names = tuple(sorted(named, key=natural_key))
    if n_clusters is not None and len(names) > n_clusters:
        raise InputError(
            f"The evidence names {len(names)} classes ({', '.join(names[:5])}{', …' if len(names) > 5 else ''}), more"
            f" than the {number_of(n_clusters, 'cluster')} asked for; ask for at least {len(names)}."
        )
    return names


@dataclass(frozen=True)
class Bags:
    """names: name → number. members, offsets: as in `Resolved`. lost: per bag, how many images were skipped.

    distinct: per bag, how many different images it had before. gone: names of bags of which all images were skipped.
    """

    names: dict[str, int]
    members: np.ndarray
    offsets: np.ndarray
    lost: np.ndarray
    distinct: np.ndarray
    gone: frozenset[str]

    def size_before(self, bag: int) -> int:
        """Return how many images a bag had, those that were skipped among them."""
        return int(self.offsets[bag + 1] - self.offsets[bag] + self.lost[bag])


@dataclass(frozen=True)
class Walk:
    """What a kind of evidence needs to resolve its statements.

    names: of the classes, in order. n_clusters: None where any number is possible.
    """

    evidence: Statements
    images: ImageIndex
    names: tuple[str, ...]
    n_clusters: int | None
    keep_contradictory_pairs: bool

    @property
    def ids(self) -> np.ndarray:
        """The ids of the images, by row."""
        return np.asarray(self.images.ids)

    @property
    def n_images(self) -> int:
        """How many images there are."""
        return len(self.ids)

    @cached_property
    def number(self) -> dict[str, int]:
        """The number of each class."""
        return {name: k for k, name in enumerate(self.names)}

    def where(self, table: str, i: int) -> str:
        """Return where a statement comes from, for messages."""
        return self.evidence.where(table, i)

    def rows(self, table: str, keys: Sequence[ImageKey]) -> np.ndarray:
        """Return the row of each image that statements name, below 0 for one that could not be read."""
        return self.images.rows(
            keys,
            where=lambda i: self.where(table, i),
            source=self.evidence.source(table),
            folders=self.evidence.folders_of_runs(table),
        )

    def bag(self, table: str, i: int) -> int | None:
        """Return the number of the bag that a statement is about, None if all its images were skipped."""
        name, names = self.evidence.tables[table][i][0], self.bags.names
        if name in names:
            return names[name]
        if name in self.bags.gone:
            return None
        known = f"the bags known are {', '.join(list(names)[:3])}, …" if names else "no bag has images"
        raise InputError(
            f"{self.where(table, i)}: bag {name!r} has no images ({known}); list them as bag,image in bags.csv."
        )

    @cached_property
    def bags(self) -> Bags:
        """The bags; those of which no image is left are dropped."""
        statements = self.evidence.bags
        names: dict[str, int] = {}
        numbers = np.fromiter((names.setdefault(bag, len(names)) for bag, _ in statements), np.int64, len(statements))
        rows = self.rows("bags", [image for _, image in statements])
        kept = rows >= 0
        lost = np.bincount(numbers[~kept], minlength=len(names))
        left = np.bincount(numbers[kept], minlength=len(names))
        gone = frozenset(name for name, b in names.items() if left[b] == 0)
        renumbered = np.cumsum(left > 0) - 1
        bag, row = renumbered[numbers[kept]], rows[kept]
        order = np.argsort(bag, kind="stable")
        alive = left > 0
        distinct = np.unique(bag * self.n_images + row) // max(1, self.n_images)
        return Bags(
            names={name: int(renumbered[b]) for name, b in names.items() if alive[b]},
            members=row[order],
            offsets=np.concatenate([[0], np.cumsum(left[alive])]).astype(np.int64),
            lost=lost[alive],
            distinct=np.bincount(distinct, minlength=int(alive.sum())) + lost[alive],
            gone=gone,
        )
