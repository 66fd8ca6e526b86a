"""Selects the images that a report shows: typical, uncertain, misclassified, and a sample for the map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from scipy.sparse import csr_matrix

from smidgen.errors import InputError, RunError
from smidgen.files import read_array
from smidgen.reports.cluster_numbers import Numbers, read_numbers
from smidgen.reports.evidence import Section, evidence_rows, read_evidence
from smidgen.reports.issues import Kind, issue_rows, read_issues
from smidgen.reports.predictions import Predictions, choose_predictions
from smidgen.reports.relabelling import Relabelling, read_relabelling
from smidgen.reports.tables import Assignments, read_assignments

MOST_CARDS = 200  # clusters that get a gallery; the largest ones where there are more
_BLOCK = 65_536  # rows of embeddings read at once: a million of them need not fit into memory


@dataclass(frozen=True, eq=False)
class Cluster:
    """A cluster's gallery: its number, its most typical and its least certain images as rows."""

    number: int
    typical: np.ndarray
    uncertain: np.ndarray


@dataclass(frozen=True, eq=False)
class Mistake:
    """Images of one class that went to a cluster standing for another: how many, and the most confident as rows.

    cluster: -1 where there are more clusters than classes and the images are those of all clusters for one class.
    stands_for: that class, -1 for none.
    """

    class_number: int
    cluster: int
    stands_for: int
    count: int
    rows: np.ndarray


@dataclass(frozen=True, eq=False)
class Galleries:
    """All images of a report, as rows of `assignments.csv`."""

    clusters: Sequence[Cluster]
    mistakes: Sequence[Mistake]
    uncertain: np.ndarray
    sample: np.ndarray
    predictions: Sequence[Predictions] = ()
    evidence: np.ndarray = field(default_factory=lambda: _none())
    pseudo_labels: np.ndarray = field(default_factory=lambda: _none())
    issues: np.ndarray = field(default_factory=lambda: _none())
    cuts: np.ndarray = field(default_factory=lambda: _none())

    def shown(self) -> Iterator[np.ndarray]:
        """Yield the galleries' rows, the most wanted first; the map's sample is not among them."""
        yield self.evidence
        yield from (cluster.typical for cluster in self.clusters)
        yield from (mistake.rows for mistake in self.mistakes)
        yield from (rows for each in self.predictions for rows in (each.right, each.wrong))
        yield self.cuts
        yield self.uncertain
        yield self.issues
        yield self.pseudo_labels
        yield from (cluster.uncertain for cluster in self.clusters)


@dataclass(frozen=True, eq=False)
class Shown:
    """What a run folder holds for a report, and the images that are chosen from it.

    embeddings: (rows, features) or None. evidence, issues, relabelling, numbers: what these sections show, if there are
    any.
    """

    assignments: Assignments
    embeddings: np.ndarray | None
    evidence: Sequence[Section]
    issues: Sequence[Kind]
    relabelling: Relabelling | None
    numbers: Numbers | None
    galleries: Galleries


def read_shown(run_folder: Path | str, *, per_cluster: int = 24, map_points: int = 2000, uncertain: int = 48) -> Shown:
    """Return what a report is made of; arguments and errors as for `gallery_rows`."""
    assignments = read_assignments(run_folder)
    embeddings = open_embeddings(run_folder, rows=len(assignments))
    evidence, issues = read_evidence(run_folder, assignments), read_issues(run_folder, assignments)
    relabelling, numbers = read_relabelling(run_folder, assignments), read_numbers(run_folder, assignments)
    galleries = choose(assignments, embeddings, per_cluster=per_cluster, map_points=map_points, uncertain=uncertain)
    pseudo_labels = _none() if relabelling is None else relabelling.rows()
    galleries = replace(
        galleries,
        evidence=evidence_rows(evidence),
        issues=issue_rows(issues),
        pseudo_labels=pseudo_labels,
        cuts=_none() if numbers is None else numbers.rows(),
    )
    return Shown(assignments, embeddings, evidence, issues, relabelling, numbers, galleries)


def gallery_rows(
    run_folder: Path | str, *, per_cluster: int = 24, map_points: int = 2000, uncertain: int = 48
) -> np.ndarray:
    """Return the rows of `assignments.csv` that a report shows, sorted int64: those to write thumbnails for.

    Reads `assignments.csv` and, where there are any, `embeddings.npy` and the tables of evidence, issues and labels.

    per_cluster: images in each cluster's gallery; three quarters are its most typical, the rest its least certain.
    map_points: images on the map, drawn alike from each cluster. uncertain: the least certain images of all.
    Raises RunError if `assignments.csv` is missing, InputError for a negative number.
    """
    galleries = read_shown(run_folder, per_cluster=per_cluster, map_points=map_points, uncertain=uncertain).galleries
    return np.unique(np.concatenate([galleries.sample, *galleries.shown()])).astype(np.int64)


def open_embeddings(run_folder: Path | str, *, rows: int) -> np.ndarray | None:
    """Return the run's embeddings, (rows, features) float32 mapped from the file, or None where there are none.

    Raises RunError if they do not fit `assignments.csv`.
    """
    path = Path(run_folder) / "embeddings.npy"
    if not path.exists():
        return None
    embeddings = read_array(path)
    if embeddings.dtype.kind != "f" or embeddings.ndim != 2 or len(embeddings) != rows:
        raise RunError(f"{str(path)!r} has shape {embeddings.shape}, but assignments.csv has {rows} rows.")
    return embeddings


def choose(
    assignments: Assignments,
    embeddings: np.ndarray | None,
    *,
    per_cluster: int,
    map_points: int,
    uncertain: int = 48,
) -> Galleries:
    """Return the images to show, of assignments and embeddings alone; the same for the same run.

    Arguments as for `gallery_rows`.
    """
    for name, value in {"per_cluster": per_cluster, "map_points": map_points, "uncertain": uncertain}.items():
        if value < 0:
            raise InputError(f"{name!r} must be 0 or more, got {value}.")
    distance = _oddness(assignments, embeddings)
    doubt = _doubt(assignments)
    sizes = np.bincount(assignments.clusters, minlength=len(assignments.cluster_names))
    largest = np.sort(np.argsort(-sizes, kind="stable")[:MOST_CARDS])
    members = _members(assignments)
    typical = per_cluster - per_cluster // 4
    clusters = [_cluster_gallery(c, members[c], distance, doubt, (typical, per_cluster // 4)) for c in largest]
    return Galleries(
        clusters=clusters,
        mistakes=_mistakes(assignments),
        uncertain=_lowest(doubt, np.arange(len(assignments)), uncertain) if doubt is not None else _none(),
        sample=balanced_sample(assignments.clusters, size=map_points),
        predictions=choose_predictions(assignments),
    )


def _none() -> np.ndarray:
    return np.zeros(0, dtype=np.int64)


def _members(assignments: Assignments) -> list[np.ndarray]:
    order = np.argsort(assignments.clusters, kind="stable")
    sizes = np.bincount(assignments.clusters, minlength=len(assignments.cluster_names))
    return np.split(order, np.cumsum(sizes)[:-1]) if len(sizes) else []


def _cluster_gallery(
    number: int, members: np.ndarray, distance: np.ndarray, doubt: np.ndarray | None, sizes: tuple[int, int]
) -> Cluster:
    typical = _lowest(distance, members, sizes[0])
    rest = np.setdiff1d(members, typical)
    return Cluster(int(number), typical, _none() if doubt is None else _lowest(doubt, rest, sizes[1]))


def _lowest(values: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    return rows[np.argsort(values[rows], kind="stable")[:size]]


def _oddness(assignments: Assignments, embeddings: np.ndarray | None) -> np.ndarray:
    """Return how far each image is from its cluster's mean embedding, (n,); without embeddings, how uncertain it is."""
    if embeddings is None or not embeddings.size:
        return np.nan_to_num(-assignments.confidence, nan=0.0)
    clusters, n_clusters = assignments.clusters, len(assignments.cluster_names)
    means = np.zeros((n_clusters, embeddings.shape[1]))
    for start in range(0, len(embeddings), _BLOCK):
        block = slice(start, start + _BLOCK)
        chosen = clusters[block]
        one_hot = csr_matrix((np.ones(len(chosen)), (chosen, np.arange(len(chosen)))), (n_clusters, len(chosen)))
        means += one_hot @ np.nan_to_num(embeddings[block])
    means /= np.maximum(np.bincount(clusters, minlength=n_clusters), 1)[:, None]
    distance = np.zeros(len(embeddings))
    for start in range(0, len(embeddings), _BLOCK):
        block = slice(start, start + _BLOCK)
        distance[block] = np.linalg.norm(np.nan_to_num(embeddings[block]) - means[clusters[block]], axis=1)
    return distance


def _doubt(assignments: Assignments) -> np.ndarray | None:
    """Return the confidence with unknown ones last, or None where it says nothing: all unknown or all the same."""
    known = assignments.confidence[~np.isnan(assignments.confidence)]
    if len(known) == 0 or np.ptp(known) == 0:
        return None
    return np.nan_to_num(assignments.confidence, nan=2.0)


def _mistakes(assignments: Assignments, *, pairs: int = 12, each: int = 8) -> list[Mistake]:
    """Return the most frequent confusions of the judged split, the most confident images first.

    They are between classes and clusters, or, where there are more clusters than classes, between classes.
    """
    by_class = assignments.has_more_clusters
    taken_for = assignments.predicted() if by_class else assignments.clusters
    rows = np.flatnonzero(assignments.in_split(assignments.judged_split) & assignments.mistaken())
    found, counts = np.unique(np.stack([assignments.classes[rows], taken_for[rows]]), axis=1, return_counts=True)
    mistakes = []
    for k in np.argsort(-counts, kind="stable")[:pairs].tolist():
        class_number, other = found[:, k].tolist()
        own = rows[(assignments.classes[rows] == class_number) & (taken_for[rows] == other)]
        shown = _lowest(-np.nan_to_num(assignments.confidence), own, each)
        cluster, stands_for = (-1, other) if by_class else (other, int(assignments.class_of[other]))
        mistakes.append(Mistake(class_number, cluster, stands_for, len(own), shown))
    return mistakes


def balanced_sample(clusters: np.ndarray, *, size: int, seed: int = 0) -> np.ndarray:
    """Return rows with as many images of each cluster as can be, sorted int64, at most `size` of them.

    Small clusters are taken whole and leave their places to the others.

    clusters: (n,) int64, 0 or more.

    >>> balanced_sample(np.array([0, 0, 0, 0, 1]), size=3).tolist()[-1]
    4
    """
    order = np.random.default_rng(seed).permutation(len(clusters))
    sizes = np.bincount(clusters)
    starts = np.cumsum(sizes) - sizes
    grouped = order[np.argsort(clusters[order], kind="stable")]
    turn = np.arange(len(clusters)) - starts[clusters[grouped]]  # an image's place in its own cluster's queue
    return np.sort(grouped[np.argsort(turn, kind="stable")[:size]]).astype(np.int64)
