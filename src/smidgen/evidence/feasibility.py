"""What the evidence can and cannot determine, in words, before any training.

A problem is a contradiction (`contradictions`). Warnings and notes are facts about the statements themselves, or of
all assignments that fit them; the tests hold each against an enumeration of all assignments of small collections.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from smidgen.evidence.contradictions import contradictions
from smidgen.evidence.findings import Finding, number_of
from smidgen.evidence.kinds import all_kinds, kind_of
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.view import EvidenceView


def feasibility(resolved: Resolved, n_clusters: int) -> list[Finding]:
    """Return what the evidence cannot determine, where it contradicts itself, and what to add; problems first.

    n_clusters: how many clusters are asked for.

    >>> for finding in feasibility(Resolved.nothing(100), 10):
    ...     print(finding)
    note: No evidence: clusters are found by looks alone and carry numbers. Label one image of each class to name them.
    """
    view = EvidenceView(resolved, n_clusters)
    kinds = (kind.findings for kind in all_kinds())
    checks = (_nothing, _naming, _one_class, _bags, _same_bags, *kinds, _class_bags, contradictions)
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
    return bool(view.resolved.sizes())


def _says_of_bags(view: EvidenceView) -> bool:
    return any(kind_of(kind).about == "bags" for kind in view.resolved.sizes() if kind != "bags")


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
            f"Ask for {number_of(len(view.names), 'cluster')}, or name the other classes.",
        )


def _one_class(view: EvidenceView) -> Iterator[Finding]:
    """Whether all images in one cluster would fit, and if so the simplest reason."""
    said = view.resolved.sizes().keys() - {"bags"}
    if view.n_clusters < 2 or not said or not _fits_one_class(view):
        return
    if len(view.count_bags) == view.n_bags and (view.counts_max == 1).all() and view.n_bags:
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
    return bool((fits & view.all_may_be()).any())


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


def _class_bags(view: EvidenceView) -> Iterator[Finding]:
    """Which classes are in which bags, where shares or presence say so."""
    if not (len(view.proportion_bags) or len(view.presence_bags)):
        return
    n = len(view.names)
    high = view.bounds(("proportions", "presence"))[1]
    stated = np.zeros((view.n_bags, n), dtype=bool)
    stated[view.proportion_bags] = view.proportions > 0
    stated[view.presence_bags] |= view.presence == 1
    missing = ~(stated | (view.labelled[:, :n] > 0)).any(0)
    labelled = np.isin(np.arange(n), view.labels)
    for ruled_out in (True, False):
        for known in (False, True):
            chosen = np.flatnonzero(missing & ((high[:, :n] == 0).all(0) == ruled_out) & (labelled == known))
            if len(chosen):
                it = "it" if len(chosen) == 1 else "them"
                where = "in no bag" if ruled_out else "not said to be in any bag"
                yield Finding(
                    "warning",
                    f"{view.classes(chosen)} {'is' if len(chosen) == 1 else 'are'} {where}"
                    f"{'' if known else ', and no image is labelled so'}.",
                    f"Add bags that hold {it}" + (f", or label images of {it}." if not known else "."),
                )
