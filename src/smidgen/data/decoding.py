"""Decodes many image files in parallel into one array, with a common size and number of channels."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from smidgen.data.collection import Item
from smidgen.data.contents import extent_of
from smidgen.data.images import BadImage, Decoded, Resize, decode_image, quiet_pillow
from smidgen.data.sources import cache_folder
from smidgen.data.values import OPEN, Extents, ValueRange
from smidgen.errors import InputError

MEMORY_LIMIT = 4 * 2**30
"""Pixels beyond this many bytes live in a file of the cache folder, mapped into memory."""

NATIVE_LIMIT = 64
"""Images that all share one square size up to this many pixels keep it; otherwise this is the usual default size."""

_LOOK = 32  # images decoded first, to guess the common size and channels
_CHUNK = 64  # images per task: long enough to hide the cost of handing it to a thread
_SMALL_AREA = 128 * 128  # pixels, before and after, below which Python's own lock takes most of the time

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Skipped:
    """An unreadable image: its id, a short reason, and its split, as in `Item`."""

    id: str
    reason: str
    split: str | None = None


class DecodedItems(NamedTuple):
    """The result of decoding image files.

    images: (n_good, channels, size, size) uint8. rows: (n_good,) int64, which items they show; skipped: the others.
    sizes: (n_good, 2) int32, the files' own width and height in pixels, upright.
    values: which values are black and white; extents: the values that the n_good images hold.
    """

    images: np.ndarray
    rows: np.ndarray
    skipped: tuple[Skipped, ...]
    sizes: np.ndarray
    values: ValueRange
    extents: Extents


@dataclass(frozen=True)
class _Shape:
    """What all images are decoded to, and how; `native`, `grey` and open `values` are guesses that can be refuted.

    given: the values that were asked for, whose ranges images may exceed. settled: whether `values` are final.
    """

    size: int
    channels: int
    native: bool = False
    grey: bool = False
    n_threads: int = 1
    other_size: int = NATIVE_LIMIT
    given: ValueRange = OPEN
    values: ValueRange = OPEN
    settled: bool = False

    def holds(self, image: Decoded) -> bool:
        """Return whether the values of an image that helps to decide them lie within the guess, if it is one."""
        pair = self.values.of(image.kind)
        fixed = self.settled or self.given.of(image.kind) is not None
        return pair is not None and (fixed or (pair[0] <= image.low and image.high <= pair[1]))


class _GuessRefuted(Exception):
    def __init__(self, shape: _Shape) -> None:
        self.shape = shape


class _ValuesRefuted(Exception):
    """An image has values that the guess does not hold."""


def decode_items(
    items: Sequence[Item],
    *,
    size: int | None = None,
    channels: int | None = None,
    resize: Resize = "crop",
    other_size: int = NATIVE_LIMIT,
    values: ValueRange = OPEN,
    deciding: Sequence[bool] | None = None,
    progress: Progress | None = None,
) -> DecodedItems:
    """Return the pixels of image files, all of one size and number of channels, and which could not be read.

    size: None keeps the native size if all images share one square size of at most 64 pixels, otherwise it is
        `other_size`.
    channels: None means 1 if all images are grey (red = green = blue in every pixel), otherwise 3.
        Both are first guessed from 32 images; an image that refutes the guess starts the reading again, once for each.
    values: the values of black and white; ranges that are open are decided by all the images that they are of, or by
        those `deciding` if there are such. They too are guessed; if an image refutes that, all are read for them first.

    Raises InputError if the cache folder has no space for pixels that exceed the memory limit.
    """
    with quiet_pillow():
        decides = np.ones(len(items), dtype=bool) if deciding is None or not any(deciding) else np.array(deciding)
        shape = _guess(items, decides, values, size=size, channels=channels, resize=resize, other_size=other_size)
        while True:
            try:
                return _decode_as(shape, items, decides, resize=resize, progress=progress)
            except _GuessRefuted as refuted:
                shape = refuted.shape
            except _ValuesRefuted:
                extents = extents_of_items(items, n_threads=shape.n_threads, progress=progress)
                found = values.decided(extents.at(decides).overall()).decided(extents.overall())
                shape = replace(shape, values=found, settled=True)


def default_size(sizes: set[tuple[int, int]], *, other: int = NATIVE_LIMIT) -> int:
    """Return the side that images of these (width, height) are brought to when none is asked for.

    >>> default_size({(28, 28)}), default_size({(28, 28), (30, 30)}), default_size({(96, 96)})
    (28, 64, 64)
    """
    first = next(iter(sizes), (0, 1))
    return first[0] if len(sizes) == 1 and first[0] == first[1] <= NATIVE_LIMIT else other


def _guess(
    items: Sequence[Item],
    decides: np.ndarray,
    given: ValueRange,
    *,
    size: int | None,
    channels: int | None,
    resize: Resize,
    other_size: int,
) -> _Shape:
    sizes, colour, extents = set(), False, Extents.empty(len(items))
    rows = np.unique(np.linspace(0, len(items) - 1, min(_LOOK, len(items))).astype(int))
    for row in rows:
        try:
            seen = decode_image(items[row].read(), size=size or other_size, channels=None, resize=resize)
        except BadImage:
            continue
        sizes.add((seen.width, seen.height))
        colour = colour or seen.colour
        extents.note(row, seen.kind, seen.low, seen.high)
    common = (default_size(sizes, other=other_size),) * 2
    side = size or common[0]
    areas = [max(width * height, side * side) for width, height in sizes]
    return _Shape(
        size=side,
        channels=channels or (3 if colour or not sizes else 1),
        native=size is None and sizes == {common},
        grey=channels is None and bool(sizes) and not colour,
        n_threads=1 if all(area < _SMALL_AREA for area in areas) else os.cpu_count() or 1,
        other_size=other_size,
        given=given,
        values=given.decided(extents.at(rows[decides[rows]]).overall()),
    )


def extents_of_items(items: Sequence[Item], *, n_threads: int, progress: Progress | None = None) -> Extents:
    """Return the values that image files of more than 8 bits hold; nothing is noted of others and of unreadable ones.

    To be called inside `quiet_pillow`.
    """
    extents = Extents.empty(len(items))

    def note_chunk(start: int) -> int:
        stop = min(start + _CHUNK, len(items))
        for row in range(start, stop):
            with contextlib.suppress(BadImage):
                found = extent_of(items[row].read())
                if found is not None:
                    extents.note(row, *found)
        return stop

    for done in in_threads(note_chunk, range(0, len(items), _CHUNK), n_threads=n_threads):
        if progress is not None:
            progress(done, len(items))
    return extents


def _decode_as(
    shape: _Shape, items: Sequence[Item], decides: np.ndarray, *, resize: Resize, progress: Progress | None
) -> DecodedItems:
    images = new_images((len(items), shape.channels, shape.size, shape.size))
    sizes = np.zeros((len(items), 2), dtype=np.int32)
    extents = Extents.empty(len(items))
    bad: dict[int, str] = {}

    def decode_chunk(start: int) -> int:
        stop = min(start + _CHUNK, len(items))
        for row in range(start, stop):
            try:
                decoded = _decode_one(shape, items[row], decides=bool(decides[row]), resize=resize)
                images[row] = decoded.pixels[: shape.channels]  # a grey RGB image where all are grey: any channel
                sizes[row] = decoded.width, decoded.height
                extents.note(row, decoded.kind, decoded.low, decoded.high)
            except BadImage as error:
                bad[row] = error.reason
        return stop

    for done in in_threads(decode_chunk, range(0, len(items), _CHUNK), n_threads=shape.n_threads):
        if progress is not None:
            progress(done, len(items))
    good = np.array([row for row in range(len(items)) if row not in bad], dtype=np.int64)
    skipped = tuple(Skipped(items[row].id, bad[row], items[row].split) for row in sorted(bad))
    return DecodedItems(_compact(images, good), good, skipped, sizes[good], shape.values, extents.at(good))


def _decode_one(shape: _Shape, item: Item, *, decides: bool, resize: Resize) -> Decoded:
    channels = None if shape.grey else shape.channels
    decoded = decode_image(item.read(), size=shape.size, channels=channels, resize=resize, values=shape.values)
    if shape.values.of(decoded.kind) is None or (decides and not shape.holds(decoded)):
        raise _ValuesRefuted
    native = shape.native and (decoded.width, decoded.height) == (shape.size, shape.size)
    grey = shape.grey and not decoded.colour
    if (native, grey) != (shape.native, shape.grey):
        raise _GuessRefuted(
            replace(
                shape,
                size=shape.size if native or not shape.native else shape.other_size,
                channels=shape.channels if grey or not shape.grey else 3,
                native=native,
                grey=grey,
            )
        )
    return decoded


def in_threads(function: Callable[[int], int], starts: Sequence[int], *, n_threads: int) -> Iterator[int]:
    """Yield `function(start)` in order, computed by so many threads.

    Threads suffice: Pillow's decoders let other threads run. On an error, what was not begun is given up.
    """
    if n_threads == 1:
        yield from map(function, starts)
        return
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            yield from pool.map(function, starts)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def new_images(shape: tuple[int, ...]) -> np.ndarray:
    """Return an empty uint8 array, above `MEMORY_LIMIT` bytes in a nameless file that vanishes with the process.

    The file's space is allocated at once: a mapped file on a full disk would kill the process later.
    """
    n_bytes = int(np.prod(shape, dtype=np.int64))
    if n_bytes <= MEMORY_LIMIT:
        return np.empty(shape, dtype=np.uint8)
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, n_bytes)
            return np.memmap(file, dtype=np.uint8, mode="w+", shape=shape)
    except OSError as error:
        raise InputError(
            f"The pixels need {n_bytes / 1e9:.1f} GB in {os.fspath(folder)!r}, which failed ({error.strerror}); "
            "choose a smaller `size`, or another disk with the variable SMIDGEN_CACHE."
        ) from error


def _compact(images: np.ndarray, good: np.ndarray) -> np.ndarray:
    """Move the good rows to the front, in place, and return them."""
    for new, old in enumerate(good):
        if new != old:
            images[new] = images[old]
    return images[: len(good)]
