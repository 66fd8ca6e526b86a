"""Datasets: whatever the user gives (a name, a folder, an archive, a manifest, arrays) as one array with image ids."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.data.archives import collect_tar, collect_zip
from smidgen.data.arrays import (
    ArrayPart,
    read_npz,
)
from smidgen.data.chosen_classes import as_classes, collection_of
from smidgen.data.collection import SPLITS, Collection, Item
from smidgen.data.dataset import Dataset
from smidgen.data.decoding import NATIVE_LIMIT, Progress, Skipped
from smidgen.data.folders import collect_folder
from smidgen.data.images import Resize
from smidgen.data.manifests import collect_manifest
from smidgen.data.named import DATASETS, NamedDataset
from smidgen.data.opened import Arrays, Files, Split, allowing, reading, too_many_bad
from smidgen.data.paths import (
    Paths,
    as_paths,
    collect_several,
    find_data,
    find_glob,
    find_path,
    find_several,
    is_image_file,
    of_path,
)
from smidgen.data.rows import Rows, as_array, collect_rows, refused, rows_of
from smidgen.data.shapes import Shape, is_vector
from smidgen.data.splits import Splits
from smidgen.data.tabular import TABLES
from smidgen.errors import InputError, unknown

__all__ = [
    "DATASETS",
    "Dataset",
    "NamedDataset",
    "Skipped",
    "allowing",
    "as_paths",
    "exclude_patterns",
    "find_data",
    "list_images",
    "open_dataset",
    "open_like",
    "open_splits",
    "too_many_bad",
]

_COLLECTORS: dict[str, Callable[..., Collection]] = {
    ".tar": collect_tar,
    ".zip": collect_zip,
    **dict.fromkeys(TABLES, collect_manifest),
}
_COMPRESSED_TAR = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def open_dataset(
    data: Paths | np.ndarray,
    *,
    split: Split = "train",
    size: int | None = None,
    channels: int | None = None,
    resize: Resize = "crop",
    value_range: Any = None,
    allow_bad: float = 0.05,
    other_size: int = NATIVE_LIMIT,
    exclude: str | Sequence[str] = (),
    classes: str | Sequence[str] = (),
    progress: Progress | None = None,
) -> Dataset:
    """Return the images of one split of whatever `data` is.

    data: a name in `DATASETS`; a folder (flat, nested, one folder per class, with folders like `train/` and `test/` as
        splits, see `splits.arranged`); a manifest (.csv, .parquet, .jsonl); an uncompressed .tar or a .zip; or an
        array, as it is or in an .npz: (n, h, w), (n, h, w, c) or (n, c, h, w) of integers, floats or bool, or ready
        embeddings (n, features). Also an image file, a glob, or a list of image files, folders and globs: the
        images are in the order of the list, and their ids begin in the folder that holds all of them. Also a list of
        Pillow images, arrays of any size or files' bytes, or a column of paths of a table, see `rows.rows_of`.
        A name wins over a folder of that name: write `./mnist` for the folder. A relative path begins where the
        program runs or, if nothing is there, in `$SMIDGEN_DATA`.
    split: "train", "test" or "all". Data without splits of their own are taken whole under any of these; an
        array's ids begin with "test" where that is asked for, otherwise with "train".
    size: side of the square images in pixels. None keeps the native size if all images share one square size of at
        most 64 pixels; otherwise it is `other_size`.
    channels: 1 (grey) or 3 (RGB). None means 1 if every image is grey in every pixel, otherwise 3.
    resize: "crop", "pad" or "squash", see `images.load_image`.
    value_range: the values of black and white, (low, high), "low:high" or "12-bit". None decides them for all images of
        more than 8 bits together, by the largest value of the training images: 8, 10, 12, 14 or 16 bits, floats up to
        1, see `values.decide`; those of 8 bits keep 0 to 255. The result has it as `value_range`, which may be given
        here for other images to be read alike, and says in `notes` what was
        decided, and in `doubts` what speaks against it.
    allow_bad: share, 0..1, of the files that may be unreadable; they are in `skipped`, with the reason.
    exclude: patterns of files and folders to leave out, as in a .gitignore: `*.gif`, `thumbs/`, `/2019/**/draft-*`.
    classes: names of classes; only their images are taken, under the ids that they have in the whole. None: all.
    progress: called with (done, total).

    Raises InputError if there is no such data, split or image, or more files are bad than allowed.

    >>> digits = open_dataset("digits")
    >>> digits.images.shape, digits.class_names[:3]
    ((1438, 1, 8, 8), ('0', '1', '2'))
    """
    _check_split(split)
    options = reading(size, channels, resize, value_range, allow_bad, progress, other_size)
    return _opened(data, exclude, classes).of_split(split, options)


def open_splits(
    data: Paths | np.ndarray,
    *,
    size: int | None = None,
    channels: int | None = None,
    resize: Resize = "crop",
    value_range: Any = None,
    allow_bad: float = 0.05,
    other_size: int = NATIVE_LIMIT,
    exclude: str | Sequence[str] = (),
    classes: str | Sequence[str] = (),
    progress: Progress | None = None,
) -> tuple[Dataset, Dataset | None]:
    """Return the training and the test images, the latter None if the data have no test split of their own.

    The test images get the training images' size, channels and range of values. Arguments and errors are those of
    `open_dataset`.

    >>> train, test = open_splits("digits")
    >>> len(train), len(test)
    (1438, 359)
    """
    options = reading(size, channels, resize, value_range, allow_bad, progress, other_size)
    opened = _opened(data, exclude, classes)
    train = opened.of_split("train", options)
    if "test" not in opened.splits():
        return train, None
    if not train.holds_vectors:
        n_channels, _, side = train.images.shape[1:]
        options = replace(options, size=side, channels=n_channels, values=train.value_range)
    return train, opened.of_split("test", options)


def open_like(
    data: Paths | np.ndarray,
    shape: Shape,
    *,
    split: Split = "all",
    resize: Resize = "crop",
    value_range: Any = None,
    allow_bad: float = 0.05,
    exclude: str | Sequence[str] = (),
    classes: str | Sequence[str] = (),
    progress: Progress | None = None,
) -> Dataset:
    """Return the images or embeddings of one split in the shape of those that a model was fitted on.

    shape: (channels, size, size), or (features,) of ready embeddings. Other arguments and errors are those of
    `open_dataset`; raises InputError also for images where embeddings are wanted, the reverse, or other lengths.
    """
    if not is_vector(shape):
        channels, size = shape[0], shape[-1]
        dataset = open_dataset(
            data,
            split=split,
            size=size,
            channels=channels,
            resize=resize,
            value_range=value_range,
            allow_bad=allow_bad,
            exclude=exclude,
            classes=classes,
            progress=progress,
        )
    elif (isinstance(data, Rows) or as_paths(data) is not None) and list_images(data) is not None:  # not yet decoded
        raise _refused_like("images", shape)
    else:
        dataset = open_dataset(data, split=split, classes=classes)
    if dataset.shape != shape:
        features = dataset.shape[0]
        raise _refused_like(f"ready embeddings of {features} features" if dataset.holds_vectors else "images", shape)
    return dataset


def _refused_like(given: str, shape: Shape) -> InputError:
    wanted = f"ready embeddings of {shape[0]} features" if is_vector(shape) else "images"
    return InputError(f"This model was fitted on {wanted}, and was given {given}: give it what it was fitted on.")


def list_images(data: Paths | Rows | np.ndarray) -> tuple[Item, ...] | None:
    """Return the image files of all splits behind `data`, listed but not read; None if it is made of arrays.

    Raises InputError if there is no such data.
    """
    opened = _opened(data)
    return opened.collection.items if isinstance(opened, Files) else None


def list_classes(data: Any, *, exclude: str | Sequence[str] = (), classes: str | Sequence[str] = ()) -> tuple[str, ...]:
    """Return the names of the classes behind `data`, over all splits, () where none is known; no image is read.

    exclude, classes: as `open_dataset` takes them. Raises InputError if there is no such data.
    """
    opened = _opened(data, exclude, classes)
    if isinstance(opened, Files):
        return opened.collection.class_names()
    return opened.classes or opened.class_names


def _check_split(split: str) -> None:
    if split not in (*SPLITS, "all"):
        raise unknown("split", split, [*SPLITS, "all"])


def _opened(data: Any, exclude: str | Sequence[str] = (), classes: str | Sequence[str] = ()) -> Files | Arrays:
    """Return the opened data, listed but not decoded."""
    opened, classes = _whole(data, exclude_patterns(exclude)), as_classes(classes)
    if isinstance(opened, Files):
        return replace(opened, collection=collection_of(opened.collection, classes, name=opened.name))
    return replace(opened, classes=classes)


def _whole(data: Any, exclude: tuple[str, ...]) -> Files | Arrays:
    """Return all that the data hold, but for excluded files."""
    is_name = isinstance(data, str) and data in DATASETS
    if (paths := as_paths(data)) is not None and not is_name:
        return _opened_path(paths, exclude)
    _refuse_exclude(exclude, data if is_name else "array")
    if (rows := None if is_name else rows_of(data)) is not None:
        return Files(rows.name, collect_rows(rows))
    if is_name:
        named = DATASETS[data]
        return Arrays(data, lambda split: ArrayPart(*named.read(split)), SPLITS, named.class_names)
    if not (hasattr(data, "__array__") or isinstance(data, list | tuple)):
        raise refused(type(data).__name__)
    array = as_array(data)
    return Arrays("array", lambda _split: ArrayPart(array, None), ("",))


def exclude_patterns(exclude: Any) -> tuple[str, ...]:
    """Return patterns given as one, several or None; raises InputError for anything else."""
    if exclude is None:
        return ()
    if isinstance(exclude, str):
        return (exclude,)
    if not isinstance(exclude, Sequence | Set) or not all(isinstance(pattern, str) for pattern in exclude):
        raise InputError(f"`exclude` takes patterns like '*.gif', 'thumbs/' or '/2019/**', got {exclude!r:.80}.")
    return tuple(exclude)


def _refuse_exclude(exclude: tuple[str, ...], name: str) -> None:
    if exclude:
        raise InputError(f"`exclude` leaves out files, and {name!r} is made of arrays: omit it.")


def _opened_path(given: Paths, exclude: tuple[str, ...]) -> Files | Arrays:
    if not isinstance(given, (str, Path)):
        if len(given) > 1:
            return Files(_name_of(given), collect_several(find_several(given), exclude=exclude))
        return _opened(given[0], exclude)
    path, given = find_path(given), os.fspath(given)
    if path is None:
        return Files(given, collect_several([find_glob(given)], exclude=exclude))
    if path.is_dir():
        return Files(given, collect_folder(path, exclude=exclude))
    if path.name.lower().endswith(_COMPRESSED_TAR):
        return Files(given, collect_tar(path))  # refuses it, in the right words
    kind = path.suffix.lower()
    if kind == ".npz":
        _refuse_exclude(exclude, given)
        named, class_names = read_npz(path)
        splits = Splits({name: name for name in named if name})
        parts = {splits.of(name) if name else "": part for name, part in named.items()}
        sizes: dict[str | None, int] = {name: len(part.images) for name, part in named.items()}
        notes = splits.described(sizes) if splits.roles else ()
        return Arrays(given, parts.__getitem__, tuple(parts), class_names, notes)
    if kind in _COLLECTORS and path.is_file():
        return Files(given, _COLLECTORS[kind](path, exclude=exclude))
    if not is_image_file(path):
        raise InputError(
            f"The file {given!r} is not a collection of images; give a folder, {', '.join(_COLLECTORS)} or .npz, "
            f"an image file, or one of the names {', '.join(DATASETS)}."
        )
    return Files(given, collect_several([of_path(path)], exclude=exclude))


def _name_of(given: Sequence[str | Path]) -> str:
    names = [os.fspath(one) for one in given]
    return f"{names[0]} and {len(names) - 1} more"
