"""The report's section on images that deserve a look: copies, outliers, and pictures with next to nothing in them.

Everything comes from the run's `tables/issues.csv`, which `outputs.write_issues` writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smidgen.csv_tables import read_csv
from smidgen.errors import RunError
from smidgen.reports.tables import Assignments

WORDS: dict[str, tuple[str, str]] = {
    "duplicate": ("Copies", "the same picture more than once"),
    "near_duplicate": ("Near copies", "the same picture slightly changed: resized, recompressed, moved a little"),
    "look_alike": ("Look-alikes", "pictures that the encoder can hardly tell apart"),
    "outlier": ("Outliers", "unlike any other picture, the oddest first"),
    "odd_size": ("Odd sizes", "much larger, smaller, wider or taller than the others"),
    "blurred": ("Blurred", "much less sharp than the others"),
    "dark": ("Dark", "next to no light in them"),
    "bright": ("Bright", "next to nothing but white in them"),
    "low_contrast": ("Little contrast", "next to nothing to see in them"),
}
"""Kind of issue → its heading, and what it means; in the order of the page."""

_GROUPS, _IN_GROUP = 12, 4  # of copies that are shown, and images of each
_SINGLE = 16  # images of other kinds that are shown


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of issue: its heading and meaning, how many images have it, and groups of rows; single ones are one."""

    name: str
    meaning: str
    total: int
    groups: Sequence[np.ndarray]
    are_copies: bool


def read_issues(run_folder: Path | str, assignments: Assignments) -> list[Kind]:
    """Return the kinds of issues that a run's images have, empty where none was found; RunError for a damaged table."""
    path = Path(run_folder) / "tables" / "issues.csv"
    if not path.is_file():
        return []
    try:
        return _kinds(read_csv(path), assignments)
    except (KeyError, ValueError) as error:
        raise RunError(f"{str(path)!r} is not a table of issues ({error}).") from None


def issue_rows(kinds: Sequence[Kind]) -> np.ndarray:
    """Return the rows of all images that the section shows, (m,) int64."""
    found = [rows for kind in kinds for rows in kind.groups]
    return np.concatenate([np.zeros(0, dtype=np.int64), *found])


def _kinds(table: Mapping[str, Sequence[str]], assignments: Assignments) -> list[Kind]:
    row_of = {key: row for row, key in enumerate(zip(assignments.splits, assignments.images, strict=True))}
    by_kind: dict[str, list[tuple[str, int]]] = {}
    columns = (table[name] for name in ("kind", "group", "split", "image"))
    for kind, group, split, image in zip(*columns, strict=True):
        if (split, image) in row_of:
            by_kind.setdefault(kind, []).append((group, row_of[split, image]))
    return [_kind(name, by_kind[name]) for name in WORDS if name in by_kind]


def _kind(name: str, found: Sequence[tuple[str, int]]) -> Kind:
    """found: (group, row) of each image, group empty where there is none."""
    groups: dict[str, list[int]] = {}
    for group, row in found:
        groups.setdefault(group, []).append(row)
    are_copies = "" not in groups
    size = _IN_GROUP if are_copies else _SINGLE
    shown = [np.array(rows[:size], dtype=np.int64) for rows in list(groups.values())[:_GROUPS]]
    return Kind(*WORDS[name], total=len(found), groups=shown, are_copies=are_copies)
