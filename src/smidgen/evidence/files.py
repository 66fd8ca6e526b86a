"""Evidence on disk: small tables, read with the line of every statement, written as CSV that reads back the same."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from smidgen.csv_tables import write_csv
from smidgen.data.cells import ImageKey
from smidgen.data.names import class_names, name_of
from smidgen.data.run_tables import CLUSTER_COLUMN, classes_of_run, folder_of_run
from smidgen.data.tabular import IMAGE_COLUMNS, LABEL_COLUMNS, TABLES, Records, read_records
from smidgen.errors import InputError, InputWarning, unknown
from smidgen.evidence.kinds import KINDS, all_kinds, kind_of
from smidgen.evidence.values import value_of

_OTHER_NAMES = {"image": tuple(name for name in IMAGE_COLUMNS if name != "image"), "label": LABEL_COLUMNS[1:]}
"""What columns may be called as well."""

_CONFIDENCE = "confidence"


@dataclass(frozen=True)
class Table:
    """The rows of one file: its columns as its kind has them, the cells of each row in that order, and their lines.

    of_run, folder: as in `statements.Origin`.
    """

    path: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    lines: tuple[int, ...]
    of_run: bool = False
    folder: str = ""


def files_in(folder: Path | str) -> dict[str, Path]:
    """Return kind → path of the evidence files `labels.csv`, `bags.csv`, … in a folder, or of another kind of table.

    Raises InputError if there is none, or two of a kind.
    """
    there: dict[str, Path] = {}
    for kind in KINDS:
        paths = [path for end in TABLES if (path := Path(folder) / f"{kind}{end}").is_file()]
        if len(paths) > 1:
            raise InputError(f"{str(folder)!r} holds both {paths[0].name} and {paths[1].name}; keep one of them.")
        if paths:
            there[kind] = paths[0]
    if not there:
        raise InputError(f"{str(folder)!r} holds no evidence; wanted {', '.join(f'{kind}.csv' for kind in KINDS)}.")
    return there


def read_table(path: Path | str, kind: str, *, min_confidence: float | None = None) -> Table:
    """Return an evidence file; `kind` is a key of `KINDS`.

    CSV as people have it, JSONL or Parquet, see `read_records`; columns in any order and by their usual names, those
    that mean nothing are ignored with a warning. Numbers and truth values are turned into such; a cell may be empty,
    and is None then, for `ucc_min` and `ucc_max` (no limit) and where its row says nothing without: `label` of labels,
    `ucc`, `present` and `same`. min_confidence: the least `confidence`, in [0, 1], of the labels to return: those of a
    run's `assignments.csv`, or of any file with that column; None for all.
    Raises InputError naming file and line if the file is missing, not a table, or a column or cell is not what is
    wanted.
    """
    needed = {*chain(*_OTHER_NAMES.values()), *(name for columns in kind_of(kind).forms for name in columns)}
    known = needed | {CLUSTER_COLUMN, _CONFIDENCE} if kind == "labels" else needed
    records = read_records(path, known=known, required=needed)
    if not records.lines and not records.columns:
        raise InputError(f"{str(path)!r} is empty; wanted the columns {_wanted(kind)}.")
    found = _match_columns(records, kind)
    records.warn_of_ignored([*found.values(), *([_CONFIDENCE] if min_confidence is not None else [])])
    cells = [_read(records, kind, name, of) for name, of in found.items()]
    of_run = CLUSTER_COLUMN in found.values()
    folder = folder_of_run(Path(path)) if of_run else None
    rows, lines = list(zip(*cells, strict=True)), records.lines
    if min_confidence is not None:
        kept = _sure(records, min_confidence)
        rows, lines = [rows[i] for i in kept], [lines[i] for i in kept]
    return Table(str(path), tuple(found), tuple(rows), tuple(lines), of_run, "" if folder is None else str(folder))


def _sure(records: Records, least: float) -> list[int]:
    """Return the numbers of the rows of at least some confidence, and say how many there are."""
    if _CONFIDENCE not in records.names:
        raise InputError(
            f"{records.path!r} has no column {_CONFIDENCE!r} for `min_confidence` to choose by: give a run's"
            " assignments.csv, or leave it out."
        )
    places = (f"{records.path} line {line}: {_CONFIDENCE}" for line in records.lines)
    cells = zip(records.columns[_CONFIDENCE], places, strict=True)
    kept = [i for i, (cell, place) in enumerate(cells) if value_of(_share, cell, place) >= least]
    n = len(records.lines)
    if not kept:
        raise InputError(f"None of the {n:,} labels in {records.path!r} has a confidence of {least:g} or more.")
    message = f"{records.path!r}: {len(kept):,} of {n:,} labels have a confidence of {least:g} or more and are taken."
    warnings.warn(InputWarning(message), stacklevel=3)
    return kept


def _share(value: Any) -> float:
    """Return a confidence, 0 where there is none."""
    if value is None or value == "":
        return 0.0
    found = float(value)
    if not 0 <= found <= 1:
        raise ValueError(f"must be from 0 to 1, got {found:g}")
    return found


def write_table(path: Path, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Write rows under `columns`, truth values as 1 and 0, None as an empty cell."""
    cells = [[int(v) if isinstance(v, bool) else "" if v is None else v for v in column] for column in zip(*rows)]  # noqa: B905
    write_csv(path, dict(zip(columns, cells or [[] for _ in columns], strict=True)))


def _wanted(kind: str) -> str:
    return " or ".join(",".join(columns) for columns in kind_of(kind).forms)


def _match_columns(records: Records, kind: str) -> dict[str, str]:
    """Return column → its name in the file, for one of the forms that this kind of file has."""
    names, known = records.names, {name for columns in kind_of(kind).forms for name in columns}
    if kind == "labels" and (found := _clusters_as_labels(records)) is not None:
        return found
    fits = [found for columns in kind_of(kind).forms if (found := _named(columns, names)) is not None]
    place = f"{records.path} line 1"
    if len(fits) == 1 and not set(names) & (known - fits[0].keys()):
        return fits[0]
    usual = {name for column in known for name in _usual(column)}
    strange = next((name for name in names if name and name not in usual), None)
    if strange is None or fits:
        raise InputError(f"{place}: the columns are {','.join(names)}; wanted {_wanted(kind)}.")
    others = [kind.name for kind in all_kinds() if any(_named(columns, names) for columns in kind.forms)]
    hint = f" These are the columns of {' or '.join(others)}." if others else ""
    if not others and not usual & set(names):
        hint = " The first line must name the columns."
    raise InputError(f"{place}: {unknown('column', strange, known)} Wanted {_wanted(kind)}.{hint}")


def _clusters_as_labels(records: Records) -> dict[str, str] | None:
    """Return the columns of labels of a table of smidgen's, and say so; None for other tables.

    Its clusters are what is to be learned, unless a column `label` was added; `class` holds the classes known for
    scores.
    """
    if CLUSTER_COLUMN not in records.names or "label" in records.names:
        return None
    found = _named(("image", CLUSTER_COLUMN), records.names)
    if found is None:
        return None
    message = f"{records.path!r} is a table of smidgen's: its column {CLUSTER_COLUMN!r} is read as labels."
    warnings.warn(InputWarning(message), stacklevel=2)
    return {"image": found["image"], "label": CLUSTER_COLUMN}


def _usual(column: str) -> tuple[str, ...]:
    """Return what a column is called: its own name, and others that are usual."""
    return (column, *_OTHER_NAMES.get(column, ()))


def _named(columns: Sequence[str], names: Sequence[str]) -> dict[str, str] | None:
    """Return column → name in the file, its own or another that is usual; None if one is missing."""
    found = {column: next((name for name in _usual(column) if name in names), "") for column in columns}
    return found if all(found.values()) else None


def _read(records: Records, kind: str, column: str, name: str) -> list[Any]:
    """Return the cells of a column as what they mean."""
    cells, lines = records.columns[name], records.lines
    if column == "label":
        classes = class_names(cells, source=records.path, where=lambda i: f"{records.path} line {lines[i]}")
        return classes if name != CLUSTER_COLUMN else _of_clusters(classes, named=classes_of_run(Path(records.path)))
    read = {**_READERS, **kind_of(kind).cells}[column]
    places = (f"{records.path} line {line}: {column}" for line in lines)
    return [value_of(read, cell, place) for cell, place in zip(cells, places, strict=True)]


def _of_clusters(names: Sequence[str | None], *, named: Sequence[str]) -> list[str | None]:
    """Return clusters as classes: the number of one that stands for no class must not pass for a class of that name.

    >>> _of_clusters(["3", "cat", "12"], named=["12", "cat"])
    ['cluster 3', 'cat', '12']
    """
    return [f"cluster {name}" if name and name.isdecimal() and name not in named else name for name in names]


def _image(value: Any) -> ImageKey:
    name = value if isinstance(value, str) else name_of(value)  # spaces may belong to the name
    if not name.strip():
        raise ValueError("must name an image")
    return name


def _bag(value: Any) -> str:
    if not name_of(value):
        raise ValueError("must not be empty")
    return name_of(value)


_READERS: dict[str, Callable[[Any], Any]] = {"image": _image, "image_a": _image, "image_b": _image, "bag": _bag}
