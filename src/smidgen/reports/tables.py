"""A run in numbers: assignments as index arrays, the map from clusters to classes, and display tables."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from smidgen import csv_tables
from smidgen.csv_tables import restore_cell
from smidgen.files import read_json
from smidgen.maths.matching import majority_map, match_clusters


@dataclass(frozen=True, eq=False)
class Assignments:
    """The rows of `assignments.csv`, names turned into numbers.

    images, splits: (n,) texts. clusters: (n,) int64 into `cluster_names`, which are in natural order.
    confidence: (n,) float64 in [0, 1], NaN where the run gave none.
    classes: (n,) int64 into `class_names`, -1 where the class is unknown.
    class_of: (clusters,) int64, the class that a cluster stands for, learned on training rows; -1 for none.
    """

    images: Sequence[str]
    splits: np.ndarray
    clusters: np.ndarray
    confidence: np.ndarray
    classes: np.ndarray
    cluster_names: tuple[str, ...]
    class_names: tuple[str, ...]
    class_of: np.ndarray

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @property
    def judged_split(self) -> str:
        """The split that scores and mistakes are about: "test" where there is one with known classes."""
        splits = [str(s) for s in np.unique(self.splits[self.classes >= 0])]
        return "test" if "test" in splits or not splits else splits[0]

    @property
    def has_more_clusters(self) -> bool:
        """Whether there are more clusters than classes, so that several stand for one."""
        return len(self.cluster_names) > len(self.class_names)

    def predicted(self) -> np.ndarray:
        """Return (n,) int64: the class that each image's cluster stands for, -1 for none."""
        return self.class_of[self.clusters]

    def mean_confidence(self) -> np.ndarray:
        """Return (clusters,) float64: the mean over each cluster's images, NaN where none is known."""
        known, n_clusters = ~np.isnan(self.confidence), len(self.cluster_names)
        total = np.bincount(self.clusters[known], weights=self.confidence[known], minlength=n_clusters)
        stated = np.bincount(self.clusters[known], minlength=n_clusters)
        return np.divide(total, stated, out=np.full(n_clusters, np.nan), where=stated > 0)

    def in_split(self, split: str) -> np.ndarray:
        """Return (n,) bool: the rows of a split whose class is known."""
        return (self.splits == split) & (self.classes >= 0)

    def mistaken(self) -> np.ndarray:
        """Return (n,) bool: the rows whose known class is not the one their cluster stands for."""
        return (self.classes >= 0) & (self.predicted() != self.classes)


def read_assignments(run_folder: Path | str) -> Assignments:
    """Return a run's result for each image.

    Raises RunError if `assignments.csv` is missing, damaged or lacks a column.
    """
    folder = Path(run_folder)
    columns = csv_tables.read_assignments(folder / "assignments.csv", ("image", "cluster"))
    n = len(columns["image"])
    clusters, cluster_names = _numbered(columns["cluster"])
    classes, class_names = _numbered(columns.get("class", [""] * n), unknown="")
    splits = np.array(columns.get("split", ["all"] * n), dtype=object)
    named = any("named_accuracy" in key for key in read_optional_json(folder / "metrics.json"))
    return Assignments(
        images=columns["image"],
        splits=splits,
        clusters=clusters,
        confidence=np.array([_number(text) for text in columns.get("confidence", [""] * n)], dtype=np.float64),
        classes=classes,
        cluster_names=cluster_names,
        class_names=class_names,
        class_of=_name_map(cluster_names, class_names)
        if named
        else match_classes(*_matching_rows(clusters, classes, splits), shape=(len(cluster_names), len(class_names))),
    )


def _numbered(names: Sequence[str], *, unknown: str | None = None) -> tuple[np.ndarray, tuple[str, ...]]:
    order = tuple(sorted(set(names) - {unknown}, key=natural_key))
    number = {name: i for i, name in enumerate(order)}
    return np.array([number.get(name, -1) for name in names], dtype=np.int64), order


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a key that sorts "2" before "10" and "cell 2" before "cell 10".

    >>> sorted(["10", "2", "b", "cell 10", "cell 2"], key=natural_key)
    ['2', '10', 'b', 'cell 2', 'cell 10']
    """
    parts = re.findall(r"([0-9]{1,18})|([^0-9]+|[0-9]+)", name)
    return tuple((0, int(digits), "") if digits else (1, 0, text) for digits, text in parts)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _name_map(cluster_names: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    number = {name: i for i, name in enumerate(class_names)}
    return np.array([number.get(name, -1) for name in cluster_names], dtype=np.int64)


def _matching_rows(clusters: np.ndarray, classes: np.ndarray, splits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that the map is learned on: never those of the test split, unless there are no others."""
    known = classes >= 0
    rows = known & (splits != "test")
    rows = rows if rows.any() else known
    return clusters[rows], classes[rows]


def match_classes(clusters: np.ndarray, classes: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    """Return the class that each cluster stands for, (n_clusters,) int64, -1 for a cluster without images here.

    One-to-one with the most agreement (Hungarian method); with more clusters than classes, each its most frequent one.

    clusters, classes: (n,) int64, known ones only. shape: (n_clusters, n_classes).

    >>> match_classes(np.array([0, 0, 1, 2]), np.array([1, 1, 0, 0]), shape=(3, 2)).tolist()
    [1, 0, 0]
    >>> match_classes(np.array([0, 0, 0, 1, 1]), np.array([0, 0, 1, 0, 0]), shape=(2, 2)).tolist()
    [1, 0]
    """
    if shape[0] > shape[1]:
        return majority_map(clusters, classes, *shape)
    found = match_clusters(clusters, classes, *shape)
    return np.where(np.bincount(clusters, minlength=shape[0]) > 0, found, -1)


def count_pairs(first: np.ndarray, second: np.ndarray, *, shape: tuple[int, int]) -> np.ndarray:
    """Return how often each pair of numbers occurs, `shape` int64.

    >>> count_pairs(np.array([0, 0, 1]), np.array([1, 1, 0]), shape=(2, 2)).tolist()
    [[0, 2], [1, 0]]
    """
    return np.bincount(first * shape[1] + second, minlength=shape[0] * shape[1]).reshape(shape)


def confusion(assignments: Assignments, *, split: str) -> np.ndarray:
    """Return how many images of each class went to each cluster, (n_classes, n_clusters) int64, in one split."""
    rows = assignments.in_split(split)
    shape = (len(assignments.class_names), len(assignments.cluster_names))
    return count_pairs(assignments.classes[rows], assignments.clusters[rows], shape=shape)


# ------------------------------------------------------------------------------------------- files, as rows to show


@dataclass(frozen=True)
class Table:
    """The beginning of a table: its name, header, some rows, and how many rows there are in all."""

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    total: int

    @property
    def about(self) -> str:
        """What the table holds, in words; nothing where that is not known."""
        return _ABOUT.get(self.name, "")


_ABOUT = {
    "assignments": "the cluster of each image",
    "bad_images": "files that could not be read",
    "clusters": "what is in each cluster",
    "config.toml": "the settings of the run",
    "issues": "copies, outliers and poor pictures",
    "metrics.json": "the figures above and more",
    "pseudo_labels": "the label that the method gave to each image",
    "relabellings": "what each relabelling changed",
}


def read_table(path: Path, *, limit: int = 50, columns: int = 30, width: int = 200) -> Table:
    """Return the first rows and columns of a CSV file; cells longer than `width` characters are cut."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(file)
        header = next(reader, [])
        rows = [list(row) for row in islice(reader, limit)]
        total = len(rows) + sum(1 for _ in reader)
    short = [[cut(restore_cell(cell), width) for cell in row[:columns]] for row in rows]
    return Table(path.stem, [cut(name, width) for name in header[:columns]], short, total)


def cut(text: str, width: int) -> str:
    """Return a text of at most `width` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def read_tables(run_folder: Path, *, limit: int = 50, most: int = 40) -> list[Table]:
    """Return the beginnings of the run's `tables/*.csv`, by name, at most `most` of them."""
    paths = sorted((run_folder / "tables").glob("*.csv"), key=lambda path: natural_key(path.name))
    return [read_table(path, limit=limit) for path in paths[:most]]


def read_optional_json(path: Path, kind: Any = dict[str, Any]) -> Any:
    """Return the table in a JSON file, empty where the run wrote none; raise RunError if it is not of a kind."""
    return read_json(path, kind) if path.exists() else {}


def key_values(name: str, values: Mapping[str, Any]) -> Table:
    """Return a table of names and values, nested names joined with dots.

    >>> key_values("config", {"seed": 0, "method": {"name": "swav"}}).rows
    [['seed', '0'], ['method.name', 'swav']]
    """
    rows = [[key, cut(plain(value), 400)] for key, value in flatten(values)]
    return Table(name, ["name", "value"], rows, len(rows))


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    """Yield the leaves of nested tables with their dotted names."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


# ------------------------------------------------------------------------------------------------ numbers as words


def plain(value: Any) -> str:
    """Return a value as it stands in a table: floats to four significant digits, lists joined, nothing for None.

    >>> plain(0.123456), plain(70000), plain([1, 2]), plain(True), plain(None)
    ('0.1235', '70000', '1, 2', 'yes', '')
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return str(value)


def thousands(value: float) -> str:
    """Return a whole number with separators: 70,000."""
    return f"{round(value):,}"


def percent(value: float, digits: int = 1) -> str:
    """Return a share as per cent.

    >>> percent(0.9612), percent(1.0)
    ('96.1 %', '100.0 %')
    """
    return f"{100 * value:.{digits}f} %"


def duration(seconds: float) -> str:
    """Return a time span in words.

    >>> duration(0.42), duration(65), duration(7325)
    ('0.4 s', '1 min 5 s', '2 h 2 min')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def interval(metrics: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    """Return the bounds of a score's interval, `<key>_low` and `<key>_high`, where the run gave both."""
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    return (low, high) if is_number(low) and is_number(high) else None


def is_number(value: Any) -> TypeGuard[float]:
    """Return whether a value is a finite number, and not a boolean."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
