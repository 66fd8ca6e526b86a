"""Export to CSV: columns of a run's assignments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from smidgen.csv_tables import write_csv
from smidgen.errors import InputError, unknown
from smidgen.run_folder import RunFolder

COLUMNS = ("image", "split", "cluster", "confidence")


def chosen_rows(run: RunFolder, split: str) -> dict[str, list[str]]:
    """Return the assignments of a split, "all" for every one; raises InputError if there are none."""
    return chosen(run, split)[0]


def chosen(run: RunFolder, split: str) -> tuple[dict[str, list[str]], list[int]]:
    """Return the assignments of a split, and the rows of `assignments.csv` that they are; see `chosen_rows`."""
    table = run.assignments
    rows = [i for i, own in enumerate(table["split"]) if split == "all" or own in (split, "all")]
    if not rows:
        raise InputError(f"{str(run.path)!r} has no images in split {split!r}.")
    return {name: [column[i] for i in rows] for name, column in table.items()}, rows


def export_csv(run: RunFolder, out: Path, *, columns: Sequence[str] = COLUMNS, split: str = "all") -> str:
    """Write some columns of the assignments of a split, and return how many rows there are, in words.

    Raises InputError for a column that there is none of, and for a split without images.
    """
    table = chosen_rows(run, split)
    for name in columns:
        if name not in table:
            raise unknown("column", name, table)
    write_csv(out, {name: table[name] for name in columns})
    return f"{len(table['image']):,} rows"
