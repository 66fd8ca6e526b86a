"""The report's section on methods that relabel their images: how labels changed, and what images they are given to.

Everything comes from the run's `tables/relabellings.csv` and `tables/pseudo_labels.csv`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.csv_tables import read_csv
from smidgen.errors import RunError
from smidgen.reports import figures
from smidgen.reports.curves import course
from smidgen.reports.tables import Assignments, count_pairs, percent

_LABELS = 8  # pseudo-labels in a gallery
_EACH = 8  # images of each, in each split
_FEWEST = 4  # training images without which a label is not called pure


@dataclass(frozen=True, eq=False)
class LabelImages:
    """One pseudo-label: its number, how many training images it has, its entropy in bits, and random images as rows.

    rows: by split, the training images first.
    """

    number: int
    size: int
    entropy: float
    rows: Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class Relabelling:
    """The section: charts, the pseudo-labels of the lowest entropy, and random ones.

    of_classes: whether entropies are those of the known classes within a label, or of the net's predictions.
    """

    charts: Sequence[Mapping[str, Any]]
    lowest: Sequence[LabelImages]
    random: Sequence[LabelImages]
    n_labels: int
    of_classes: bool

    @property
    def has_test(self) -> bool:
        """Whether test images are among those shown."""
        return any("test" in label.rows for label in (*self.lowest, *self.random))

    def rows(self) -> np.ndarray:
        """Return the rows of all images that the section shows, (m,) int64."""
        found = [rows for label in (*self.lowest, *self.random) for rows in label.rows.values()]
        return np.concatenate([np.zeros(0, dtype=np.int64), *found])


def read_relabelling(run_folder: Path | str, assignments: Assignments) -> Relabelling | None:
    """Return what the section shows, None where the method gives no pseudo-labels; RunError for a damaged table."""
    folder = Path(run_folder) / "tables"
    changes, labels = folder / "relabellings.csv", folder / "pseudo_labels.csv"
    if not changes.is_file() and not labels.is_file():
        return None
    lowest: list[LabelImages] = []
    random: list[LabelImages] = []
    n_labels, charts = 0, _read(changes, _charts) if changes.is_file() else []
    of_classes = bool((assignments.classes[assignments.splits != "test"] >= 0).any())
    if labels.is_file():
        numbers, entropies = _read(labels, lambda table: _labels(table, len(assignments)))
        n_labels = len(np.unique(numbers))
        lowest, random = _choose(assignments, numbers, entropies, of_classes=of_classes)
    return Relabelling(charts, lowest, random, n_labels, of_classes)


def _read(path: Path, function: Any) -> Any:
    try:
        return function(read_csv(path))
    except (KeyError, ValueError) as error:
        raise RunError(f"{str(path)!r} is not a table of {path.stem} ({error}).") from None


# ---------------------------------------------------------------------------------------------------------- charts


@dataclass(frozen=True)
class _Chart:
    """One chart: its name, how the curve of each column is called, and a sentence on each.

    band: the columns of the lower and upper edge around the first curve. missed: a sentence where a curve is missing.
    """

    name: str
    curves: Mapping[str, str]
    notes: Mapping[str, str]
    is_share: bool = False
    band: Sequence[str] = ()
    missed: str = ""


_CHARTS = (
    _Chart(
        "Agreement of labels (NMI)",
        {"nmi_previous": "with the labels before", "nmi_classes": "with the known classes"},
        {
            "nmi_previous": "How much the labels share with those of the relabelling before; 1 is no change.",
            "nmi_classes": "The known classes are compared with, too; the method does not see them.",
        },
    ),
    _Chart(
        "Images that changed their label",
        {"reassigned": "share of images"},
        {"reassigned": "The share of training images that got another label than before; it falls as labels settle."},
        is_share=True,
    ),
    _Chart(
        "Loss",
        {"training_loss": "training images", "validation_loss": "held-out images"},
        {
            "training_loss": "The mean loss in training from one relabelling to the next.",
            "validation_loss": "Held-out images are up to 2,000 test images, which get labels but are not learned from:"
            " a growing gap means that the net memorises its labels.",
        },
        missed="With test images (--test) there would be a curve of held-out ones, too.",
    ),
    _Chart(
        "Clustering loss",
        {"clustering_loss": "k-means"},
        {"clustering_loss": "The mean squared distance of features to the centre of their group, when k-means ends."},
    ),
    _Chart(
        "Classes within a label",
        {"class_entropy": "median"},
        {
            "class_entropy": "The entropy of the known classes among the images of one label, in bits: 0 where all are"
            " of one class; the band holds the middle half of all labels.",
        },
        band=("class_entropy_low", "class_entropy_high"),
    ),
    _Chart(
        "Sinkhorn iterations",
        {"iterations": "per head"},
        {"iterations": "How many iterations it took to find labels that are all used equally often."},
    ),
    _Chart(
        "Largest label",
        {"largest": "share of images"},
        {"largest": "The share of images that have the most frequent label."},
        is_share=True,
    ),
)

SHOWN = frozenset(column for chart in _CHARTS for column in chart.curves)
"""Columns that have a chart here: the log has them, too, and the section on training leaves them out."""


def _charts(table: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    columns = {name: np.array([float(cell or "nan") for cell in cells]) for name, cells in table.items()}
    known = {name: values for name, values in columns.items() if np.isfinite(values).any()}
    if len(columns["step"]) < 2:
        return []
    return [_drawn(chart, known) for chart in _CHARTS if chart.curves.keys() & known.keys()]


def _drawn(chart: _Chart, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    keys = [key for key in chart.curves if key in columns]
    strokes = {chart.curves[key]: [_points(columns[key])] for key in keys}
    notes = [chart.notes[key] for key in keys] + [chart.missed] * (len(keys) < len(chart.curves))
    last = {name: points[0][-1][1] for name, points in strokes.items()}
    svg = figures.line_chart(
        strokes,
        [("", 0.0, len(columns["step"]) - 1.0)],
        label=f"{chart.name} at each relabelling: {course(strokes)}",
        band=[_points(columns[edge]) for edge in chart.band if edge in columns],
        axis="relabelling",
    )
    return {
        "name": chart.name,
        "title": chart.name,
        "last": [(name, percent(value) if chart.is_share else f"{value:.3g}") for name, value in last.items()],
        "svg": svg,
        "note": " ".join(filter(None, notes)),
    }


def _points(values: np.ndarray) -> list[figures.Point]:
    return [(float(t), float(values[t])) for t in np.flatnonzero(np.isfinite(values))]


# ------------------------------------------------------------------------------------------------------- galleries


def _labels(table: Mapping[str, Sequence[str]], n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the label and the prediction's entropy of each row of `assignments.csv`."""
    labels = np.array([int(cell) for cell in table["label"]], dtype=np.int64)
    entropies = np.array([float(cell) for cell in table["entropy"]])
    if len(labels) != n or (labels < 0).any() or (labels > 10**6).any():
        raise ValueError(f"labels of {n} images were expected")
    return labels, entropies


def _choose(
    assignments: Assignments, labels: np.ndarray, entropies: np.ndarray, *, of_classes: bool, seed: int = 0
) -> tuple[list[LabelImages], list[LabelImages]]:
    """Return the pseudo-labels of the lowest entropy on training images, and random ones of the others."""
    train = assignments.splits != "test"
    n_labels = int(labels.max(initial=-1)) + 1
    sizes = np.bincount(labels[train], minlength=n_labels)
    by_label = (
        _class_entropy(assignments, labels, n_labels) if of_classes else _mean(labels, entropies, n_labels, train)
    )
    rng = np.random.default_rng(seed)
    held = np.flatnonzero(sizes >= min(_FEWEST, max(sizes.max(initial=0), 1)))
    ordered = held[np.argsort(by_label[held], kind="stable")]
    n_shown = min(_LABELS, (len(held) + 1) // 2)
    lowest, others = ordered[:n_shown], ordered[n_shown:]
    random = np.sort(rng.choice(others, min(_LABELS, len(others)), replace=False))
    order = rng.permutation(len(labels))
    return tuple(  # type: ignore[return-value]
        [
            LabelImages(int(k), int(sizes[k]), float(by_label[k]), _images(assignments, order[labels[order] == k]))
            for k in chosen
        ]
        for chosen in (lowest, random)
    )


def _images(assignments: Assignments, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the first rows of each split, the training images first; splits without any are left out."""
    splits = [s for s in ("train", "all", "test") if (assignments.splits[rows] == s).any()]
    return {split: rows[assignments.splits[rows] == split][:_EACH] for split in splits}


def _class_entropy(assignments: Assignments, labels: np.ndarray, n_labels: int) -> np.ndarray:
    """Return the entropy in bits of the known classes within each label (n_labels,), infinite where none is known."""
    known = (assignments.classes >= 0) & (assignments.splits != "test")
    counts = count_pairs(labels[known], assignments.classes[known], shape=(n_labels, len(assignments.class_names)))
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    bits = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(1)
    return np.where(counts.any(1), bits + 0.0, np.inf)


def _mean(labels: np.ndarray, entropies: np.ndarray, n_labels: int, rows: np.ndarray) -> np.ndarray:
    total = np.bincount(labels[rows], weights=entropies[rows], minlength=n_labels)
    return total / np.maximum(np.bincount(labels[rows], minlength=n_labels), 1)
