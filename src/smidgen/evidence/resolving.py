"""From statements that name images, bags and classes to index arrays over one training set, all of them checked."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from scipy.sparse import coo_matrix, csgraph
from torch import Tensor

from smidgen.data.cells import ImageKey
from smidgen.data.collection import natural_key
from smidgen.data.image_index import ImageIndex
from smidgen.data.names import name_of
from smidgen.errors import InputError, unknown
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
    walk = _Walk(evidence, ImageIndex(ids, skipped=skipped, kind_of_images=kind_of_images, data=data))
    names = _class_names(evidence, class_names, n_clusters)
    labels = walk.labels(names)
    bags = walk.bags()
    return Resolved(
        n_images=len(ids),
        labels=labels,
        class_names=names,
        bag_names=tuple(bags.names),
        members=torch.from_numpy(bags.members),
        offsets=torch.from_numpy(bags.offsets),
        lost=torch.from_numpy(bags.lost if bags.lost.any() else bags.lost[:0]),
        **_fields("count_bags counts_min counts_max", _counts(evidence, bags, n_clusters)),
        **_fields("proportion_bags proportions", _proportions(evidence, bags, names)),
        **_fields("presence_bags presence", _presence(evidence, bags, names)),
        **_fields("pairs same", walk.pairs(keep_contradictory_pairs)),
    )


def _fields(names: str, arrays: Iterable[np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(array) for name, array in zip(names.split(), arrays, strict=True)}


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
            f"The evidence names {len(names)} classes ({', '.join(names[:5])}, …), but there are {n_clusters} clusters;"
            f" ask for at least {len(names)}."
        )
    return names


@dataclass
class _Bags:
    """names: name → number. members, offsets: as in `Resolved`. lost: per bag, how many images were skipped.

    distinct: per bag, how many different images it had before.
    """

    names: dict[str, int]
    members: np.ndarray
    offsets: np.ndarray
    lost: np.ndarray
    distinct: np.ndarray
    gone: frozenset[str]

    def number(self, evidence: Statements, kind: str, i: int) -> int | None:
        """Return the number of the bag that a statement is about, None if all its images were skipped."""
        name = getattr(evidence, kind)[i][0]
        if name in self.names:
            return self.names[name]
        if name in self.gone:
            return None
        known = f"the bags known are {', '.join(list(self.names)[:3])}, …" if self.names else "no bag has images"
        raise InputError(
            f"{evidence.where(kind, i)}: bag {name!r} has no images ({known}); list them as bag,image in bags.csv."
        )


class _Walk:
    """Turns image keys into rows, and the statements about images and bags of images into arrays."""

    def __init__(self, evidence: Statements, images: ImageIndex) -> None:
        self.evidence, self.images, self.ids = evidence, images, images.ids

    def rows(self, kind: str, keys: Sequence[ImageKey]) -> np.ndarray:
        """Return the row of each image that statements of a kind name, below 0 for one that could not be read."""
        return self.images.rows(
            keys,
            where=lambda i: self.evidence.where(kind, i),
            source=self.evidence.source(kind),
            folders=self.evidence.folders_of_runs(kind),
        )

    def labels(self, names: tuple[str, ...]) -> Tensor:
        statements = self.evidence.labels
        number = {name: k for k, name in enumerate(names)}
        rows = self.rows("labels", [image for image, _ in statements])
        classes = np.array([number[label] for _, label in statements], dtype=np.int64)
        result = np.full(len(self.ids), -1, dtype=np.int64)
        result[rows[rows >= 0][::-1]] = classes[rows >= 0][::-1]  # the first statement about an image stays
        known = np.flatnonzero(rows >= 0)
        wrong = known[result[rows[known]] != classes[known]]
        if len(wrong):
            i = int(wrong[0])
            j = int(np.flatnonzero((rows == rows[i]) & (classes == result[rows[i]]))[0])
            raise InputError(
                f"{self.evidence.where('labels', i)}: image {statements[i][0]!r} is labelled {statements[i][1]!r},"
                f" but {self.evidence.where('labels', j)} labels it {statements[j][1]!r}; keep one."
            )
        return torch.from_numpy(result)

    def bags(self) -> _Bags:
        statements = self.evidence.bags
        names: dict[str, int] = {}
        numbers = np.fromiter((names.setdefault(bag, len(names)) for bag, _ in statements), np.int64, len(statements))
        rows = self.rows("bags", [image for _, image in statements])
        kept = rows >= 0
        lost = np.bincount(numbers[~kept], minlength=len(names))
        left = np.bincount(numbers[kept], minlength=len(names))
        gone = frozenset(name for name, b in names.items() if left[b] == 0)
        renumbered = np.cumsum(left > 0) - 1  # bags of which no image is left are dropped
        bag, row = renumbered[numbers[kept]], rows[kept]
        order = np.argsort(bag, kind="stable")
        alive = left > 0
        distinct = np.unique(bag * len(self.ids) + row) // max(1, len(self.ids))
        return _Bags(
            names={name: int(renumbered[b]) for name, b in names.items() if alive[b]},
            members=row[order],
            offsets=np.concatenate([[0], np.cumsum(left[alive])]).astype(np.int64),
            lost=lost[alive],
            distinct=np.bincount(distinct, minlength=int(alive.sum())) + lost[alive],
            gone=gone,
        )

    def pairs(self, keep_contradictory: bool) -> tuple[np.ndarray, np.ndarray]:
        statements, n = self.evidence.pairs, len(self.ids)
        ends = [self.rows("pairs", [pair[side] for pair in statements]) for side in (0, 1)]
        same = np.array([s for _, _, s in statements], dtype=bool)
        numbers = np.flatnonzero((ends[0] >= 0) & (ends[1] >= 0))
        a, b, same = np.minimum(*ends)[numbers], np.maximum(*ends)[numbers], same[numbers]
        if (a == b).any():
            i = int(numbers[np.flatnonzero(a == b)[0]])
            raise InputError(
                f"{self.evidence.where('pairs', i)}: image {statements[i][0]!r} is paired with itself; a pair is two"
                " images."
            )
        if not keep_contradictory:
            self._refuse_contradictions(a, b, same, numbers)
        _, first = np.unique(np.stack([a * n + b, same]), axis=1, return_index=True)
        first.sort()
        return np.stack([a, b], 1)[first], same[first]

    def _refuse_contradictions(self, a: np.ndarray, b: np.ndarray, same: np.ndarray, numbers: np.ndarray) -> None:
        """Raise if a pair is given as different whose images are the same, directly or through others."""
        n = len(self.ids)
        graph = coo_matrix((np.ones(int(same.sum())), (a[same], b[same])), shape=(n, n)).tocsr()
        _, group = csgraph.connected_components(graph, directed=False)
        wrong = np.flatnonzero(~same & (group[a] == group[b]))
        if len(wrong) == 0:
            return
        i = int(wrong[0])
        chain = _shortest_chain(graph, int(a[i]), int(b[i]))
        steps = [{start, end} for start, end in pairwise(chain)]
        said = [int(numbers[j]) for j in np.flatnonzero(same) if {int(a[j]), int(b[j])} in steps]
        places = ", ".join(self.evidence.where("pairs", j) for j in said[:4])
        raise InputError(
            f"{self.evidence.where('pairs', int(numbers[i]))}: {self.ids[a[i]]!r} and {self.ids[b[i]]!r} are given as"
            f" different, but as the same by {places}"
            f"{' together' if len(said) > 1 else ''} ({len(wrong)} such contradictions in all); drop one of them,"
            " or keep all with `keep_contradictory_pairs`: the losses bear some errors."
        )


def _shortest_chain(graph: coo_matrix, start: int, end: int) -> list[int]:
    _, before = csgraph.breadth_first_order(graph, start, directed=False)
    chain = [end]
    while chain[-1] != start:
        chain.append(int(before[chain[-1]]))
    return chain


# ----------------------------------------------------------------------------------------------- statements about bags


def _counts(evidence: Statements, bags: _Bags, n_clusters: int | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    ranges: dict[int, tuple[int, int]] = {}
    first: dict[int, int] = {}
    for i, (name, least, largest) in enumerate(evidence.counts):
        bag = bags.number(evidence, "counts", i)
        if bag is None:
            continue
        ranges_here = _count_range(evidence, i, bags, bag, n_clusters)
        if ranges.setdefault(bag, ranges_here) != ranges_here:
            raise InputError(
                f"{evidence.where('counts', i)}: bag {name!r} has count {_range_words(least, largest)}, but"
                f" {evidence.where('counts', first[bag])} gives {_range_words(*evidence.counts[first[bag]][1:])};"
                " keep one."
            )
        first.setdefault(bag, i)
    table = np.array([(bag, *ranges[bag]) for bag in sorted(ranges)], dtype=np.int64).reshape(-1, 3)
    return table[:, 0].copy(), table[:, 1].copy(), table[:, 2].copy()


def _count_range(evidence: Statements, i: int, bags: _Bags, bag: int, n_clusters: int | None) -> tuple[int, int]:
    name, least, largest = evidence.counts[i]
    place = f"{evidence.where('counts', i)}: bag {name!r} has count {_range_words(least, largest)}"
    if least < 1:
        raise InputError(f"{place}, but a bag of images holds at least 1 class.")
    if largest is not None and largest < least:
        raise InputError(f"{place}: the least is above the largest; swap them.")
    size, lost = int(bags.distinct[bag]), int(bags.lost[bag])
    if least > size:
        raise InputError(f"{place}, more than its {size} different images can show.")
    if n_clusters is not None and least > n_clusters:
        raise InputError(f"{place}, more than the {n_clusters} clusters asked for; raise the number of clusters.")
    limit = min(size - lost, n_clusters or size)
    # Each image that could not be read may have been the only one of its class.
    return max(1, least - lost), max(1, min(limit if largest is None else largest, limit))


def _range_words(least: int, largest: int | None) -> str:
    return str(least) if least == largest else f"{least} to {largest}" if largest is not None else f"{least} or more"


def _proportions(evidence: Statements, bags: _Bags, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    shares = _by_bag(evidence, bags, names, "proportions")
    counts = _by_bag(evidence, bags, names, "class_counts")
    rows: dict[int, np.ndarray] = {}
    for bag, (first, terms, row) in shares.items():
        place = f"{evidence.where('proportions', first)}: the shares of bag {evidence.proportions[first][0]!r}"
        total = float(row.sum())
        if not abs(total - 1) <= 0.01 + 0.005 * terms:  # shares rounded to whole percent are ordinary
            hint = "; give fractions, not percent" if abs(total - 100) <= 1 + 0.5 * terms else ""
            raise InputError(f"{place} sum to {total:.4g}, not to 1{hint}.")
        rows[bag] = row / total
    for bag, (first, _, row) in counts.items():
        name, size = evidence.class_counts[first][0], int(bags.offsets[bag + 1] - bags.offsets[bag] + bags.lost[bag])
        place = f"{evidence.where('class_counts', first)}: the class counts of bag {name!r}"
        if bag in rows:
            raise InputError(f"{place} come on top of its shares; keep one of the two.")
        if round(float(row.sum())) != size:
            raise InputError(f"{place} sum to {row.sum():.0f}, but it has {size} images.")
        rows[bag] = row / size
    order = sorted(rows)
    table = np.stack([rows[bag] for bag in order]) if rows else np.zeros((0, len(names)))
    return np.array(order, dtype=np.int64), table.astype(np.float32)


def _by_bag(
    evidence: Statements, bags: _Bags, names: tuple[str, ...], kind: str
) -> dict[int, tuple[int, int, np.ndarray]]:
    """Return for each bag the first statement about it, how many there are, and the values by class."""
    number = {name: k for k, name in enumerate(names)}
    found: dict[int, tuple[int, int, np.ndarray]] = {}
    seen: dict[tuple[int, int], int] = {}
    for i, (name, label, value) in enumerate(getattr(evidence, kind)):
        bag = bags.number(evidence, kind, i)
        if bag is None:
            continue
        if not 0 <= value < np.inf:
            raise InputError(
                f"{evidence.where(kind, i)}: bag {name!r} holds {value:g} of {label!r}; 0 or more is wanted."
            )
        j = seen.setdefault((bag, number[label]), i)
        if j != i:
            raise InputError(
                f"{evidence.where(kind, i)}: class {label!r} of bag {name!r} was already given at"
                f" {evidence.where(kind, j)}; keep one."
            )
        first, terms, row = found.get(bag, (i, 0, np.zeros(len(names))))
        row[number[label]] = value
        found[bag] = (first, terms + 1, row)
    return found


def _presence(evidence: Statements, bags: _Bags, names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    number = {name: k for k, name in enumerate(names)}
    rows: dict[int, np.ndarray] = {}
    seen: dict[tuple[int, int], int] = {}
    for i, (name, label, present) in enumerate(evidence.presence):
        bag = bags.number(evidence, "presence", i)
        if bag is None or (present and bags.lost[bag]):  # the image that showed it may be the one that is lost
            continue
        row, k = rows.setdefault(bag, np.full(len(names), -1, dtype=np.int64)), number[label]
        j = seen.setdefault((bag, k), i)
        if row[k] not in (-1, int(present)):
            raise InputError(
                f"{evidence.where('presence', i)}: class {label!r} is {'present' if present else 'absent'} in bag"
                f" {name!r}, but {evidence.where('presence', j)} says the opposite; keep one."
            )
        row[k] = present
    order = sorted(rows)
    table = np.stack([rows[bag] for bag in order]) if rows else np.zeros((0, len(names)), np.int64)
    return np.array(order, dtype=np.int64), table
