"""Finds the number of clusters that suits images and evidence best (`--clusters auto`, `smidgen clusters`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix, csgraph
from torch.nn import functional as F

from smidgen.data.shapes import is_vector
from smidgen.errors import InputError
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.view import EvidenceView
from smidgen.hardware import forked_rng
from smidgen.listener import Listener
from smidgen.maths.cluster_count import MOST, Curve, numbers_to_try, scored, views_of_cuts
from smidgen.maths.cluster_evidence import (
    LEAST_GROUPS,
    count_agreement,
    cuts_of_all,
    group_silhouettes,
    label_agreement,
    pair_agreement,
)
from smidgen.maths.merge_tree import MergeTree, merge_tree
from smidgen.nets.spread_features import SpreadFeatures
from smidgen.setup.clusters import least_clusters

LABELS_WEIGHT, PAIRS_WEIGHT, COUNTS_WEIGHT, GROUPS_WEIGHT = 0.3, 0.3, 0.3, 0.5
"""Of what evidence says of a cut, beside its silhouette."""

_FITTED = 5000  # images that the neighbour space is made of
_IN_TREE = 20_000  # images in the tree of merges
_SIDE = 32  # pixels a side, of larger images
_COMPONENTS, _NEIGHBOURS, _ROUNDS = 256, 10, 16
_LEAST_NEIGHBOURS, _IMAGES_PER_NEIGHBOUR = 5, 15  # fewer neighbours leave the graph in pieces
_LEAST_BAGS = 20  # with known counts
_MOST_BAGS, _MOST_LABELS = 500, 5000  # bags, and labels or pairs, that are compared with cuts
_ROWS, _BLOCK = 4096, 256  # rows of points made at once, and images read at once


@dataclass(frozen=True, eq=False)
class NumberOfClusters:
    """The curve over numbers of clusters, and the tree of merges of some images.

    least, most: what the evidence leaves possible. rows: (n,) int64, the images in the tree.
    """

    curve: Curve
    tree: MergeTree
    rows: np.ndarray
    least: int
    most: int

    def in_words(self) -> str:
        """Return the result as a sentence."""
        curve = self.curve
        within = f"{curve.low} to {curve.high} are" if curve.low < curve.high else "no other number tried is"
        said = [f"{curve.best} clusters suit these images best; {within} within one standard error."]
        if len(curve.n_clusters) == 1:
            said = [f"{curve.best} clusters: no other number was left to try."]
        if not curve.is_clear:
            said.append("The number is not clear: these clusters are hardly better apart than cuts of a single cloud.")
        if curve.n_clusters[0] < curve.best == curve.n_clusters[-1]:
            said.append("It is the largest number tried: there may be more.")
        return " ".join(said)

    def as_table(self) -> dict[str, Any]:
        """Return the result as a manifest has it."""
        curve = self.curve
        found = {"best": curve.best, "low": curve.low, "high": curve.high, "clear": curve.is_clear}
        return {"asked": "auto", **found, "least": self.least, "most": self.most}

    def tree_columns(self, ids: np.ndarray) -> dict[str, list[Any]]:
        """Return the tree as a table, a row for each node, leaves first; ids: (n,) of all images."""
        tree = self.tree
        none = [""] * tree.n_leaves
        return {
            "node": list(range(2 * tree.n_leaves - 1)),
            "first": [*none, *tree.merges[:, 0].tolist()],
            "second": [*none, *tree.merges[:, 1].tolist()],
            "height": [*none, *(f"{height:.6g}" for height in tree.heights)],
            "images": tree.sizes.tolist(),
            "typical": [str(ids[row]) for row in self.rows[tree.typical]],
        }


def find_number_of_clusters(
    images: np.ndarray, evidence: Resolved, *, seed: int, listener: Listener | None = None, most: int = MOST
) -> NumberOfClusters:
    """Return how many clusters suit images best, as a curve with a range, and a tree of merges.

    images: (n, features) embeddings, or (n, channels, height, width), of which pixels are compared.
    evidence: about these images. most: the largest number that is tried, unless the evidence wants more.
    Raises InputError for fewer than 10 images, and for images that are all the same.
    """
    listener = listener or Listener()
    least, largest = bounds_of_evidence(evidence)
    if largest < 2:
        raise InputError("The evidence says that all images are of one class: there is nothing to cluster.")
    numbers = numbers_to_try(len(images), least=max(2, least), most=max(2, min(most, largest)))
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(images))
    fitted, in_tree = np.sort(order[:_FITTED]), np.sort(order[:_IN_TREE])
    listener.progress("count clusters", 0, 3)
    space = _NeighbourSpace(images, fitted, seed=seed)
    listener.progress("count clusters", 1, 3)
    points = space.of(fitted)
    numbers = numbers[numbers <= max(space.distinct, numbers[0])]  # there are no more clusters than different images
    views = views_of_cuts(points, numbers, seed=seed)
    curve = scored(views, numbers, evidence=_said(space, points, evidence, numbers, seed=seed))
    listener.progress("count clusters", 2, 3)
    tree = merge_tree(space.of(in_tree), seed=seed, least=min(len(images), 2 * curve.high))
    listener.progress("count clusters", 3, 3)
    possible = space.distinct if space.distinct < len(fitted) else len(images)
    return NumberOfClusters(curve, tree, in_tree, least, min(largest, possible))


class _NeighbourSpace:
    """Images moved towards their neighbours, learned from some of them."""

    def __init__(self, images: np.ndarray, fitted: np.ndarray, *, seed: int) -> None:
        self.images = images
        known = self._values(fitted)
        if not bool((known != known[0]).any()):
            raise InputError("All images are the same: there is nothing to cluster.")
        self.distinct = len(np.unique(known.numpy(), axis=0))
        neighbours = min(len(fitted) - 1, max(_LEAST_NEIGHBOURS, len(fitted) // _IMAGES_PER_NEIGHBOUR), _NEIGHBOURS)
        with forked_rng("cpu"):
            torch.manual_seed(seed)
            self.net = SpreadFeatures(known.shape[1], _COMPONENTS, neighbours=neighbours, rounds=_ROUNDS)
            points = self.net.fit(known)
        self.place = np.full(len(images), -1)  # of each image's point in `points`, -1 for none yet
        self.place[fitted] = np.arange(len(fitted))
        self.points = points.numpy()

    def of(self, rows: np.ndarray) -> np.ndarray:
        """Return the points (rows, features) of some images."""
        missing = np.unique(rows[self.place[rows] < 0])
        blocks = [missing[start : start + _ROWS] for start in range(0, len(missing), _ROWS)]
        self.place[missing] = len(self.points) + np.arange(len(missing))
        self.points = np.concatenate([self.points, *(self.net(self._values(some)).numpy() for some in blocks)])
        return self.points[self.place[rows]]

    def _values(self, rows: np.ndarray) -> torch.Tensor:
        """Return embeddings as they are, or the pixels of images, in rows (rows, features) float32."""
        return torch.cat([_in_rows(self.images[some]) for some in np.array_split(rows, -(-len(rows) // _BLOCK))])


def _in_rows(images: np.ndarray) -> torch.Tensor:
    values = torch.from_numpy(np.ascontiguousarray(images)).float()
    if is_vector(tuple(values.shape[1:])):
        return values
    height, width = (min(side, _SIDE) for side in values.shape[2:])
    return F.adaptive_avg_pool2d(values, (height, width)).flatten(1) / 255


def bounds_of_evidence(evidence: Resolved) -> tuple[int, int]:
    """Return the least and the largest number of clusters that the evidence leaves possible.

    At least as many as it names classes, counts in one bag, or calls different from each other; at most as many as
    there are images once those of one class are one.
    """
    groups = _groups(evidence)
    different = evidence.pairs.numpy()[~evidence.same.numpy()]
    least = max(1, least_clusters(evidence), _clique(groups[different]))
    return least, max(least, int(groups.max(initial=0)) + 1)


def _groups(evidence: Resolved) -> np.ndarray:
    """Return the group (images,) of each image: those that are known to be of one class have one number."""
    n, labels = evidence.n_images, evidence.labels.numpy()
    joined = [evidence.pairs.numpy()[evidence.same.numpy()]]
    for images in (*_pure_bags(evidence), *(np.flatnonzero(labels == k) for k in np.unique(labels[labels >= 0]))):
        joined.append(np.stack([images[:-1], images[1:]], axis=1))
    a, b = np.concatenate(joined).T
    graph = coo_matrix((np.ones(len(a)), (a, b)), shape=(n, n))
    return np.asarray(csgraph.connected_components(graph, directed=False)[1])


def _pure_bags(evidence: Resolved) -> list[np.ndarray]:
    """Return the images of each bag of two or more that is said to be of one class."""
    view = EvidenceView(evidence, least_clusters(evidence) + 1)  # with fewer, every bag would be of one class
    return [view.images_of(int(bag)) for bag in np.flatnonzero(view.pure())] if view.n_bags else []


def _clique(pairs: np.ndarray) -> int:
    """Return the size of a set of groups that are all different from each other, found greedily; 0 without pairs."""
    near: dict[int, set[int]] = {}
    for a, b in pairs.tolist():
        if a != b:
            near.setdefault(a, set()).add(b)
            near.setdefault(b, set()).add(a)
    best = 0
    for start in sorted(near, key=lambda node: -len(near[node]))[:20]:
        size, candidates = 1, set(near[start])
        while candidates:
            chosen = max(sorted(candidates), key=lambda node: len(near[node] & candidates))
            size, candidates = size + 1, candidates & near[chosen]
        best = max(best, size)
    return best


def _said(
    space: _NeighbourSpace, points: np.ndarray, evidence: Resolved, numbers: np.ndarray, *, seed: int
) -> dict[str, np.ndarray]:
    """Return what each kind of evidence adds to the score of each number of clusters."""
    pure = _some(_pure_bags(evidence), _MOST_BAGS)
    found: dict[str, np.ndarray] = {}
    if len(pure) >= LEAST_GROUPS:
        means = np.array([space.of(images).mean(0) for images in pure])
        found["bags_of_one_class"] = GROUPS_WEIGHT * group_silhouettes(means, numbers)
    weights = {"labels": LABELS_WEIGHT, "pairs": PAIRS_WEIGHT, "counts": COUNTS_WEIGHT}
    for name, agreement in _agreements(space, points, evidence, numbers, seed=seed).items():
        found[name] = weights[name] * agreement
    return found


def _agreements(
    space: _NeighbourSpace, points: np.ndarray, evidence: Resolved, numbers: np.ndarray, *, seed: int
) -> Mapping[str, np.ndarray]:
    """Return how well cuts agree with labels, pairs and counts of several classes, (cuts,) each, over dimensions."""
    labels = evidence.labels.numpy()
    # A label that no other image has does not say what is alike.
    labelled = _some(np.flatnonzero((np.bincount(labels + 1)[labels + 1] > 1) & (labels >= 0)), _MOST_LABELS)
    pairs, same = (_some(each.numpy(), _MOST_LABELS) for each in (evidence.pairs, evidence.same))
    exact = _some(np.flatnonzero((evidence.counts_min == evidence.counts_max).numpy()), _MOST_BAGS)
    bags, counts = evidence.count_bags.numpy()[exact], evidence.counts_min.numpy()[exact]
    images, offsets = evidence.images_of(torch.from_numpy(bags)) if len(bags) >= _LEAST_BAGS else (None, None)
    about = np.unique(np.concatenate([labelled, pairs.ravel(), [] if images is None else images.numpy()])).astype(int)
    if not len(about):
        return {}
    found: dict[str, list[np.ndarray]] = {}
    for cuts in cuts_of_all(space.of(about), points, numbers, seed=seed):
        if len(np.unique(labels[labelled])) > 1:
            place = np.searchsorted(about, labelled)
            found.setdefault("labels", []).append(label_agreement(labels[labelled], cuts[:, place]))
        if len(pairs):
            found.setdefault("pairs", []).append(pair_agreement(np.searchsorted(about, pairs), same, cuts))
        if images is not None and offsets is not None:
            members = np.split(np.searchsorted(about, images.numpy()), offsets.numpy()[1:-1])
            found.setdefault("counts", []).append(count_agreement(members, counts, cuts))
    return {name: np.mean(values, axis=0) for name, values in found.items()}


def _some(values: Any, most: int) -> Any:
    """Return at most so many values, from everywhere among them."""
    if len(values) <= most:
        return values
    rows = np.linspace(0, len(values) - 1, most).round().astype(np.int64)
    return values[rows] if isinstance(values, np.ndarray) else [values[row] for row in rows.tolist()]
