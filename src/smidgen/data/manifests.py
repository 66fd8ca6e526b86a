"""Manifests: CSV, Parquet or JSONL files that name images, and perhaps their class and split."""

from __future__ import annotations

import os
import posixpath
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from smidgen.data.candidates import Sieve
from smidgen.data.cells import shown
from smidgen.data.collection import Collection, Item, id_from_path, path_from_id
from smidgen.data.image_names import FilesBelow, folders_of_images, path_below, plain_path, prefix_of_folder
from smidgen.data.images import read_capped
from smidgen.data.names import class_names, name_of
from smidgen.data.run_tables import CLUSTER_COLUMN, data_of_run, folder_of_run
from smidgen.data.splits import arranged, splits_of_values
from smidgen.data.tabular import IMAGE_COLUMNS, JSON_LINES, LABEL_COLUMNS, PARQUET, Records, read_records
from smidgen.errors import InputError, InputWarning

SPLIT_COLUMN = "split"
_OTHER_SPLIT_COLUMNS = ("set", "subset", "partition", "phase", "fold", "usage", "data set", "dataset", "data_set")


def collect_manifest(path: Path, *, exclude: Sequence[str] = ()) -> Collection:
    r"""Return the images that a manifest names, in its order.

    Paths are relative to the manifest's folder, those of a run's `assignments.csv` to the run's data. As they are on
    the disk and tidied of `./`, they are the image ids; they may be written as other systems do (`.\a.jpg`, another
    Unicode form, `C:\photos\a.jpg` in a folder `photos`). Those that lead out of the folder are read too, and a note
    says so. Of the label and split columns missing cells mean unknown and no split; splits are spelled as
    `splits.splits_of_values` knows them, and any other is taken by "all" only. Without a column of splits they are
    those of the images' folders, see `splits.arranged`. Other columns are ignored with a warning.
    exclude: patterns of paths to leave out, see `candidates.Sieve`.

    Raises InputError if the file cannot be parsed, has no path column, names an image twice, or only images that are
    not there.
    """
    records = read_records(
        path,
        known=(*IMAGE_COLUMNS, *LABEL_COLUMNS, SPLIT_COLUMN, *_OTHER_SPLIT_COLUMNS),
        required=IMAGE_COLUMNS,
        errors="surrogateescape",
    )
    names, label = (
        next((name for name in usual if name in records.columns), None) for usual in (IMAGE_COLUMNS, LABEL_COLUMNS)
    )
    split = _split_column(records)
    if names is None:
        raise InputError(
            f"The manifest {os.fspath(path)!r} needs a column {', '.join(IMAGE_COLUMNS[:-1])} or {IMAGE_COLUMNS[-1]}, "
            f"but has: {', '.join(filter(None, records.columns)) or 'none'}"
            f"{'' if path.suffix.lower() in (*JSON_LINES, *PARQUET) else '; its first line must name the columns'}."
        )
    nothing = [None] * len(records.lines)
    root = folder_of_run(path) or path.parent
    ids = _image_ids(
        path, root, [_image_name(path, row, cell) for row, cell in enumerate(records.columns[names], start=1)]
    )
    labels = class_names(
        records.columns[label] if label is not None else nothing,
        source=str(path),
        where=lambda i: f"The manifest {os.fspath(path)!r}, row {i + 1}",
    )
    _refuse_missing(path, root, records, ids)
    records.warn_of_ignored([name for name in (names, label, split) if name is not None])
    sieve, folder = Sieve(exclude), os.fspath(root)
    kept = [row for row, image_id in enumerate(ids) if not sieve.excludes(image_id)]
    items = tuple(
        Item(ids[row], partial(read_capped, path_below(folder, path_from_id(ids[row]))), None, labels[row])
        for row in kept
    )
    items, notes = (
        _with_splits_of_folders(items)
        if split is None
        else _with_splits(items, [_split_name(path, records.columns[split][row]) for row in kept], column=split)
    )
    if root != path.parent:
        notes = (f"{os.fspath(path)!r} is a table of smidgen's: its images are read from {folder!r}.", *notes)
    return Collection(items, notes=(*notes, *_about_outside(items), *sieve.notes()))


def _split_column(records: Records) -> str | None:
    """Return the column that says which images train and which test: `split`, or another that names just these."""
    if SPLIT_COLUMN in records.columns:
        return SPLIT_COLUMN
    for column in _OTHER_SPLIT_COLUMNS:
        values = {cell.strip() for cell in records.columns.get(column, ()) if isinstance(cell, str)} - {""}
        if values and splits_of_values(values).roles.keys() == values:
            return column
    return None


def _with_splits(
    items: Sequence[Item], values: Sequence[str | None], *, column: str
) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Return the items with the splits that a column gives them, and sentences on what was taken for what."""
    known = splits_of_values(filter(None, values))
    split_items = tuple(
        replace(item, split=known.of(value) if value in known.roles else value)
        for item, value in zip(items, values, strict=True)
    )
    if known.roles:
        return split_items, known.described(Counter(values))
    others = sorted({value for value in values if value is not None})
    if not others:
        return split_items, ()
    examples = ", ".join(map(repr, others[:3])) + (", …" if len(others) > 3 else "")
    return split_items, (f"The column {column!r} holds {examples}, and neither train nor test: all images are taken.",)


def _with_splits_of_folders(items: tuple[Item, ...]) -> tuple[tuple[Item, ...], tuple[str, ...]]:
    """Return the items with splits if their folders are some, as those of a collection would be; all have none else."""
    found = arranged(items)
    splits = {item.id: item.split for item in found.items}
    if "train" not in splits.values():
        return items, ()
    return tuple(replace(item, split=splits[item.id]) for item in items), found.notes


def _about_outside(items: Sequence[Item]) -> tuple[str, ...]:
    """Warn of images outside the manifest's folder: the manifest's author chose files of this machine."""
    outside = [item.id for item in items if item.id.startswith(("/", "../"))]
    if not outside:
        return ()
    return (f"The manifest names {len(outside):,} images outside its own folder, for example {outside[0]!r}.",)


def _image_name(path: Path, row: int, cell: Any) -> str:
    """Return the name of an image as it stands: spaces may belong to it."""
    place = f"The manifest {os.fspath(path)!r}"
    try:
        name = cell if isinstance(cell, str) else name_of(cell)
    except ValueError as error:
        raise InputError(f"{place}, row {row}: the path of an image {error}.") from None
    if not name.strip():
        raise InputError(f"{place} names no image in row {row}.")
    return name


def _image_ids(path: Path, root: Path, names: Sequence[str]) -> list[str]:
    """Return the image id of each name; raises InputError if two are the same."""
    files = FilesBelow(root)
    found = [files.find(name) for name in names]
    missing = [plain_path(name) for name, file in zip(names, found, strict=True) if file is None]
    prefix = prefix_of_folder(missing, folders_of_images(root), files.has)
    if prefix is not None:
        warnings.warn(InputWarning(f"{path}: read without {prefix!r}, which paths begin with."), stacklevel=2)
        found = [
            plain_path(name).removeprefix(prefix) if file is None else file
            for name, file in zip(names, found, strict=True)
        ]
    rows: dict[str, int] = {}
    for row, (name, file) in enumerate(zip(names, found, strict=True), start=1):
        image_id = _id_of(name) if file is None else id_from_path(file)
        if image_id in rows:
            raise InputError(
                f"The manifest {os.fspath(path)!r} names {image_id!r} twice, in rows {rows[image_id]} and {row}."
            )
        rows[image_id] = row
    return list(rows)


def _id_of(name: str) -> str:
    """Return the id of an image that is not there; a name with a backslash may be an id already."""
    name = posixpath.normpath(name.strip())
    return name if "\\" in name else id_from_path(name)


def _refuse_missing(path: Path, root: Path, records: Records, ids: Sequence[str]) -> None:
    """Raise InputError if images are named and none of them is there, with the likely reason."""
    files = FilesBelow(root)
    if not ids or any(files.has(path_from_id(image_id)) for image_id in ids):
        return
    data = data_of_run(path)
    hint = f"paths are relative to the manifest's folder, {os.fspath(path.parent)!r}"
    if CLUSTER_COLUMN in records.names or data is not None:
        instead = "these" if data is None else repr(data)
        hint = (
            f"smidgen wrote this table, and names images as they are below the data of its run; give {instead} instead"
        )
    elif FilesBelow(Path()).has(path_from_id(ids[0])):
        hint += ", and this one is there from where you are: move the manifest here"
    elif any(name in records.names for name in LABEL_COLUMNS):
        hint += "; if it labels images of another collection, give that as the data, and this table as its labels"
    raise InputError(
        f"The manifest {os.fspath(path)!r} names {len(ids):,} images, and none is there, first {shown(ids[0])}: {hint}."
    )


def _split_name(path: Path, cell: Any) -> str | None:
    try:
        return name_of(cell) or None
    except ValueError as error:
        raise InputError(f"The manifest {os.fspath(path)!r}: a split {error}.") from None
