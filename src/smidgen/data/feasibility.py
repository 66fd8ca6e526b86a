"""What the evidence can and cannot determine, in words, before any training."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.sparse import coo_matrix, csgraph

from smidgen.data.resolved import Resolved

Level = Literal["problem", "warning", "note"]


@dataclass(frozen=True)
class Finding:
    """One thing to know about the evidence.

    level: "problem" (statements contradict each other), "warning" (something stays undetermined), "note".
    text: what was found. remedy: what to add or change, "" where nothing needs to be.
    """

    level: Level
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.level}: {self.text}" + (f" {self.remedy}" if self.remedy else "")


def feasibility(resolved: Resolved, n_clusters: int) -> list[Finding]:
    """Return what the evidence cannot determine, where it contradicts itself, and what to add; problems first.

    n_clusters: how many clusters are asked for.

    >>> for finding in feasibility(Resolved.nothing(100), 10):
    ...     print(finding)
    note: No evidence: clusters are found by looks alone and carry numbers. Label one image of each class to name them.
    """
    view = _View(resolved)
    checks = (_nothing, _naming, _labels, _pairs, _bags, _counts, _class_bags, _against_labels, _against_shares)
    found = [finding for check in checks for finding in check(view, n_clusters)]
    return sorted(found, key=lambda finding: ("problem", "warning", "note").index(finding.level))


class _View:
    """The evidence as NumPy arrays, with the bag of every membership."""

    def __init__(self, resolved: Resolved) -> None:
        self.resolved, self.names = resolved, resolved.class_names
        self.labels, self.members = resolved.labels.numpy(), resolved.members.numpy()
        self.sizes = resolved.bag_sizes.numpy()
        self.n_bags = len(self.sizes)
        self.bag = np.repeat(np.arange(self.n_bags), self.sizes)
        self.count_bags, self.least = resolved.count_bags.numpy(), resolved.counts_min.numpy()
        self.largest = resolved.counts_max.numpy()
        self.share_bags, self.shares = resolved.proportion_bags.numpy(), resolved.proportions.numpy()
        self.presence_bags, self.presence = resolved.presence_bags.numpy(), resolved.presence.numpy()
        self.pairs, self.same = resolved.pairs.numpy(), resolved.same.numpy()

    def labelled_in_bags(self) -> np.ndarray:
        """Return (bags, classes) how many labelled images of each class lie in each bag."""
        labels = self.labels[self.members]
        table = np.zeros((self.n_bags, len(self.names)), dtype=np.int64)
        np.add.at(table, (self.bag[labels >= 0], labels[labels >= 0]), 1)
        return table

    def listed(self, bags: np.ndarray) -> str:
        """Return the names of a few bags."""
        names = [repr(self.resolved.bag_names[b]) for b in bags[:3].tolist()]
        return ", ".join(names) + (", …" if len(bags) > 3 else "")

    def classes(self, numbers: np.ndarray) -> str:
        """Return the names of a few classes."""
        return ", ".join(self.names[k] for k in numbers[:5].tolist()) + (", …" if len(numbers) > 5 else "")


def _number(n: int, one: str, many: str | None = None) -> str:
    return f"{n:,} {one if n == 1 else many or one + 's'}"


def _nothing(view: _View, n_clusters: int) -> Iterator[Finding]:
    if not (view.n_bags or len(view.pairs) or (view.labels >= 0).any()):
        yield Finding(
            "note",
            "No evidence: clusters are found by looks alone and carry numbers.",
            "Label one image of each class to name them.",
        )
    elif view.n_bags and not (len(view.count_bags) or len(view.share_bags) or len(view.presence_bags)):
        yield Finding(
            "warning",
            f"Nothing is said about the {_number(view.n_bags, 'bag')}.",
            "Add counts, proportions or presence.",
        )


def _naming(view: _View, n_clusters: int) -> Iterator[Finding]:
    known = bool(view.n_bags or len(view.pairs) or (view.labels >= 0).any())
    if known and not view.names:
        yield Finding(
            "note", "Nothing names a class, so clusters carry numbers.", "Label one image of each class to name them."
        )
    elif view.names and len(view.names) < n_clusters:
        yield Finding(
            "warning",
            f"The evidence names {_number(len(view.names), 'class', 'classes')}, but {n_clusters}"
            " clusters are asked for: the others carry numbers and split or gather what is left.",
            f"Ask for {len(view.names)} clusters, or name the other classes.",
        )


def _labels(view: _View, n_clusters: int) -> Iterator[Finding]:
    labelled = view.labels[view.labels >= 0]
    if not len(labelled):
        return
    per_class = np.bincount(labelled, minlength=len(view.names))
    few = np.flatnonzero(per_class == 0)
    if len(few) and not len(view.share_bags):
        yield Finding(
            "warning", f"No image is labelled {view.classes(few)}.", "Label at least one image of each class."
        )
    if per_class.max() > 10 * max(1, per_class[per_class > 0].min()):
        rare, common = int(per_class[per_class > 0].min()), int(per_class.max())
        yield Finding(
            "note",
            f"Labels are uneven: {view.names[int(per_class.argmax())]} has {common:,}, another class only {rare:,}.",
            "Label more images of the rare classes.",
        )


def _pairs(view: _View, n_clusters: int) -> Iterator[Finding]:
    if not len(view.pairs):
        return
    if view.same.all() and not (view.labels >= 0).any() and not view.n_bags:
        yield Finding(
            "warning",
            "All pairs are of the same class: they never tell two classes apart, so clusters may merge.",
            "Add pairs of different classes.",
        )
    contradictory = _torn_pairs(view)
    if contradictory:
        yield Finding(
            "problem",
            f"{_number(contradictory, 'pair')} of different classes joined by a chain of pairs of the same class.",
            "Look at these again: one link of each chain is wrong.",
        )
    labels = view.labels[view.pairs]
    both = (labels >= 0).all(1)
    wrong = both & ((labels[:, 0] == labels[:, 1]) != view.same)
    if wrong.any():
        a, b = view.pairs[np.flatnonzero(wrong)[0]].tolist()
        yield Finding(
            "problem",
            f"{_number(int(wrong.sum()), 'pair')} against labels (first: images in rows {a} and {b}, labelled"
            f" {view.names[view.labels[a]]} and {view.names[view.labels[b]]}).",
            "Correct the pair or the label.",
        )


def _torn_pairs(view: _View) -> int:
    """Return how many pairs of different classes are joined by pairs of the same class."""
    a, b = view.pairs[view.same].T
    n = view.resolved.n_images
    _, groups = csgraph.connected_components(coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)
    ends = groups[view.pairs[~view.same]]
    return int((ends[:, 0] == ends[:, 1]).sum())


def _bags(view: _View, n_clusters: int) -> Iterator[Finding]:
    if not view.n_bags:
        return
    keys = view.bag * np.int64(view.resolved.n_images) + view.members
    distinct, times = np.unique(keys, return_counts=True)
    if (times > 1).any():
        bags = np.unique(distinct[times > 1] // view.resolved.n_images)
        yield Finding(
            "note",
            f"In {_number(len(bags), 'bag')} an image is there twice ({view.listed(bags)}): the copy tells nothing.",
        )
    images, uses = np.unique(distinct % view.resolved.n_images, return_counts=True)
    share = len(images) / view.resolved.n_images
    if (uses > 1).any():
        yield Finding(
            "note", f"Bags overlap: {(uses > 1).mean():.0%} of their images are in more than one, {uses.max()} at most."
        )
    if share < 0.5:
        yield Finding("note", f"{share:.0%} of the images are in a bag; the others are placed by what they look like.")
    yield from _same_bags(view)


def _same_bags(view: _View) -> Iterator[Finding]:
    starts = view.resolved.offsets.numpy()
    seen: dict[bytes, int] = {}
    twins = []
    for b in range(view.n_bags):
        key = np.sort(view.members[starts[b] : starts[b + 1]]).tobytes()
        if seen.setdefault(key, b) != b:
            twins.append(b)
    if twins:
        yield Finding(
            "note",
            f"In {_number(len(twins), 'bag')} are exactly the images of another ({view.listed(np.array(twins))}).",
            "Drop the copies: they count the same knowledge twice.",
        )


def _counts(view: _View, n_clusters: int) -> Iterator[Finding]:
    if not len(view.count_bags):
        return
    limit = np.minimum(view.sizes[view.count_bags], n_clusters)
    empty = (view.least == 1) & (view.largest >= limit)
    if empty.any():
        yield Finding(
            "warning",
            f"In {_number(int(empty.sum()), 'bag')} ({view.listed(view.count_bags[empty])}) any count is allowed: that"
            " says nothing.",
            "Narrow the ranges.",
        )
    known = view.least == view.largest
    pure = known & (view.least == 1) & (view.sizes[view.count_bags] > 1)
    if not pure.any() and not len(view.share_bags) and not (view.labels >= 0).any():
        yield Finding(
            "warning",
            "No bag is known to hold a single class: counts alone then leave it open which images belong together, and"
            " clusters may stay merged or split.",
            "Add bags of one class, a few labels, or pairs.",
        )
    if known.all() and (view.least == 1).all():
        yield Finding(
            "warning",
            "Every bag holds a single class: nothing tells two classes apart, and one cluster for all would fit.",
            "Add bags of several classes.",
        )
    elif known.all() and len(np.unique(view.least)) == 1 and view.least[0] > 1:
        yield Finding(
            "warning", f"Every bag holds exactly {view.least[0]} classes: a constant.", "Add bags with other counts."
        )
    yield from _bag_sizes(view, n_clusters)


def _bag_sizes(view: _View, n_clusters: int) -> Iterator[Finding]:
    """Compare images per class with the bag size: a bag of one class wants that many images of it."""
    per_class = view.resolved.n_images / n_clusters
    largest = int(view.sizes.max())
    if largest > per_class:
        yield Finding(
            "note",
            f"The largest bag has {largest:,} images, and a class has about {per_class:,.0f}: bags share many images"
            " and tell less than their number suggests.",
            "Smaller bags tell more.",
        )


def _class_bags(view: _View, n_clusters: int) -> Iterator[Finding]:
    """Which classes are in which bags, where shares or presence say so."""
    if not (len(view.share_bags) or len(view.presence_bags)):
        return
    present = np.concatenate([part for part in (view.shares > 0, view.presence == 1) if len(part)])
    missing = np.flatnonzero(~present.any(0))
    if len(missing):
        alone = np.isin(missing, view.labels)
        where = "no bag" + (" and no label" if not alone.any() else "")
        yield Finding(
            "warning", f"{view.classes(missing)} is in {where}.", "Add bags that hold it, or label images of it."
        )
    if len(view.share_bags):
        there = np.flatnonzero(view.shares.any(0))
        yield from _alike(view, there)
        yield from _never_together(view, there)


def _alike(view: _View, there: np.ndarray) -> Iterator[Finding]:
    """Classes whose shares do not vary apart from each other."""
    scaled = view.shares[:, there] / view.shares[:, there].sum(0)
    alike = [
        (a, b) for a, b in combinations(range(len(there)), 2) if np.allclose(scaled[:, a], scaled[:, b], atol=1e-6)
    ]
    if alike:
        names = "; ".join(f"{view.names[there[a]]} and {view.names[there[b]]}" for a, b in alike[:3])
        yield Finding(
            "warning",
            f"The shares of these classes go up and down together, so nothing tells them apart: {names}.",
            "Add bags that hold one without the other, or label images of both.",
        )
    elif (rank := int(np.linalg.matrix_rank(view.shares[:, there], tol=1e-4))) < len(there):
        yield Finding(
            "warning",
            f"The shares vary in {rank} directions only, for {len(there)} classes: some cannot be told apart.",
            "Add bags of other compositions.",
        )


def _never_together(view: _View, there: np.ndarray) -> Iterator[Finding]:
    held = (view.shares[:, there] > 0).astype(np.int64)
    meets = held.T @ held
    pure = (held.sum(1) == 1).sum()
    apart = [(there[i], there[j]) for i, j in combinations(range(len(there)), 2) if meets[i, j] == 0]
    if apart:
        names = "; ".join(f"{view.names[a]} and {view.names[b]}" for a, b in apart[:3])
        more = ", …" if len(apart) > 3 else ""
        yield Finding(
            "note",
            f"{_number(len(apart), 'pair')} of classes never meet in a bag ({names}{more}); they are told apart only by"
            f" the other classes of their bags{'' if pure else ', and no bag holds a single class'}.",
        )


def _against_labels(view: _View, n_clusters: int) -> Iterator[Finding]:
    """Labelled images that a bag's count, shares or presence rule out."""
    if not view.n_bags or not (view.labels >= 0).any():
        return
    table = view.labelled_in_bags()
    shown = (table[view.count_bags] > 0).sum(1)
    yield from _conflict(
        view, view.count_bags[shown > view.largest], "labelled images show more classes than the count says"
    )
    if len(view.share_bags):
        ruled_out = ((table[view.share_bags] > 0) & (view.shares == 0)).any(1)
        yield from _conflict(view, view.share_bags[ruled_out], "there is a labelled image of a class whose share is 0")
    if len(view.presence_bags):
        absent = ((table[view.presence_bags] > 0) & (view.presence == 0)).any(1)
        yield from _conflict(view, view.presence_bags[absent], "there is a labelled image of a class said to be absent")


def _against_shares(view: _View, n_clusters: int) -> Iterator[Finding]:
    """Counts, shares and presence of the same bag that do not agree."""
    share_row = np.full(view.n_bags, -1)
    share_row[view.share_bags] = np.arange(len(view.share_bags))
    both = share_row[view.count_bags] >= 0
    held = (view.shares[share_row[view.count_bags[both]]] > 0).sum(1)
    wrong = (held < view.least[both]) | (held > view.largest[both])
    yield from _conflict(view, view.count_bags[both][wrong], "the number of shares above 0 is not the count")
    both = share_row[view.presence_bags] >= 0
    shares = view.shares[share_row[view.presence_bags[both]]]
    stated = view.presence[both]
    wrong = (((stated == 0) & (shares > 0)) | ((stated == 1) & (shares == 0))).any(1)
    yield from _conflict(view, view.presence_bags[both][wrong], "shares and presence contradict each other")
    count_row = np.full(view.n_bags, -1)
    count_row[view.count_bags] = np.arange(len(view.count_bags))
    both = count_row[view.presence_bags] >= 0
    wrong = (view.presence[both] == 1).sum(1) > view.largest[count_row[view.presence_bags[both]]]
    yield from _conflict(
        view, view.presence_bags[both][wrong], "more classes are said to be present than the count says"
    )


def _conflict(view: _View, bags: np.ndarray, what: str) -> Iterator[Finding]:
    if len(bags):
        text = f"In {_number(len(bags), 'bag')} {what} ({view.listed(bags)})."
        yield Finding("problem", text, "Correct one of the two; until then both are believed in part.")
