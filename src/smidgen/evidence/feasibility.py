"""What the evidence can and cannot determine, in words, before any training.

A problem is a contradiction (`contradictions`). Warnings and notes are facts about the statements themselves, or of
all assignments that fit them; the tests hold each against an enumeration of all assignments of small collections.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations

import numpy as np

from smidgen.evidence.contradictions import contradictions
from smidgen.evidence.findings import Finding
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.view import EvidenceView, number_of


def feasibility(resolved: Resolved, n_clusters: int) -> list[Finding]:
    """Return what the evidence cannot determine, where it contradicts itself, and what to add; problems first.

    n_clusters: how many clusters are asked for.

    >>> for finding in feasibility(Resolved.nothing(100), 10):
    ...     print(finding)
    note: No evidence: clusters are found by looks alone and carry numbers. Label one image of each class to name them.
    """
    view = EvidenceView(resolved, n_clusters)
    checks = (_nothing, _naming, _labels, _one_class, _bags, _same_bags, _counts, _class_bags, contradictions)
    found = [finding for check in checks for finding in check(view)]
    return sorted(found, key=lambda finding: ("problem", "warning", "note").index(finding.level))


def _nothing(view: EvidenceView) -> Iterator[Finding]:
    if not _anything(view):
        yield Finding(
            "note",
            "No evidence: clusters are found by looks alone and carry numbers.",
            "Label one image of each class to name them.",
        )
    elif view.n_bags and not _says_of_bags(view):
        yield Finding(
            "warning",
            f"Nothing is said about the {number_of(view.n_bags, 'bag')}.",
            "Add counts, proportions or presence.",
        )


def _anything(view: EvidenceView) -> bool:
    return bool(view.n_bags or len(view.pairs) or (view.labels >= 0).any())


def _says_of_bags(view: EvidenceView) -> bool:
    return bool(len(view.count_bags) or len(view.share_bags) or len(view.presence_bags))


def _naming(view: EvidenceView) -> Iterator[Finding]:
    if _anything(view) and not view.names:
        yield Finding(
            "note", "Nothing names a class, so clusters carry numbers.", "Label one image of each class to name them."
        )
    elif view.names and len(view.names) < view.n_clusters:
        yield Finding(
            "warning",
            f"The evidence names {number_of(len(view.names), 'class', 'classes')}, but {view.n_clusters}"
            " clusters are asked for: the others carry numbers and split or gather what is left.",
            f"Ask for {len(view.names)} clusters, or name the other classes.",
        )


def _labels(view: EvidenceView) -> Iterator[Finding]:
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


def _one_class(view: EvidenceView) -> Iterator[Finding]:
    """Whether all images in one cluster would fit, and if so the simplest reason."""
    said = len(view.pairs) or (view.labels >= 0).any() or _says_of_bags(view)
    if view.n_clusters < 2 or not said or not _fits_one_class(view):
        return
    if len(view.count_bags) == view.n_bags and (view.largest == 1).all() and view.n_bags:
        text = "Every bag holds a single class: nothing tells two classes apart, and one cluster for all would fit."
        remedy = "Add bags of several classes."
    elif len(view.pairs) and not (view.labels >= 0).any() and not view.n_bags:
        text = "All pairs are of the same class: they never tell two classes apart, so clusters may merge."
        remedy = "Add pairs of different classes."
    else:
        text = "One cluster for all images would fit all that is known: nothing says that two of them differ."
        remedy = "Add labels of several classes, pairs of different classes, or bags of several."
    yield Finding("warning", text, remedy)


def _fits_one_class(view: EvidenceView) -> bool:
    """Return whether all evidence holds where all images are of one class."""
    if not view.same.all() or (view.counts()[0] > 1).any():
        return False
    low, high = view.bounds()
    sizes = view.sizes[:, None]
    fits = ((high >= sizes) & (low.sum(1, keepdims=True) <= low)).all(0)  # (clusters,)
    labelled = np.unique(view.labels[view.labels >= 0])
    return len(labelled) <= 1 and bool(fits[labelled].all() if len(labelled) else fits.any())


# ---------------------------------------------------------------------------------------------------------------- bags


def _bags(view: EvidenceView) -> Iterator[Finding]:
    if not view.n_bags:
        return
    distinct, times = view.keys
    if (times > 1).any():
        bags = np.unique(distinct[times > 1] // view.resolved.n_images)
        yield Finding(
            "note",
            f"In {number_of(len(bags), 'bag')} an image is there twice ({view.listed(bags)}): the copy tells nothing.",
        )
    images, uses = np.unique(distinct % view.resolved.n_images, return_counts=True)
    share = len(images) / view.resolved.n_images
    if (uses > 1).any():
        yield Finding(
            "note", f"Bags overlap: {(uses > 1).mean():.0%} of their images are in more than one, {uses.max()} at most."
        )
    if share < 0.5:
        yield Finding(
            "note", f"{share:.0%} of the images are in a bag.", "What is said of bags says less of the others."
        )


def _same_bags(view: EvidenceView) -> Iterator[Finding]:
    seen: dict[bytes, int] = {}
    twins = [bag for bag in range(view.n_bags) if seen.setdefault(np.sort(view.images_of(bag)).tobytes(), bag) != bag]
    if twins:
        yield Finding(
            "note",
            f"In {number_of(len(twins), 'bag')} are exactly the images of another ({view.listed(np.array(twins))}).",
            "Drop the copies: they count the same knowledge twice.",
        )


def _counts(view: EvidenceView) -> Iterator[Finding]:
    if not len(view.count_bags):
        return
    limit = np.minimum(view.distinct[view.count_bags], view.n_clusters)
    empty = (view.least == 1) & (view.largest >= limit)
    if empty.any():
        yield Finding(
            "warning",
            f"In {number_of(int(empty.sum()), 'bag')} ({view.listed(view.count_bags[empty])}) any count is allowed:"
            " that says nothing.",
            "Narrow the ranges.",
        )
    only_counts = not (len(view.share_bags) or len(view.presence_bags) or len(view.pairs) or (view.labels >= 0).any())
    if only_counts and not view.pure().any():
        yield Finding(
            "warning",
            "No bag is known to hold a single class, and there are only counts: none of them says that two images"
            " belong together, and clusters may stay merged or split.",
            "Add bags of one class, a few labels, or pairs.",
        )
    known = view.least == view.largest
    if len(known) > 1 and known.all() and len(np.unique(view.least)) == 1 and view.least[0] > 1:
        every = "Every bag" if len(view.count_bags) == view.n_bags else "Every bag with a count"
        yield Finding(
            "warning", f"{every} holds exactly {view.least[0]} classes: a constant.", "Add bags with other counts."
        )
    yield from _bag_sizes(view)


def _bag_sizes(view: EvidenceView) -> Iterator[Finding]:
    """Compare images per class with the bag size: a bag of one class wants that many images of it."""
    per_class = view.resolved.n_images / view.n_clusters
    largest = int(view.sizes.max())
    if largest > per_class:
        yield Finding(
            "note",
            f"The largest bag has {largest:,} images, and a class has about {per_class:,.0f} if all are as large.",
            "Smaller bags tell more.",
        )


def _class_bags(view: EvidenceView) -> Iterator[Finding]:
    """Which classes are in which bags, where shares or presence say so."""
    if not (len(view.share_bags) or len(view.presence_bags)):
        return
    n = len(view.names)
    high = view.bounds(("shares", "presence"))[1]
    stated = np.zeros((view.n_bags, n), dtype=bool)
    stated[view.share_bags] = view.shares > 0
    stated[view.presence_bags] |= view.presence == 1
    missing = ~(stated | (view.labelled[:, :n] > 0)).any(0)
    labelled = np.isin(np.arange(n), view.labels)
    for ruled_out in (True, False):
        for known in (False, True):
            chosen = np.flatnonzero(missing & ((high[:, :n] == 0).all(0) == ruled_out) & (labelled == known))
            if len(chosen):
                where = "in no bag" if ruled_out else "not said to be in any bag"
                yield Finding(
                    "warning",
                    f"{view.classes(chosen)} is {where}{'' if known else ', and no image is labelled so'}.",
                    "Add bags that hold it" + (", or label images of it." if not known else "."),
                )
    if len(view.share_bags):
        there = np.flatnonzero(view.shares.any(0))
        yield from _alike(view, there)
        yield from _never_together(view, there)


def _alike(view: EvidenceView, there: np.ndarray) -> Iterator[Finding]:
    """Classes that averages over bags do not tell apart, and no labels either."""
    labelled = np.isin(there, view.labels)
    shares = view.shares[:, there].astype(np.float64)
    scaled = shares / shares.sum(0)
    alike = [
        (a, b)
        for a, b in combinations(range(len(there)), 2)
        if np.allclose(scaled[:, a], scaled[:, b], atol=1e-6) and not (labelled[a] and labelled[b])
    ]
    rank = int(np.linalg.matrix_rank(shares, tol=1e-4))
    if alike:
        names = "; ".join(f"{view.names[there[a]]} and {view.names[there[b]]}" for a, b in alike[:3])
        yield Finding(
            "warning",
            "The shares of these classes go up and down together, and they are not both labelled: averages over bags do"
            f" not tell them apart: {names}.",
            "Add bags that hold one without the other, or label images of both.",
        )
    elif rank < len(there) and not labelled.all():
        yield Finding(
            "warning",
            f"The shares vary in {number_of(rank, 'direction')} only, for {len(there)} classes: averages over bags do"
            " not tell all of them apart.",
            "Add bags of other compositions, or label images of each class.",
        )


def _never_together(view: EvidenceView, there: np.ndarray) -> Iterator[Finding]:
    held = view.shares[:, there] > 0
    meets = held.T.astype(np.int64) @ held
    pure = held[held.sum(1) == 1].any(0)
    direct = pure | np.isin(there, view.labels)  # something shows the class by itself
    apart = [(i, j) for i, j in combinations(range(len(there)), 2) if meets[i, j] == 0]
    if apart:
        names = "; ".join(f"{view.names[there[a]]} and {view.names[there[b]]}" for a, b in apart[:3])
        more = ", …" if len(apart) > 3 else ""
        unseen = [pair for pair in apart if not (direct[pair[0]] and direct[pair[1]])]
        yield Finding(
            "note",
            f"{number_of(len(apart), 'pair')} of classes never meet in a bag with shares ({names}{more})"
            + (f"; {len(unseen)} of them without a bag of one class or a label for each." if unseen else "."),
        )
