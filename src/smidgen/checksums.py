"""Fast checksums (XXH3, 128 bits) of files and arrays: they detect damage, not forgery."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash
from numpy.lib import format as npy

from smidgen.errors import Damaged

_PREFIX = 10  # bytes of an .npy before the text of its header: magic, version 1.0, and the text's length in two bytes
_MARK = b"  # xxh3 "


def checksum(*parts: bytes | memoryview | str) -> str:
    """Return the checksum over parts, one after another, as 32 hexadecimal digits; texts count as UTF-8.

    >>> checksum(b"ab", "c") == checksum(b"abc")
    True
    """
    hasher = xxhash.xxh3_128()
    for part in parts:
        hasher.update(part.encode(errors="surrogatepass") if isinstance(part, str) else part)
    return hasher.hexdigest()


def sealed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table of JSON values with a checksum over the others as its last entry, "checksum"."""
    rest = json.loads(json.dumps({key: value for key, value in table.items() if key != "checksum"}))  # as read again
    return {**rest, "checksum": _of_table(rest)}


def check_seal(table: Mapping[str, Any]) -> None:
    """Raise Damaged if a table carries a checksum and it is not that of the other entries.

    >>> check_seal({**sealed({"clusters": 3}), "clusters": 2})
    Traceback (most recent call last):
    smidgen.errors.Damaged: its checksum does not fit its content
    """
    rest = {key: value for key, value in table.items() if key != "checksum"}
    if "checksum" in table and table["checksum"] != _of_table(rest):
        raise Damaged("its checksum does not fit its content")


def _of_table(table: Mapping[str, Any]) -> str:
    return checksum(json.dumps(table, sort_keys=True))


def of_pictures(pictures: Iterable[tuple[int, bytes]]) -> str:
    """Return the checksum over numbered pictures, one after another."""
    hasher = xxhash.xxh3_128()
    for row, data in pictures:
        hasher.update(f"{row} {len(data)} ".encode() + data)
    return hasher.hexdigest()


def write_array(file: IO[bytes], array: np.ndarray) -> None:
    """Write an array as `.npy` with a checksum in the padding of its header, which NumPy reads as a comment."""
    array = np.ascontiguousarray(array)
    if array.dtype.hasobject:
        raise ValueError("An array of objects cannot be saved (allow_pickle=False).")
    buffer = io.BytesIO()
    npy.write_array_header_1_0(buffer, npy.header_data_from_array_1_0(array))
    file.write(_with_comment(buffer.getvalue(), _MARK + _of_array(array).encode()))
    file.write(_flat(array))


def _with_comment(header: bytes, comment: bytes) -> bytes:
    """Return a header of the version 1.0 with a comment in place of its padding; its length stays a multiple of 64."""
    text = header[_PREFIX:].rstrip() + comment
    length = max(len(header), -(-(_PREFIX + len(text) + 1) // 64) * 64) - _PREFIX
    return header[: _PREFIX - 2] + length.to_bytes(2, "little") + text.ljust(length - 1) + b"\n"


def read_array(path: Path | str, *, unchecked: bool = False) -> np.ndarray:
    """Return the array that `write_array` wrote, mapped from the file; whoever writes to it changes no file.

    unchecked: also take a file without a checksum. Raises Damaged, and OSError if the file cannot be opened.
    """
    with Path(path).open("rb") as file:
        start = file.read(_PREFIX)
        header = file.read(int.from_bytes(start[-2:], "little"))
    _, mark, expected = header.partition(_MARK)
    if not mark and not unchecked:
        raise Damaged("it has no checksum")
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # NumPy evaluates the header: tokenize's errors, SyntaxError, MemoryError, …
        raise Damaged(f"it is no array: {' '.join(str(error).split())[:100]}") from None
    if not isinstance(array, np.ndarray):
        raise Damaged("it is no array")
    if mark and expected.strip() != _of_array(array).encode():
        raise Damaged("its checksum does not fit its content")
    return array


def _of_array(array: np.ndarray) -> str:
    return checksum(f"{array.dtype.str} {array.shape}", _flat(array))


def _flat(array: np.ndarray) -> memoryview:
    return memoryview(np.ascontiguousarray(array).reshape(-1).view(np.uint8))  # type: ignore[arg-type]
