"""Images given one by one in Python: paths, Pillow images, arrays of any size or bytes, one row each."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from smidgen.data.collection import Collection, Item, id_from_path
from smidgen.data.flat import array_of
from smidgen.data.images import BadImage, read_capped
from smidgen.data.paths import common_folder, find_path, of_path
from smidgen.errors import InputError

_ONE = "a path, an image of Pillow's or an array of one image"
_WANTED = "a name, a path or an array of images"
_ALSO = "a matrix of embeddings will do too, and a list of paths, Pillow images or arrays"


@dataclass(frozen=True)
class Rows:
    """Images given one by one, in order; `entries` are paths, images of Pillow's, arrays or bytes."""

    entries: tuple[Any, ...]

    def __len__(self) -> int:
        return len(self.entries)

    @property
    def name(self) -> str:
        """What messages call them."""
        first = self.entries[0]
        what = "file" if _is_path(first) else "image"
        return f"{len(self)} {what}{'s' if len(self) > 1 else ''}"


def rows_of(data: Any) -> Rows | None:
    """Return images that are given one by one, None for what is one path or one array of equal rows.

    data: a list, a tuple, or a one-dimensional array or column of a table, of objects or texts. Paths count if all
    of them lead to files; folders and patterns in a list stand for several images each.

    Raises InputError for what is neither: a mapping, a set, a generator, a single image, or a list with something else
    among its images.
    """
    if isinstance(data, Rows):
        return data
    if isinstance(data, Image.Image | bytes):
        raise InputError("One image was given where several are wanted: put it into a list.")
    if data is None or (
        isinstance(data, Mapping | Set | Iterator | Number) and not hasattr(data, "ndim")
    ):  # sparse matrices may be mappings
        raise refused(type(data).__name__)
    entries = listed(data)
    if not isinstance(entries, list | tuple):
        return None
    if not entries:
        raise refused(f"an empty {type(data).__name__}")
    if not any(_is_path(one) or isinstance(one, Image.Image | bytes) for one in entries):
        return Rows(tuple(entries)) if _differ(entries) else None
    for row, one in enumerate(entries):
        if not (_is_path(one) or isinstance(one, Image.Image | bytes) or _is_array(one)):
            raise InputError(f"Entry {row} of the data is {one!r:.80}, not {_ONE}.")
    if all(map(_is_path, entries)) and not all(_is_file(one) for one in entries):
        return None
    return Rows(tuple(entries))


def refused(given: str) -> InputError:
    """Return the error for data that are no images, in the words of `given`."""
    return InputError(f"The data must be {_WANTED}, got {given}; {_ALSO}.")


def listed(data: Any) -> Any:
    """Return a one-dimensional array or column of objects or texts as a list, anything else as it is."""
    kind = getattr(getattr(data, "dtype", None), "kind", "O")  # of pandas' own types: "O"
    if hasattr(data, "__array__") and getattr(data, "ndim", 0) == 1 and kind in "OUT":
        return list(np.asarray(data, dtype=object))
    return data


def _is_path(one: Any) -> bool:
    return isinstance(one, str | os.PathLike)


def _is_file(path: str | os.PathLike[str]) -> bool:
    found = find_path(path if isinstance(path, str) else Path(path))
    return found is not None and found.is_file()


def _is_array(one: Any) -> bool:
    return len(getattr(one, "shape", ())) in (2, 3)


def _differ(entries: Sequence[Any]) -> bool:
    """Return whether these are arrays of images that do not form a single array."""
    return bool(entries) and all(map(_is_array, entries)) and len({tuple(one.shape) for one in entries}) > 1


def collect_rows(rows: Rows) -> Collection:
    """Return the images, each once for every time that it is given, in order, without splits or classes.

    Ids of files are their paths below the folder that holds them all, of other images their numbers.
    """
    found = {one: find_path(one if isinstance(one, str) else Path(one)) for one in rows.entries if _is_path(one)}
    paths = {one: of_path(path).paths[0] for one, path in found.items() if path is not None}
    root = common_folder([of_path(path) for path in paths.values()]) if paths else Path()
    items: list[Item] = []
    times: dict[str, int] = {}
    for row, one in enumerate(rows.entries):
        name = id_from_path(paths[one].relative_to(root).as_posix()) if _is_path(one) else f"{row:05d}"
        times[name] = times.get(name, 0) + 1
        image_id = name if times[name] == 1 else f"{name}#{times[name]}"  # the same file again, as in a resample
        items.append(Item(image_id, partial(read_capped, os.fspath(paths[one])) if _is_path(one) else _reader(one)))
    return Collection(tuple(items))


def _reader(one: Any) -> Any:
    if isinstance(one, bytes):
        return lambda: one
    return partial(_values, one) if isinstance(one, Image.Image) else partial(as_array, one)


def _values(image: Image.Image) -> np.ndarray:
    try:
        return array_of(image)
    except (OSError, ValueError, SyntaxError) as error:  # opened, but not read yet: closed since, or damaged
        raise BadImage(f"cannot be read ({error})") from error


def as_array(data: Any) -> np.ndarray:
    """Return data as a NumPy array, tensors from wherever they are; raises InputError for what makes none."""
    if hasattr(data, "detach"):
        data = data.detach().cpu()
        data = data.float() if str(data.dtype) == "torch.bfloat16" else data  # NumPy has none
    if np.ma.is_masked(data):
        raise InputError("The data have masked values: fill them in (`filled`), or leave these rows away.")
    try:
        return np.asarray(data)
    except (ValueError, TypeError) as error:
        raise refused("rows of different shapes or kinds") from error
