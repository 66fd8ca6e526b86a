"""Tables as CSV: cells that spreadsheets would run as formulas are escaped on writing and restored on reading."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.errors import Damaged, RunError
from smidgen.files import atomic_write
from smidgen.schemas import KnownAssignments, convert

Column = Sequence[Any] | np.ndarray
"""One column of a table."""

_DANGEROUS = "=+-@\t\r"
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(inf|nan)")


def guard_cell(text: str) -> str:
    """Make a text harmless to spreadsheets that run cells as formulas; numbers stay as they are.

    A path gets `./` before it, which leaves it the same path; `restore_cell` takes it away.

    >>> guard_cell("=1+1"), guard_cell("-0.5"), guard_cell("a.png")
    ('./=1+1', '-0.5', 'a.png')
    """
    if (text.startswith(tuple(_DANGEROUS)) and not _NUMBER.fullmatch(text)) or text.startswith("./"):
        return f"./{text}"
    return text


def restore_cell(text: str) -> str:
    """Return the text that `guard_cell` was given.

    >>> restore_cell(guard_cell("=1+1")), restore_cell(guard_cell("./x"))
    ('=1+1', './x')
    """
    rest = text[2:]
    if text.startswith("./") and rest.startswith((*_DANGEROUS, "./")):
        return rest
    return text


def write_csv(path: Path | str, columns: Mapping[str, Column]) -> None:
    """Write columns of equal length as UTF-8 CSV, atomically; texts that look like formulas are guarded."""
    with atomic_write(path) as file:
        file.write(csv_text(columns).encode(errors="surrogateescape"))  # names that are not UTF-8 keep their bytes


def csv_text(columns: Mapping[str, Column]) -> str:
    r"""Return columns of equal length as CSV; texts that look like formulas are guarded.

    >>> csv_text({"image": ["=1", "a.png"], "cluster": [0, 1]})
    'image,cluster\n./=1,0\na.png,1\n'
    """
    text = io.StringIO()
    guarded = [[guard_cell(v) if isinstance(v, str) else v for v in column] for column in columns.values()]
    # Python < 3.13 does not quote a lone carriage return, and reads it as the end of a row.
    returns = any(isinstance(v, str) and "\r" in v for column in guarded for v in column)
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL)
    writer.writerow(columns)
    writer.writerows(zip(*guarded, strict=True))
    return text.getvalue()


def read_csv(path: Path | str) -> dict[str, list[str]]:
    """Return the columns of a CSV file written by `write_csv`, texts restored; raise RunError if that is impossible."""
    try:
        with Path(path).open(newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [*csv.reader(file)]
    except FileNotFoundError:
        raise RunError(f"{str(path)!r} is missing: is this a run folder that has finished?") from None
    except (csv.Error, ValueError) as error:
        raise RunError(f"{str(path)!r} is not a table ({error}).") from None
    if not rows:
        raise RunError(f"{str(path)!r} is not a table: it is empty.")
    header, *body = rows
    if any(len(row) != len(header) for row in body):
        raise RunError(f"{str(path)!r} is not a table: its rows differ in length.")
    return {name: [restore_cell(row[i]) for row in body] for i, name in enumerate(header)}


def read_assignments(path: Path, required: Sequence[str]) -> dict[str, list[str]]:
    """Return the columns of an `assignments.csv`; raise RunError if a required one is missing or a cell makes no sense.

    Images, splits and clusters have names, confidences are from 0 to 1 or empty.
    """
    table = read_csv(path)
    for name in required:
        if name not in table:
            raise RunError(f"{str(path)!r} has no column {name!r}: was it written by smidgen?")
    try:
        convert(table, KnownAssignments, strict=False)
    except Damaged as error:
        raise RunError(f"{str(path)!r} is damaged ({error}).") from None
    return table
