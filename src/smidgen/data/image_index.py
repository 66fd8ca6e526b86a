"""Looks up rows of images by id, row number, or an id as other systems and spreadsheets write it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path

import numpy as np

from smidgen.data.cells import ImageKey, shown
from smidgen.data.collection import path_from_id
from smidgen.data.image_names import folders_of_images, plain_path, prefix_of_folder
from smidgen.data.run_tables import folder_of_data
from smidgen.errors import InputError, InputWarning

_UNKNOWN, _SKIPPED = -1, -2


class ImageIndex:
    """The rows of a set of images by their ids.

    skipped: ids of images that could not be read. kind_of_images: what messages call them. data: where they are from,
    "" if that is not known.
    """

    def __init__(
        self,
        ids: Sequence[str] | np.ndarray,
        *,
        skipped: Collection[str] = (),
        kind_of_images: str = "training images",
        data: Path | str = "",
    ) -> None:
        self.ids, self._kind = ids, kind_of_images
        self._rows: dict[ImageKey, int] = dict.fromkeys(skipped, _SKIPPED)
        self._rows |= {str(name): row for row, name in enumerate(ids)}
        self._data, self._folders = data, folders_of_images(data) if data else ()

    def rows(
        self,
        keys: Sequence[ImageKey],
        *,
        where: Callable[[int], str],
        source: str,
        folders: Mapping[int, str] | None = None,
    ) -> np.ndarray:
        """Return the row of each image, (n,) int64, below 0 for one that could not be read.

        An id comes first, then an image whose id alone is spelt alike (`plain_path`), then ids after the path of the
        images' own folder, if all the rest are such, which is said in a warning.
        where: the place of the i-th key, and source: what they are from, for messages.
        folders: of keys that a table of smidgen's has, by their numbers, the folder that their names begin in, "" if it
            is not known. Such tables may name images of other splits: some that are unknown are left out with a
            warning.
        Raises InputError for an image that is unknown.
        """
        rows = np.fromiter((self._rows.get(key, _UNKNOWN) for key in keys), np.int64, len(keys))
        unusual = {i: keys[i] for i in np.flatnonzero(rows == _UNKNOWN).tolist()}
        for i, key in unusual.items():
            if isinstance(key, str):
                rows[i] = self._spelt_alike(plain_path(key))
            elif 0 <= key < len(self.ids):
                rows[i] = key
        self._find_below(rows, keys, folders or {}, source)
        strange = {i: plain_path(str(key)) for i, key in unusual.items() if rows[i] == _UNKNOWN}
        prefix = prefix_of_folder(list(strange.values()), self._folders, lambda n: self._spelt_alike(n) != _UNKNOWN)
        for i, name in strange.items():
            if prefix is None:
                among = f"the {len(self.ids):,} {self._kind}{self._hint(name)}"
                raise InputError(f"{where(i)}: image {shown(keys[i])} is not among {among}")
            rows[i] = self._spelt_alike(name.removeprefix(prefix))
        if prefix is not None:
            message = f"{source}: the names of images are read without {prefix!r}, which they begin with."
            warnings.warn(InputWarning(message), stacklevel=2)
        return rows

    def _find_below(self, rows: np.ndarray, keys: Sequence[ImageKey], folders: Mapping[int, str], source: str) -> None:
        """Fill in rows of images that a table of smidgen's names from another folder; skip images not in it."""
        for i, folder in folders.items():
            if rows[i] == _UNKNOWN and folder and self._folder is not None:
                path = os.path.relpath(os.path.join(folder, path_from_id(str(keys[i]))), self._folder)  # noqa: PTH118
                rows[i] = self._spelt_alike(plain_path(path))
        unknown = [i for i in folders if rows[i] == _UNKNOWN]
        if unknown and len(unknown) < len(folders):
            rows[unknown] = _SKIPPED
            some = f"{len(unknown):,} of its {len(folders):,} images"
            message = f"{source}: {some} are not among the {self._kind}, and are ignored."
            warnings.warn(InputWarning(message), stacklevel=3)

    def _spelt_alike(self, plain: str) -> int:
        return self._by_plain_path.get(plain, _UNKNOWN)

    @cached_property
    def _folder(self) -> Path | None:
        return folder_of_data(self._data) if self._data else None

    @cached_property
    def _by_plain_path(self) -> dict[str, int]:
        """The row of each image by its id as `plain_path` has it, where only one has it."""
        rows: dict[str, int] = {}
        for key, row in self._rows.items():
            plain = plain_path(str(key))
            rows[plain] = _UNKNOWN if plain in rows else row
        return rows

    def _hint(self, plain: str) -> str:
        """Return the end of a sentence about an image that is not there."""
        if not len(self.ids):
            return "."
        wanted = plain.lower().split("/")
        near = max(map(str, self._rows), key=lambda name: _equal_at_the_end(name.lower().split("/"), wanted))
        if _equal_at_the_end(near.lower().split("/"), wanted) == 0:
            near = next((name for name in map(str, self._rows) if name.lower().endswith(wanted[-1])), "")
        return f"; did you mean {near!r}?" if near else f", which are named like {str(self.ids[0])!r}."


def _equal_at_the_end(some: Sequence[str], others: Sequence[str]) -> int:
    """Return how many parts of two paths are the same, counted from the end."""
    pairs = zip(reversed(some), reversed(others), strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
