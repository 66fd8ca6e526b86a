"""Reads arrays from an .npz one by one, on demand, and checks their size before memory is allocated."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from smidgen.data.archives import MAX_RATIO
from smidgen.errors import InputError

SMALL = 2**26
"""Bytes that an .npz may unpack to whatever its own length; beyond them no more than `MAX_RATIO` times it."""

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


class Npz(Mapping[str, np.ndarray]):
    """An .npz as a mapping from names to arrays; members that are no arrays are none of it.

    Raises InputError if the file is no .npz or would unpack to far more than its length; and for a name, if that array
    is damaged, holds Python objects or is a single value.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._archive = zipfile.ZipFile(path)
        except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError) as error:
            raise InputError(f"{os.fspath(path)!r} is not an .npz of plain arrays ({error}).") from error
        members = [info for info in self._archive.infolist() if info.filename.endswith(".npy")]
        self._members = {info.filename.removesuffix(".npy"): info for info in members}
        unpacked, packed = sum(info.file_size for info in members), path.stat().st_size
        if unpacked > max(SMALL, MAX_RATIO * packed):
            raise InputError(
                f"{os.fspath(path)!r} has {packed:,} bytes and unpacks to {unpacked:,}, more than {MAX_RATIO} times as"
                " many: save it uncompressed, with `np.savez`, if it is what you want."
            )

    def __getitem__(self, name: str) -> np.ndarray:
        """Return one array."""
        info = self._members[name]
        try:
            with self._archive.open(info) as member:
                problem = _problem(member, info.file_size)
            if problem is None:
                with self._archive.open(info) as member:
                    return npy.read_array(member, allow_pickle=False)
        except Exception as error:  # zip's, zlib's, NumPy's, which evaluates the header: depends on the damage
            problem = f"cannot be read: {' '.join(str(error).split())[:150] or type(error).__name__}"
        raise InputError(f"{os.fspath(self._path)!r} is not an .npz of plain arrays: {name!r} {problem}.")

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names of the arrays, in the order of the file."""
        return iter(self._members)

    def __len__(self) -> int:
        """Return the number of arrays."""
        return len(self._members)


def _problem(member: IO[bytes], size: int) -> str | None:
    """Return what is wrong with an array by its header, None if nothing is; `size` is that of the whole member."""
    version = npy.read_magic(member)
    if version not in _HEADERS:
        return f"is of the .npy version {version[0]}.{version[1]}, which is for tables of several columns"
    shape, _, kind = _HEADERS[version](member)
    if kind.hasobject:
        return "holds Python objects: save numbers or texts (`array.astype(str)`)"
    if shape == ():
        return "is a single value"
    if math.prod(shape) * kind.itemsize != size - member.tell():
        return f"says that it has shape {shape}, and the file holds another number of bytes"
    return None
