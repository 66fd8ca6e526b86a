"""Right and wrong predictions, class by class, and the table of clusters: what the section on classes is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smidgen.csv_tables import Column
from smidgen.reports.tables import Assignments, count_pairs

MOST_CLASSES = 30  # that get galleries; the ones with the most images where there are more
_IMAGES = 480  # in all these galleries together, about
_SIZES = (16, 8, 4)  # images of one gallery: one row on a wide page is eight
_MOST_CELLS = 2_000_000  # of the table of clusters, beyond which it has no column for each class


@dataclass(frozen=True, eq=False)
class Predictions:
    """Images of one split that are predicted to be of one class.

    n_right, n_wrong: how many are of that class and how many of another. right, wrong: some of them, as rows.
    """

    class_number: int
    split: str
    n_right: int
    n_wrong: int
    right: np.ndarray
    wrong: np.ndarray


def choose_predictions(assignments: Assignments, *, seed: int = 0) -> list[Predictions]:
    """Return random right and wrong predictions of each class and split, training images first.

    Images are predicted to be of the class that their cluster stands for. The same run gives the same images.
    """
    splits = [s for s in ("train", "all", "test") if assignments.in_split(s).any()]
    sizes = np.bincount(assignments.classes[assignments.classes >= 0], minlength=len(assignments.class_names))
    shown = np.sort(np.argsort(-sizes, kind="stable")[:MOST_CLASSES]).tolist()
    share = _IMAGES // max(1, 2 * len(shown) * len(splits))
    each = next((size for size in _SIZES if size <= share), _SIZES[-1])
    order = np.random.default_rng(seed).permutation(len(assignments))
    predicted, wrong = assignments.predicted()[order], assignments.mistaken()[order]
    found = []
    for class_number in shown:
        for split in splits:
            here = assignments.in_split(split)[order] & (predicted == class_number)
            good, bad = order[here & ~wrong], order[here & wrong]
            found.append(Predictions(class_number, split, len(good), len(bad), good[:each], bad[:each]))
    return found


@dataclass(frozen=True, eq=False)
class ClusterRow:
    """One cluster as a row of the table: its number, sizes, and the images of each class in it.

    size: all its images. stands_for: the class on which it was matched, -1 for none. counts: (classes,) of the images
    of known class of one split, `known` in all. dominant: the most frequent class, -1 for none; purity: its share.
    """

    number: int
    size: int
    stands_for: int
    counts: np.ndarray
    known: int
    dominant: int
    purity: float


def cluster_rows(assignments: Assignments, *, split: str) -> list[ClusterRow]:
    """Return a row for each cluster, the largest first; classes are counted in one split."""
    shape = (len(assignments.cluster_names), len(assignments.class_names))
    rows = assignments.in_split(split)
    counts = count_pairs(assignments.clusters[rows], assignments.classes[rows], shape=shape)
    sizes = np.bincount(assignments.clusters, minlength=shape[0])
    return [
        ClusterRow(
            number=k,
            size=int(sizes[k]),
            stands_for=int(assignments.class_of[k]),
            counts=counts[k],
            known=int(counts[k].sum()),
            dominant=int(counts[k].argmax()) if counts[k].any() else -1,
            purity=float(counts[k].max() / counts[k].sum()) if counts[k].any() else float("nan"),
        )
        for k in np.argsort(-sizes, kind="stable").tolist()
    ]


def table_split(assignments: Assignments) -> str:
    """Return the split whose classes the table counts: training images, on which clusters are matched, if it can be."""
    return next((s for s in ("train", "all") if assignments.in_split(s).any()), assignments.judged_split)


def cluster_table(assignments: Assignments) -> Mapping[str, Column]:
    """Return `tables/clusters.csv`: cluster, images, mean confidence; with known classes, what is in each cluster.

    A column `class <name>` for each class holds how many images of it are in the cluster, in the split `table_split`.
    """
    split = table_split(assignments)
    rows = cluster_rows(assignments, split=split)
    confidence = assignments.mean_confidence()
    table: dict[str, Sequence[Any]] = {
        "cluster": [assignments.cluster_names[row.number] for row in rows],
        "images": [row.size for row in rows],
        "confidence": ["" if np.isnan(confidence[row.number]) else f"{confidence[row.number]:.4f}" for row in rows],
    }
    if not assignments.class_names:
        return table
    names = (*assignments.class_names, "")  # -1 is none
    table |= {
        "stands_for": [names[row.stands_for] for row in rows],
        "split": [split] * len(rows),
        "of_known_class": [row.known for row in rows],
        "most_frequent_class": [names[row.dominant] for row in rows],
        "purity": [f"{row.purity:.4f}" if row.known else "" for row in rows],
    }
    if len(rows) * len(assignments.class_names) > _MOST_CELLS:
        return table
    return table | {f"class {name}": [int(row.counts[c]) for row in rows] for c, name in enumerate(names[:-1])}
