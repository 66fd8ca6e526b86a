"""One collection in memory: its images as an array, with ids, classes where known, and the files behind them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from smidgen.data.collection import Item
from smidgen.data.contents import content_of, digest_of
from smidgen.data.decoding import Skipped
from smidgen.data.images import BadImage, flat_image, image_size, quiet_pillow
from smidgen.data.shapes import Shape, is_vector, shape_of_rows
from smidgen.data.values import ValueRange


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images of one size in memory, with their ids and, where known, classes.

    name: as given by the user. split: "train", "test" or "all".
    ids: (n,) str objects, unique.
    images: (n, channels, height, width) uint8; a memory-mapped file above 4 GB. Ready embeddings: (n, features)
        float32, not scaled.
    classes: (n,) int64 rows of `class_names`, -1 unknown; None if no class is known. For evaluation only, unless the
        user gives them as evidence.
    class_names: in natural order.
    skipped: images that could not be read. ignored: how many files were no images and passed over.
    notes: sentences on how the collection was understood: what is a split, a class, an image by content, black and
        white, passed over.
    items: the files behind the images, where there are any; sizes: (n, 2) int32, their own width and height.
    value_range: which values are black and white; doubts: sentences with reasons to doubt it.
    contents: (n,) uint64, digests of images that came as arrays and were scaled or resized since; None otherwise.
    """

    name: str
    split: str
    ids: np.ndarray
    images: np.ndarray
    classes: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    skipped: tuple[Skipped, ...] = ()
    ignored: int = 0
    items: tuple[Item, ...] | None = None
    sizes: np.ndarray | None = None
    value_range: ValueRange = field(default_factory=ValueRange)
    notes: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    contents: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def shape(self) -> Shape:
        """Of one row: (channels, height, width) of an image, (features,) of a ready embedding."""
        return shape_of_rows(self.images)

    @property
    def holds_vectors(self) -> bool:
        """Whether these are ready embeddings, and there is nothing to look at."""
        return is_vector(self.shape)

    def subset(self, rows: Sequence[int] | np.ndarray) -> Dataset:
        """Return the dataset of the given rows (integers or a mask), in that order; names of classes stay.

        >>> from smidgen.data.datasets import open_dataset
        >>> open_dataset("digits").subset([3, 1]).ids.tolist()
        ['train/00003', 'train/00001']
        """
        rows = np.asarray(rows)
        chosen = np.arange(len(self))[rows if rows.size else np.empty(0, dtype=np.int64)]
        return replace(
            self,
            ids=self.ids[chosen],
            images=self.images[chosen],
            classes=None if self.classes is None else self.classes[chosen],
            items=None if self.items is None else tuple(self.items[row] for row in chosen),
            sizes=None if self.sizes is None else self.sizes[chosen],
            contents=None if self.contents is None else self.contents[chosen],
        )

    def split_of(self, row: int) -> str:
        """Return the split that an image belongs to, "train", "test" or "elsewhere"; "" in data without splits."""
        if self.items is not None:
            return self.items[row].split or ""
        split = str(self.ids[row]).partition("/")[0]
        return "" if split == "all" else split

    def rows_by_split(self) -> list[np.ndarray]:
        """Return the rows of each split, in order: the images that `fit` reads, and embeds, at once.

        >>> from smidgen.data.datasets import open_dataset
        >>> [len(rows) for rows in open_dataset("digits", split="all").rows_by_split()]
        [1438, 359]
        """
        splits = np.array([self.split_of(row) for row in range(len(self))])
        return [np.flatnonzero(splits == split) for split in dict.fromkeys(splits.tolist())]

    def fingerprint(self) -> str:
        """Return the sha256, as hex, over ids, shape and pixels: the same data give the same, classes or not."""
        hasher = hashlib.sha256("\0".join(map(str, self.ids)).encode())
        hasher.update(repr(tuple(int(length) for length in self.images.shape)).encode())
        for start in range(0, len(self), 4096):  # in pieces: the images may be a mapped file
            hasher.update(np.ascontiguousarray(self.images[start : start + 4096]).data)
        return hasher.hexdigest()

    def content(self, row: int) -> bytes:
        """Return a digest of all that an image held before it was scaled and resized: the same for the same picture."""
        if self.contents is not None:
            return self.contents[row].tobytes()
        if self.items is None:
            return digest_of(self.images[row].transpose(1, 2, 0))
        try:
            return content_of(self.items[row].read())
        except BadImage:  # gone since it was read
            return f"row {row}".encode()

    def original(self, row: int) -> Image.Image | None:
        """Return the upright original (mode L or RGB) behind a row, None if there is no file or it is gone."""
        if self.items is None:
            return None
        try:
            with quiet_pillow():
                return flat_image(self.items[row].read(), values=self.value_range).image
        except BadImage:
            return None

    def thumbnail(self, row: int, size: int = 64) -> bytes:
        """Return a small picture of an image, at most `size` pixels a side: PNG up to 32 pixels, otherwise JPEG.

        It is cut from the original file where there is one, which shows more than the pixels that a method saw,
        and otherwise made of those; never enlarged.
        """
        image = self._small_original(row, size) or _as_picture(self.images[row])
        image.thumbnail((size, size), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        if max(image.size) <= 32:
            image.save(buffer, "PNG")
        else:
            image.save(buffer, "JPEG", quality=85)
        return buffer.getvalue()

    def _small_original(self, row: int, size: int) -> Image.Image | None:
        if self.items is None:
            return None
        try:
            data = self.items[row].read()
            with quiet_pillow():
                return flat_image(data, size=min(size, *image_size(data)), values=self.value_range).image
        except BadImage:
            return None


def _as_picture(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
