"""Export to a table: columns of a run's assignments."""

from __future__ import annotations

import argparse
from pathlib import Path

from smidgen.cli.console import Progress
from smidgen.cli.files import require_new_file
from smidgen.csv_tables import write_csv
from smidgen.errors import InputError, unknown
from smidgen.run_folder import RunFolder


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


def export(run: RunFolder, args: argparse.Namespace, console: Progress) -> str:
    """Write the chosen columns of the chosen split, and say how many rows."""
    out = Path(args.out)
    require_new_file(out, overwrite=args.overwrite)
    table = chosen_rows(run, args.split)
    wanted = [name.strip() for name in args.columns.split(",") if name.strip()]
    for name in wanted:
        if name not in table:
            raise unknown("column", name, table)
    write_csv(out, {name: table[name] for name in wanted})
    return f"{len(table['image']):,} rows"
