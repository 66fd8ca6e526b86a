"""Whether images can be assigned to classes so that all statements hold: in closed form for a bag, by MILP for more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_matrix, csgraph, csr_array, diags_array, eye_array, hstack, kron

from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.view import EvidenceView

_MOST_VARIABLES = 3000  # of a program that is solved
_SECONDS = 3.0  # for one of them; what is not decided by then is not said
_MOST_TRIED = 50  # bags of which each is left out for a try
_INFEASIBLE = 2  # the status of `milp`


def possible_bags(view: EvidenceView, kinds: Collection[str] = LEARNED) -> np.ndarray:
    """Return for each bag, (bags,) bool, whether numbers of images of each class fit what is said of it.

    kinds: those that are looked at. Pairs are not, nor other bags: where False, nothing fits; where True, something
    does if its images are in no pair, no other bag and in it once.
    """
    low, high = view.bounds(kinds)
    least, largest = view.counts(kinds)
    rest = view.sizes - low.sum(1)  # images that may be of several classes
    begun = low > 0
    spare = high - low
    missing = rest - np.where(begun, spare, 0).sum(1)  # what the classes that are there for sure cannot take
    others = np.where(begun, 0, high)
    room = np.cumsum(-np.sort(-others, axis=1), axis=1)
    opened = (room < missing[:, None]).sum(1) + (missing > 0)
    fewest = begun.sum(1) + opened
    most = begun.sum(1) + np.minimum(rest, (others > 0).sum(1))
    fits = (spare >= 0).all(1) & (rest >= 0) & (spare.sum(1) >= rest)
    return np.asarray(fits & (fewest <= largest) & (most >= least))


@dataclass(frozen=True)
class Part:
    """Some of the evidence. bags: numbers. same, different: (pairs, 2) rows of images. labels: whether they count."""

    bags: tuple[int, ...]
    same: np.ndarray
    different: np.ndarray
    labels: bool = True


def parts_of(view: EvidenceView) -> list[Part]:
    """Return the evidence in parts that share no image, without those that `possible_bags` decides."""
    n, n_nodes = view.resolved.n_images, view.resolved.n_images + view.n_bags
    ends = np.concatenate([np.stack([view.members, n + view.bag], 1), view.pairs])
    graph = coo_matrix((np.ones(len(ends)), ends.T), shape=(n_nodes, n_nodes))
    label = csgraph.connected_components(graph, directed=False)[1]
    of_bags, of_pairs = label[n:], label[view.pairs[:, 0]]
    involved = set(of_pairs.tolist()) | set(of_bags[view.distinct < view.sizes].tolist())
    may_be = view.may_be(view.members)
    involved |= set(of_bags[view.bag[(may_be.sum(1) > 1) & ~may_be.all(1)]].tolist())  # one of some classes
    involved |= {part for part, times in Counter(of_bags.tolist()).items() if times > 1}
    bags, same, different = (
        _by_part(of, rows)
        for of, rows in (
            (of_bags, np.arange(view.n_bags)),
            (of_pairs[view.same], view.pairs[view.same]),
            (of_pairs[~view.same], view.pairs[~view.same]),
        )
    )
    none = np.zeros((0, 2), dtype=np.int64)
    return [
        Part(tuple(bags.get(part, none[:, 0]).tolist()), same.get(part, none), different.get(part, none))
        for part in sorted(involved)
    ]


def _by_part(of: np.ndarray, rows: np.ndarray) -> dict[int, np.ndarray]:
    """Return the rows of each part. of: (rows,), the part of each."""
    order = np.argsort(of, kind="stable")
    parts, starts = np.unique(of[order], return_index=True)
    return dict(zip(parts.tolist(), np.split(rows[order], starts[1:]), strict=True)) if len(parts) else {}


def fits(view: EvidenceView, part: Part) -> bool | None:
    """Return whether any assignment to the clusters fits a part of the evidence; None where that is too hard to say."""
    if len(part.bags) * view.n_clusters > _MOST_VARIABLES:
        return None
    program = _Program(view, part)
    if program.impossible or program.obvious:
        return not program.impossible
    if len(program.weights) * view.n_clusters + len(part.bags) * view.n_clusters > _MOST_VARIABLES:
        return None
    return program.solve()


class _Program:
    """A mixed-integer program: how many images of each group are of each class, and which classes each bag holds.

    Images that must be of one class are one group of weight; groups that nothing distinguishes are counted together.
    """

    def __init__(self, view: EvidenceView, part: Part) -> None:
        self.view, self.part, self.k = view, part, view.n_clusters
        images = np.unique(np.concatenate([part.same.ravel(), part.different.ravel(), *map(view.images_of, part.bags)]))
        same, different = np.searchsorted(images, part.same), np.searchsorted(images, part.different)
        links = coo_matrix((np.ones(len(same)), same.T), shape=(len(images), len(images)))
        group = csgraph.connected_components(links, directed=False)[1]
        weights = np.zeros((int(group.max(initial=-1)) + 1, len(part.bags)), dtype=int)
        for b, bag in enumerate(part.bags):
            np.add.at(weights, (group[np.searchsorted(images, view.images_of(bag))], b), 1)
        self.different = group[different]
        self.may_be = np.ones((len(weights), self.k), dtype=bool)
        if part.labels:
            np.logical_and.at(self.may_be, group, view.may_be(images))
        torn = bool((self.different[:, 0] == self.different[:, 1]).any())
        self.impossible = torn or not self.may_be.any(1).all()
        self._count_together(weights)

    @property
    def obvious(self) -> bool:
        """Whether images can be given their classes one by one: in pairs only, fewer than the classes each may be of.

        Those that may be of one only come first, so no two of them may be in a pair of different classes.
        """
        if self.part.bags:
            return False
        a, b = np.unique(np.sort(self.different, axis=1), axis=0).T if len(self.different) else self.different.T
        partners, classes = np.bincount(np.concatenate([a, b]), minlength=len(self.may_be)), self.may_be.sum(1)
        clash = (classes[a] == 1) & (classes[b] == 1) & (self.may_be[a] & self.may_be[b]).any(1)
        return bool((partners < classes)[classes > 1].all() and not clash.any())

    def _count_together(self, weights: np.ndarray) -> None:
        """Make one group of all those that are in no pair and alike."""
        numbers: dict[tuple[int | bytes, ...], int] = {}
        alone = set(range(len(weights))) - set(self.different.ravel().tolist())
        keys = [(-1 if g in alone else g, self.may_be[g].tobytes(), *row) for g, row in enumerate(weights.tolist())]
        of = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=int)
        first = np.unique(of, return_index=True)[1]
        self.times = np.bincount(of, minlength=len(first))
        self.weights, self.may_be, self.different = weights[first], self.may_be[first], of[self.different]

    def solve(self) -> bool | None:
        """Return whether there is a solution, None if that was not found out in time."""
        n, k, bags = len(self.weights), self.k, list(self.part.bags)
        if n == 0:
            return True
        low, high = (side[bags].ravel() for side in self.view.bounds(("proportions", "presence")))
        least, largest = (side[bags] for side in self.view.counts())
        apart = np.zeros((len(self.different), n))
        np.add.at(apart, (np.arange(len(apart))[:, None], self.different), 1)
        of_each, held = kron(eye_array(n), np.ones((1, k))), kron(csr_array(self.weights.T), eye_array(k))
        in_bag, present = kron(eye_array(len(bags)), np.ones((1, k))), eye_array(len(bags) * k)
        sizes = diags_array(np.repeat(self.view.sizes[bags].astype(float), k))
        rows = [  # over how many of a group are of a class, over whether a bag holds it, at least, at most
            (of_each, None, self.times, self.times),
            (kron(csr_array(apart), eye_array(k)), None, 0, 1),
            (held, None, low, high),
            (held, -present, 0, np.inf),  # what a bag holds has an image
            (held, -sizes, -np.inf, 0),  # and what has an image it holds
            (None, in_bag, least, largest),
        ]
        most = self.times[:, None] * self.may_be
        return _solved(rows, np.concatenate([most.ravel(), np.ones(len(bags) * k)]), n * k)


def _solved(rows: Sequence[tuple[Any, Any, Any, Any]], most: np.ndarray, split: int) -> bool | None:
    """Return whether whole numbers from 0 to `most` fit the rows; their first matrix is over the first `split`."""
    constraints = []
    for left, right, lower, upper in rows:
        height = (right if left is None else left).shape[0]
        if height:
            sides = zip((left, right), (split, len(most) - split), strict=True)
            blocks = [csr_array((height, width)) if side is None else side for side, width in sides]
            constraints.append(LinearConstraint(hstack(blocks, format="csr"), lower, upper))
    found = milp(
        np.zeros(len(most)),
        integrality=np.ones(len(most)),
        bounds=Bounds(0, most),
        constraints=constraints,
        options={"time_limit": _SECONDS},
    )
    return False if found.status == _INFEASIBLE else True if found.success else None


def smallest_part(view: EvidenceView, part: Part) -> Part:
    """Return a part within one that does not fit: as small as leaving out bag after bag, then kinds, makes it.

    Of more than `_MOST_TRIED` bags none is left out: each try is a search.
    """
    for bag in part.bags if len(part.bags) <= _MOST_TRIED else ():
        part = _without(view, part, Part(tuple(b for b in part.bags if b != bag), part.same, part.different))
    none = np.zeros((0, 2), dtype=np.int64)
    part = _without(view, part, Part(part.bags, part.same, part.different, labels=False))
    part = _without(view, part, Part(part.bags, none, part.different, labels=part.labels))
    return _without(view, part, Part(part.bags, part.same, none, labels=part.labels))


def _without(view: EvidenceView, part: Part, smaller: Part) -> Part:
    return smaller if fits(view, smaller) is False else part
