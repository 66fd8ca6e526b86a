"""Statements that no assignment of classes to images fits together: each finding is a proof, named as simply as it can.

First what two kinds of statements say about one bag or one pair, then, for evidence that this leaves in doubt, an exact
search over all assignments (`labelings`), as far as it is small enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from scipy.sparse import coo_matrix, csgraph

from smidgen.evidence.findings import Finding, number_of
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.labelings import Part, fits, parts_of, possible_bags, smallest_part
from smidgen.evidence.view import EvidenceView

_MOST_PARTS = 500  # are searched, of those that share no image: a second or two
_MOST_UNDECIDED = 3  # searches that may end without an answer: each may have taken seconds
_Texts = Callable[[EvidenceView], dict[str, np.ndarray]]


def contradictions(view: EvidenceView) -> Iterator[Finding]:
    """Yield what contradicts itself: pairs, then bags, then what only shows when all statements are taken together."""
    wrong_bags = np.zeros(view.n_bags, dtype=bool)
    wrong_images = np.zeros(view.resolved.n_images, dtype=bool)
    yield from _pairs(view, wrong_images)
    yield from _pairs_in_pure_bags(view, wrong_images)
    yield from _bags(view, wrong_bags)
    undecided = 0
    for part in parts_of(view)[:_MOST_PARTS]:
        images = _images(view, part)
        if wrong_images[images].any() or not view.may_be(images).any(1).all() or wrong_bags[list(part.bags)].any():
            continue
        possible = fits(view, part)
        if possible is False:
            yield _together(view, smallest_part(view, part))
        undecided += possible is None
        if undecided == _MOST_UNDECIDED:
            return


# --------------------------------------------------------------------------------------------------------------- pairs


def _pairs(view: EvidenceView, wrong_images: np.ndarray) -> Iterator[Finding]:
    if not len(view.pairs):
        return
    labels = view.labels[view.pairs]
    against = (labels >= 0).all(1) & ((labels[:, 0] == labels[:, 1]) != view.same)
    if against.any():
        yield Finding(
            "problem",
            f"{number_of(int(against.sum()), 'pair')} against labels (first: {_rows(view, view.pairs[against][0])}).",
            "Correct the pair or the label.",
        )
    group = _chained(view, view.same)
    torn = ~view.same & (group[view.pairs[:, 0]] == group[view.pairs[:, 1]])
    if torn.any():
        yield Finding(
            "problem",
            f"{number_of(int(torn.sum()), 'pair')} of different classes joined by a chain of pairs of the same class.",
            "Look at these again: one link of each chain is wrong.",
        )
    group = _chained(view, view.same & ~against)
    yield from _chains_against_labels(view, group, torn | against, wrong_images)
    wrong_images[view.pairs[against | torn]] = True


def _chained(view: EvidenceView, chosen: np.ndarray) -> np.ndarray:
    """Return the group (images,) of each image: those that the chosen pairs join have one number."""
    n = view.resolved.n_images
    a, b = view.pairs[chosen].T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1])


def _chains_against_labels(
    view: EvidenceView, group: np.ndarray, known: np.ndarray, wrong_images: np.ndarray
) -> Iterator[Finding]:
    """Labels that chains of pairs of the same class carry to an image of another label, or to a different pair."""
    labelled = np.flatnonzero(view.labels >= 0)
    first = np.full(len(group), -1)
    first[group[labelled[::-1]]] = labelled[::-1]  # of each group, its first labelled image
    odd = labelled[view.labels[labelled] != view.labels[first[group[labelled]]]]
    if len(odd):
        ends = np.array([first[group[odd[0]]], odd[0]])
        yield Finding(
            "problem",
            f"{number_of(len(np.unique(group[odd])), 'chain')} of pairs of the same class between images of different"
            f" labels (first: {_rows(view, ends)}).",
            "Look at these again: a pair or a label is wrong.",
        )
        wrong_images[np.isin(group, group[odd])] = True
    ends = first[group[view.pairs]]
    alike = ~view.same & ~known & (ends >= 0).all(1) & (view.labels[ends[:, 0]] == view.labels[ends[:, 1]])
    if alike.any():
        a, b = view.pairs[alike][0].tolist()
        yield Finding(
            "problem",
            f"{number_of(int(alike.sum()), 'pair')} of different classes that labels and pairs of the same class make"
            f" one class (first: images in rows {a} and {b}, {view.names[view.labels[ends[alike][0, 0]]]}).",
            "Look at these again: a pair or a label is wrong.",
        )
        wrong_images[np.isin(group, group[view.pairs[alike]])] = True


def _rows(view: EvidenceView, ends: np.ndarray) -> str:
    a, b = ends.tolist()
    names = f"labelled {view.names[view.labels[a]]} and {view.names[view.labels[b]]}"
    return f"images in rows {a} and {b}, {names}"


def _pairs_in_pure_bags(view: EvidenceView, wrong_images: np.ndarray) -> Iterator[Finding]:
    different = view.pairs[~view.same]
    inside = np.zeros(view.n_bags, dtype=bool)
    for bag in np.flatnonzero(view.pure()).tolist() if len(different) else ():
        wrong = np.isin(different, view.images_of(bag)).all(1)
        inside[bag] = wrong.any()
        wrong_images[different[wrong]] = True
    yield from _conflict(view, inside, "of one class there is a pair of different classes")


# ---------------------------------------------------------------------------------------------------------------- bags


def _bags(view: EvidenceView, wrong: np.ndarray) -> Iterator[Finding]:
    """Bags whose own statements do not fit; for each the first kinds that do not, in the words that hold for it.

    Where no such words hold, all kinds that speak of the bag are named.
    """
    if not view.n_bags:
        return
    impossible = ~possible_bags(view)
    for kinds, texts in _REASONS.items():
        here = impossible & ~possible_bags(view, kinds) & ~wrong
        for text, holds in texts(view).items() if here.any() else ():
            yield from _conflict(view, here & holds & ~wrong, text)
            wrong |= here & holds
    rest = impossible & ~wrong
    wrong |= rest
    speaks = {name: _speaks(view, name) for name in LEARNED} if rest.any() else {}
    while rest.any():
        first = int(rest.argmax())
        names = [name for name in speaks if speaks[name][first]]
        alike = rest & np.logical_and.reduce([speaks[name] == speaks[name][first] for name in speaks])
        several = f"{', '.join(names[:-1])} and {names[-1]} do not fit together" if len(names) > 1 else ""
        yield from _conflict(view, alike, several or f"{''.join(names)} does not fit its images")
        rest = rest & ~alike


def _speaks(view: EvidenceView, kind: str) -> np.ndarray:
    """Return of which bags, (bags,) bool, a kind narrows what they may hold."""
    (low, high), (least, most) = view.bounds((kind,)), view.counts((kind,))
    narrowed = low.any(1) | (high < view.sizes[:, None]).any(1)
    return narrowed | (least > 1) | (most < np.minimum(view.distinct, view.n_clusters))


def _presence_alone(view: EvidenceView) -> dict[str, np.ndarray]:
    low, high = view.bounds(("presence",))
    return {
        "more classes are said to be present than it has images": low.sum(1) > view.sizes,
        "every class is said to be absent": ~high.any(1),
    }


def _labels_and_counts(view: EvidenceView) -> dict[str, np.ndarray]:
    more = (view.labelled > 0).sum(1) > view.counts()[1]
    return {
        "labelled images show more classes than the count says": more,
        "labelled images leave room for fewer classes than the count says": ~more,
    }


def _labels_and_shares(view: EvidenceView) -> dict[str, np.ndarray]:
    high = view.bounds(("proportions",))[1]
    return {
        "there is a labelled image of a class whose share is 0": ((view.labelled > 0) & (high == 0)).any(1),
        "there are more labelled images of a class than its share allows": (view.labelled > high).any(1),
    }


def _labels_and_presence(view: EvidenceView) -> dict[str, np.ndarray]:
    absent = view.bounds(("presence",))[1] == 0
    ruled_out = ((view.labelled > 0) & absent).any(1)
    return {
        "there is a labelled image of a class said to be absent": ruled_out,
        "labelled images leave too little room for the classes said to be present": ~ruled_out,
    }


def _shares_and_counts(view: EvidenceView) -> dict[str, np.ndarray]:
    held, (least, largest) = (view.bounds(("proportions",))[1] > 0).sum(1), view.counts()
    return {"the number of shares above 0 is not the count": (held < least) | (held > largest)}


def _shares_and_presence(view: EvidenceView) -> dict[str, np.ndarray]:
    return {"shares and presence contradict each other": np.ones(view.n_bags, dtype=bool)}


def _presence_and_counts(view: EvidenceView) -> dict[str, np.ndarray]:
    (low, high), (least, largest) = view.bounds(("presence",)), view.counts()
    return {
        "more classes are said to be present than the count says": (low > 0).sum(1) > largest,
        "more classes are said to be absent than the count leaves room for": (high > 0).sum(1) < least,
    }


_REASONS: dict[tuple[str, ...], _Texts] = {
    ("presence",): _presence_alone,
    ("labels", "counts"): _labels_and_counts,
    ("labels", "proportions"): _labels_and_shares,
    ("labels", "presence"): _labels_and_presence,
    ("proportions", "counts"): _shares_and_counts,
    ("presence", "counts"): _presence_and_counts,
    ("proportions", "presence"): _shares_and_presence,
}


def _conflict(view: EvidenceView, bags: np.ndarray, what: str) -> Iterator[Finding]:
    if bags.any():
        text = f"In {number_of(int(bags.sum()), 'bag')} {what} ({view.listed(np.flatnonzero(bags))})."
        yield Finding("problem", text, "Correct one of them; until then all are believed in part.")


# ------------------------------------------------------------------------------------------------------------ together


def _together(view: EvidenceView, part: Part) -> Finding:
    kinds = [
        f"{number_of(len(part.bags), 'bag')} ({view.listed(np.array(part.bags, dtype=int))})" if part.bags else "",
        number_of(len(part.same), "pair") + " of the same class" if len(part.same) else "",
        number_of(len(part.different), "pair") + " of different classes" if len(part.different) else "",
        "the labels of their images" if part.labels and _labelled(view, part) else "",
    ]
    said = [kind for kind in kinds if kind]
    return Finding(
        "problem",
        f"No assignment of the images to {number_of(view.n_clusters, 'cluster')} fits {' and '.join(said)}"
        f"{' together' if len(said) > 1 or len(part.bags) > 1 else ''}.",
        "At least one of them is wrong; until it is corrected all are believed in part.",
    )


def _labelled(view: EvidenceView, part: Part) -> bool:
    return not view.may_be(_images(view, part)).all()


def _images(view: EvidenceView, part: Part) -> np.ndarray:
    return np.concatenate([part.same.ravel(), part.different.ravel(), *map(view.images_of, part.bags)])
