"""Sources of images to embed: pixels in memory, or files decoded on demand."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from smidgen.data.collection import Item
from smidgen.data.images import BadImage, Resize, decode_image
from smidgen.data.values import ValueRange

BLOCK = 256
"""Images per block: what a thread takes at a time, and what a kill can cost each of them."""


class Source(Protocol):
    """Images by rows; `read` leaves a row of the mask False where there is no image to be had."""

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Return a fingerprint of these images, as hex."""
        ...

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return some rows: uint8 pixels (rows, channels, height, width), and which of them are images (rows,)."""
        ...


@dataclass(frozen=True)
class Pixels:
    """Images in memory, or mapped: (n, 1 or 3, height, width) uint8."""

    images: np.ndarray

    def __len__(self) -> int:
        return len(self.images)

    def fingerprint(self) -> str:
        """Return the sha256, as hex, over what the images hold."""
        hasher = hashlib.sha256(repr(tuple(map(int, self.images.shape))).encode())
        for start in range(0, len(self), 4096):  # in pieces: the images may be a mapped file
            hasher.update(np.ascontiguousarray(self.images[start : start + 4096]).data)
        return hasher.hexdigest()

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels of some rows, and which of them are images."""
        pixels = np.array(self.images[start:stop])  # a copy: torch wants memory that can be written
        return pixels, np.ones(len(pixels), dtype=bool)


@dataclass(frozen=True)
class Files:
    """Image files, decoded as RGB squares of one size when they are read."""

    items: Sequence[Item]
    size: int
    resize: Resize
    values: ValueRange

    def __len__(self) -> int:
        return len(self.items)

    def fingerprint(self) -> str:
        """Return the sha256, as hex, over what the images hold."""
        hasher = hashlib.sha256(f"files {len(self)} {self.resize} {self.values.as_table()}".encode())
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for digests in pool.map(self._digests, range(0, len(self), BLOCK)):
                hasher.update(digests)
        return hasher.hexdigest()

    def _digests(self, start: int) -> bytes:
        digests = []
        for item in self.items[start : start + BLOCK]:
            try:
                digests.append(hashlib.sha256(item.read()).digest())
            except BadImage as error:
                digests.append(error.reason.encode())
        return b"".join(digests)

    def read(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the pixels of some rows, and which of them are images."""
        pixels = np.zeros((stop - start, 3, self.size, self.size), dtype=np.uint8)
        good = np.ones(stop - start, dtype=bool)
        for row, item in enumerate(self.items[start:stop]):
            try:
                pixels[row] = self._decode(item)
            except BadImage:
                good[row] = False
        return pixels, good

    def _decode(self, item: Item) -> np.ndarray:
        return decode_image(item.read(), size=self.size, channels=3, resize=self.resize, values=self.values).pixels

    def reason(self, row: int) -> str:
        """Return why an image could not be read: asked again, because the cache holds embeddings only."""
        try:
            self._decode(self.items[row])
        except BadImage as error:
            return error.reason
        return "it could not be read when its embedding was made"
