"""Evidence on disk: small CSV files, read with the line of every statement, written so that they read back the same."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.errors import InputError, unknown
from smidgen.runs import restore_cell, write_csv

FILES: dict[str, tuple[tuple[str, ...], ...]] = {
    "labels": (("image", "label"),),
    "bags": (("bag", "image"),),
    "counts": (("bag", "ucc"), ("bag", "ucc_min", "ucc_max")),
    "proportions": (("bag", "label", "share"), ("bag", "label", "count")),
    "presence": (("bag", "label", "present"),),
    "pairs": (("image_a", "image_b", "same"),),
}
"""Each file's name without .csv, and the columns it may have, in any order."""

_TRUE = frozenset(("1", "true", "yes", "y", "same", "present"))
_FALSE = frozenset(("0", "false", "no", "n", "different", "absent"))


@dataclass(frozen=True)
class Table:
    """The rows of one file: its columns as found in `FILES`, the cells of each row in that order, and their lines."""

    path: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    lines: tuple[int, ...]


def files_in(folder: Path | str) -> dict[str, Path]:
    """Return kind → path of the evidence files `labels.csv`, `bags.csv`, … in a folder; InputError if there is none."""
    paths = {kind: Path(folder) / f"{kind}.csv" for kind in FILES}
    there = {kind: path for kind, path in paths.items() if path.is_file()}
    if not there:
        raise InputError(f"{str(folder)!r} holds no evidence; wanted {', '.join(p.name for p in paths.values())}.")
    return there


def read_table(path: Path | str, kind: str) -> Table:
    """Return an evidence file; `kind` is a key of `FILES`.

    UTF-8 with or without byte-order mark, any line ends, columns in any order, blank lines ignored. Numbers and truth
    values are turned into such; an empty cell is allowed for `ucc_max` (no limit) and `label` (not known).
    Raises InputError naming file and line if the file is missing, not CSV, or a column or cell is not what is wanted.
    """
    records = _records(Path(path))
    if not records:
        raise InputError(f"{str(path)!r} is empty; wanted the columns {_wanted(kind)}.")
    (_, header), *body = records
    header = [name.strip().lower() for name in header]
    columns = _match_columns(path, kind, header)
    readers = [(header.index(name), name, _READERS[name]) for name in columns]
    rows = []
    for line, cells in body:
        if len(cells) != len(header):
            raise InputError(
                f"{path} line {line}: {len(cells)} cells, but {len(header)} columns; quote texts with commas."
            )
        rows.append(tuple(_cell(path, line, name, read, cells[j]) for j, name, read in readers))
    return Table(str(path), columns, tuple(rows), tuple(line for line, _ in body))


def write_table(path: Path, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Write rows under `columns`, truth values as 1 and 0, None as an empty cell."""
    cells = [[int(v) if isinstance(v, bool) else "" if v is None else v for v in column] for column in zip(*rows)]  # noqa: B905
    write_csv(path, dict(zip(columns, cells or [[] for _ in columns], strict=True)))


def _records(path: Path) -> list[tuple[int, list[str]]]:
    """Return (line, cells) of every line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{str(path)!r} is missing; give the path of a CSV file.") from None
    except OSError as error:
        raise InputError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{str(path)!r} is not UTF-8 text (byte {error.start}); save it as CSV in UTF-8.") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise InputError(f"{path} line {reader.line_num}: not CSV ({error}).") from None


def _wanted(kind: str) -> str:
    return " or ".join(",".join(columns) for columns in FILES[kind])


def _match_columns(path: Path | str, kind: str, header: list[str]) -> tuple[str, ...]:
    for columns in FILES[kind]:
        if sorted(header) == sorted(columns):
            return columns
    known = {name for columns in FILES[kind] for name in columns}
    if len(header) == 1 and any(mark in header[0] for mark in ";\t|"):
        raise InputError(f"{path} line 1: the columns must be separated by commas, got {header[0]!r}.")
    strange = next((name for name in header if name not in known), None)
    if strange is not None:
        raise InputError(f"{path} line 1: {unknown('column', strange, known)} Wanted {_wanted(kind)}.")
    raise InputError(f"{path} line 1: the columns are {','.join(header)}; wanted {_wanted(kind)}.")


def _cell(path: Path | str, line: int, column: str, read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError as error:
        raise InputError(f"{path} line {line}: {column} {error}, got {text!r}.") from None


def _image(text: str) -> str:
    if not text:
        raise ValueError("must name an image")
    return restore_cell(text)


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return restore_cell(text.strip())


def _label(text: str) -> str | None:
    text = text.strip()
    return None if text in ("", "-1") else restore_cell(text)


def _whole(text: str) -> int:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not value.is_integer():
        raise ValueError("must be a whole number")
    return int(value)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("must be a number")
    return value


def _truth(text: str) -> bool:
    word = text.strip().lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("must be 1 or 0")
    return word in _TRUE


_READERS: dict[str, Callable[[str], Any]] = {
    "image": _image, "image_a": _image, "image_b": _image, "bag": _name, "label": _label,
    "ucc": _whole, "ucc_min": _whole, "ucc_max": lambda text: _whole(text) if text.strip() else None,
    "share": _share, "count": _whole, "present": _truth, "same": _truth,
}  # fmt: skip
