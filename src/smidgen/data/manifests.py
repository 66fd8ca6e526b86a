"""Manifests: CSV, Parquet or JSONL files that name images, and perhaps their class and split."""

from __future__ import annotations

import csv
import io
import json
import os
import posixpath
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from smidgen.data.folders import SPLITS, Collection, Item, id_from_path, path_from_id
from smidgen.data.images import read_capped
from smidgen.errors import InputError

PATH_COLUMNS = ("path", "file_name", "filepath")
LABEL_COLUMNS = ("label", "class")
SPLIT_COLUMN = "split"


def collect_manifest(path: Path) -> Collection:
    """Return the images that a manifest names, in its order.

    Paths are relative to the manifest's folder and, tidied of `./`, are the image ids. Of the label and split
    columns empty cells mean unknown and no split; splits other than "train" and "test" are taken by "all" only.

    Raises InputError if the file cannot be parsed, has no path column, or names an image twice.
    """
    columns = _read_columns(path)
    paths = _column(columns, PATH_COLUMNS)
    if paths is None:
        raise InputError(
            f"The manifest {os.fspath(path)!r} needs a column {' or '.join(PATH_COLUMNS)}, "
            f"but has: {', '.join(columns) or 'none'}."
        )
    labels = _column(columns, LABEL_COLUMNS) or [""] * len(paths)
    splits = _column(columns, (SPLIT_COLUMN,)) or [""] * len(paths)
    items: list[Item] = []
    rows: dict[str, int] = {}
    for row, (name, label, split) in enumerate(zip(paths, labels, splits, strict=True), start=1):
        if not name:
            raise InputError(f"The manifest {os.fspath(path)!r} names no image in row {row}.")
        name = posixpath.normpath(name)
        image_id = id_from_path(name) if not _is_id(path.parent, name) else name
        if image_id in rows:
            raise InputError(
                f"The manifest {os.fspath(path)!r} names {image_id!r} twice, in rows {rows[image_id]} and {row}."
            )
        rows[image_id] = row
        file = path.parent / path_from_id(image_id)
        items.append(Item(image_id, partial(read_capped, file), _split_name(split), label or None))
    return Collection(tuple(items))


def _is_id(folder: Path, name: str) -> bool:
    """Tell whether a name with a backslash is an id that smidgen wrote rather than a file's own name."""
    return "\\" in name and not os.path.lexists(folder / name)


def _split_name(split: str) -> str | None:
    return split.lower() if split.lower() in SPLITS else split or None


def _read_columns(path: Path) -> dict[str, list[str]]:
    """Return the manifest's columns as text, named in lower case."""
    kind = path.suffix.lower()
    try:
        if kind == ".parquet":
            return _parquet_columns(path)
        text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        rows = _json_rows(text) if kind == ".jsonl" else list(csv.DictReader(io.StringIO(text, newline="")))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"The manifest {os.fspath(path)!r} cannot be read ({error}).") from error
    names = list(dict.fromkeys(name for row in rows for name in row if name is not None))
    return {name.strip().lower(): [_text(row.get(name)) for row in rows] for name in names}


def _parquet_columns(path: Path) -> dict[str, list[str]]:
    from pyarrow import parquet  # a slow import that few manifests need

    wanted = {*PATH_COLUMNS, *LABEL_COLUMNS, SPLIT_COLUMN}
    file = parquet.ParquetFile(path)
    names = list(file.schema_arrow.names)
    table = file.read(columns=[name for name in names if name.lower() in wanted])
    read = {name.lower(): [_text(value) for value in table[name].to_pylist()] for name in table.column_names}
    return read if read else {name: [] for name in names}


def _json_rows(text: str) -> list[dict[str, object]]:
    rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is not an object")
    return rows


def _text(value: object) -> str:
    return "" if value is None else str(value)


def _column(columns: dict[str, list[str]], names: Sequence[str]) -> list[str] | None:
    return next((columns[name] for name in names if name in columns), None)
