"""Datasets given as arrays: axis order, conversion of values to 0..255, embeddings, and the keys of an .npz."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from smidgen.data.collection import natural_key
from smidgen.data.contents import digest_of
from smidgen.data.decoding import NATIVE_LIMIT, Progress, default_size, in_threads, new_images
from smidgen.data.flat import BACKGROUND, Resize, as_pixels, resized
from smidgen.data.names import class_names, name_of
from smidgen.data.npz import Npz
from smidgen.data.splits import split_role
from smidgen.data.values import KINDS, OPEN, Extents, ValueRange, decide, kind_of, to_levels
from smidgen.errors import InputError

_CHUNK = 256
_NARROW = 16  # pixels: images of 3 or 4 columns have not more rows
_LEAST, _MOST = 1e-30, 1e30  # size of the largest embedding: float32 holds what is computed from it
_LOST, _NOISE = 0.25, 1e-14  # share of a deviation that may be rounding; deviation that is itself rounding
_SOME = 4096  # rows that show it
_SPLITS = ("train", "test", "eval", "val")
_KINDS: dict[tuple[str, ...], str] = {(word,): "images" for word in ("x", "embeddings", "features", "vectors")}
_KINDS |= {(word,): "labels" for word in ("y", "label", "labels", "target", "targets", "classes")}
_KINDS |= {(): "images"}  # `train_images`, where the name says no more
_IMAGE_KEYS = ("images", "x", "X", "data", "arr_0", "embeddings", "features")
_LABEL_KEYS = ("labels", "y", "Y", "targets", "arr_1")


@dataclass(frozen=True)
class ArrayPart:
    """The images of one split, with classes (n,) int64 (-1 unknown) if labels came with them."""

    images: np.ndarray
    classes: np.ndarray | None


def as_images(array: np.ndarray, *, values: ValueRange = OPEN) -> np.ndarray:
    """Return any array of images as uint8 (n, channels, height, width), channels 1 or 3.

    array: (n, h, w) grey; (n, h, w, c) or (n, c, h, w) with 1, 3 or 4 channels, the fourth being alpha, laid on
        white. The channels are the first of these that fits: the second axis with length 1 or 3 (smidgen's own
        layout), the last with 1 or 3, the second with 4, the last with 4.
        uint8 as it is; bool as black and white; other integers and floats by a range of values.
    values: the values of black and white; a range that is open is decided by the array's own values.

    Raises InputError for other shapes or types, and for values that are not finite.

    >>> as_images(np.ones((5, 8, 8, 3))).shape
    (5, 3, 8, 8)
    >>> int(as_images(np.full((1, 8, 8), 127, dtype=np.uint16)).max())
    127
    """
    images = channels_second(array)
    found = values.decided(extents_of(images).overall())
    return as_levels(images, found)


def channels_second(array: np.ndarray) -> np.ndarray:
    """Return an array of images as (n, channels, h, w), values as they are; raises InputError for other shapes."""
    array = np.asarray(array)
    kind_of(array.dtype)
    if array.ndim == 3 and array.shape[2] in (3, 4) and min(array.shape[:2]) > _NARROW:
        raise InputError(
            f"An array of shape {tuple(array.shape)} is one image: put it into a list, or give `array[None]`."
        )
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4 and _channels_last(array.shape[1], array.shape[3]):
        array = array.transpose(0, 3, 1, 2)
    if array.ndim != 4 or array.shape[1] not in (1, 3, 4) or 0 in array.shape[2:]:
        raise InputError(
            "Images must be an array (n, h, w), (n, h, w, channels) or (n, channels, h, w) with 1, 3 or 4 channels, "
            f"got shape {tuple(array.shape)}."
        )
    return array


def _channels_last(second: int, last: int) -> bool:
    return second not in (1, 3) and (last in (1, 3) or (second != 4 and last == 4))


def extents_of(images: np.ndarray) -> Extents:
    """Return what values images (n, channels, h, w) hold, alpha aside; InputError for those that are not finite."""
    n = len(images)
    extents = Extents.empty(n)
    extents.kinds[:] = KINDS.index(kind_of(images.dtype))
    for start in range(0, n, _CHUNK):
        rows = slice(start, start + _CHUNK)
        colours = images[rows, :3].reshape(len(images[rows]), -1)
        extents.low[rows], extents.high[rows] = colours.min(1), colours.max(1)
    if images.dtype == np.bool_:
        extents.high[:] *= 255
        extents.low[:] *= 255
    bad = np.flatnonzero(~(np.isfinite(extents.low) & np.isfinite(extents.high)))
    if len(bad):
        raise InputError(
            f"Images must be finite, got NaN or infinity in {len(bad):,} of {n:,}, first in row {bad[0]}: remove or"
            " mend these."
        )
    return extents


def as_levels(images: np.ndarray, values: ValueRange) -> np.ndarray:
    """Return images (n, 1, 3 or 4, h, w) as uint8 (n, 1 or 3, h, w), with the ranges of `values`."""
    kind = kind_of(images.dtype)
    pair = values.of(kind) or (0, 255)
    if images.dtype == np.uint8 and pair == (0, 255) and images.shape[1] != 4:
        return np.ascontiguousarray(images)
    n, n_channels, height, width = images.shape
    result = new_images((n, 3 if n_channels == 4 else n_channels, height, width))
    opaque = decide(0, max(float(images[:, 3].max(initial=0)), 0), kind=kind)[1] if n_channels == 4 else 1
    for start in range(0, n, _CHUNK):
        rows = slice(start, start + _CHUNK)
        levels = to_levels(images[rows, :3], pair)
        if n_channels == 4:
            share = np.clip(images[rows, 3:].astype(np.float32) / opaque, 0, 1)
            levels = np.rint(levels * share + BACKGROUND * (1 - share)).astype(np.uint8)
        result[rows] = levels
    return result


def contents_of(images: np.ndarray) -> np.ndarray:
    """Return a digest (n,) uint64 of all that each of the images (n, channels, h, w) holds."""
    digests = b"".join(digest_of(image.transpose(1, 2, 0)) for image in images)
    return np.frombuffer(digests, dtype=np.uint64)


def as_vectors(array: np.ndarray) -> np.ndarray:
    """Return ready embeddings (n, features) as float32.

    They are neither scaled nor shifted. Raises InputError for another shape, for values that are not finite, and where
    float32 cannot hold their size (1e-30 to 1e30) or, beside a large offset, their differences.

    >>> as_vectors(np.ones((5, 7))).shape
    (5, 7)
    """
    array = np.asarray(array)
    if array.ndim != 2 or array.shape[1] == 0 or array.dtype.kind not in "biuf":
        raise InputError(
            f"Embeddings must be a matrix (n, features) of numbers, got {array.dtype} of shape {tuple(array.shape)}."
        )
    bad = np.flatnonzero(~np.isfinite(array).all(1))
    if len(bad):
        raise InputError(
            f"Embeddings must be finite, got NaN or infinity in {len(bad)} of {len(array)} rows, first in row {bad[0]}:"
            " remove these rows."
        )
    largest = max(-float(array.min(initial=0)), float(array.max(initial=0)))
    if not (_LEAST <= largest <= _MOST or largest == 0):
        raise InputError(
            f"Embeddings must reach from {_LEAST:g} to {_MOST:g} in size, got values up to {largest:.2g}: multiply them"
            " by a number."
        )
    vectors = np.ascontiguousarray(array, dtype=np.float32)
    _check_resolution(array, vectors)
    return vectors


def _check_resolution(array: np.ndarray, vectors: np.ndarray) -> None:
    """Raise where most features vary by less than float32 resolves beside their offset."""
    some = slice(None, None, max(1, len(array) // _SOME))
    wide = array[some].astype(np.float64)
    deviation, lost = wide.std(0), (wide - vectors[some]).std(0)
    varies = deviation > _NOISE * np.abs(wide).max(0, initial=0)
    if 2 * (varies & (lost > _LOST * deviation)).sum() > max(1, varies.sum()):
        raise InputError(
            f"Embeddings vary by {np.median(deviation[varies]):.2g} around {np.median(np.abs(wide)):.2g}, less than"
            " float32 resolves there: subtract the mean of each feature first."
        )


def fitted(
    images: np.ndarray,
    *,
    size: int | None,
    channels: int | None,
    resize: Resize,
    other_size: int = NATIVE_LIMIT,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return uint8 images (n, channels, h, w) with the wanted size and channels; the same array if it has them.

    size: None keeps squares of at most 64 pixels and makes anything else `other_size`. channels: None keeps.
    """
    n, own_channels, height, width = images.shape
    size = size or default_size({(width, height)}, other=other_size)
    channels = channels or own_channels
    if (own_channels, height, width) == (channels, size, size):
        return images
    result = new_images((n, channels, size, size))

    def fit_chunk(start: int) -> int:
        stop = min(start + _CHUNK, n)
        for row in range(start, stop):
            pixels = images[row, 0] if own_channels == 1 else np.ascontiguousarray(images[row].transpose(1, 2, 0))
            result[row] = as_pixels(resized(Image.fromarray(pixels), size=size, resize=resize), channels=channels)
        return stop

    for done in in_threads(fit_chunk, range(0, n, _CHUNK), n_threads=os.cpu_count() or 1):
        if progress is not None:
            progress(done, n)
    return result


def read_npz(path: Path) -> tuple[dict[str, ArrayPart], tuple[str, ...]]:
    """Return the parts of an .npz by split, and the class names.

    Splits: `x_train`, `train_images` or `images_train` with `y_train`, `train_labels` or `labels_train`; the same for
    "test", "val" and "eval", all spelled as `splits.split_role` knows them; `x` and `y` without a split are those for
    training where others are for tests. Without any of these, one part "" of
    `images`, `x`, `X`, `data`, `arr_0`, `embeddings` or `features` with `labels`, `y`, `Y`, `targets` or `arr_1`; or
    the only array, whatever its name. Labels are numbers
    or texts, unknown where `class_name` says so (-1, NaN, ""); names for whole numbers may be given as `class_names`.

    Other arrays are left alone. Raises InputError if the file cannot be read, one of these arrays holds objects, it has
    none of these keys, or lengths differ.
    """
    arrays = Npz(path)
    found = _by_split(arrays)
    if not found:
        images = _first(arrays, _IMAGE_KEYS) if len(arrays) > 1 else next(iter(arrays.values()), None)
        if images is None:
            raise InputError(
                f"{os.fspath(path)!r} needs an array 'images' or 'x_train', but holds: {', '.join(arrays) or 'none'}."
            )
        found[""] = (images, _first(arrays, _LABEL_KEYS))
    return _with_classes(path, found, names=_first(arrays, ("class_names", "classes")))


def _by_split(arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[np.ndarray, np.ndarray | None]]:
    """Return images and labels of each split that the keys name; nothing of one array that is called "train"."""
    if len(arrays) == 1 and next(iter(arrays)).isalpha():
        return {}
    keys: dict[str, dict[str, str]] = {split: {} for split in _SPLITS}
    for key in arrays:
        role, words = split_role(key) or ("", ())
        if role and words in _KINDS:
            keys[role].setdefault(_KINDS[words], key)
    if not keys["train"] and any(keys.values()):  # `x` and `y` beside `x_test` and `y_test`
        plain = {"images": _IMAGE_KEYS, "labels": _LABEL_KEYS}
        keys["train"] = {kind: name for kind, names in plain.items() for name in names[::-1] if name in arrays}
    return {
        split: (arrays[of["images"]], arrays[of["labels"]] if "labels" in of else None)
        for split, of in keys.items()
        if "images" in of
    }


def _first(arrays: Mapping[str, np.ndarray], keys: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[key] for key in keys if key in arrays), None)


def _with_classes(
    path: Path, found: dict[str, tuple[np.ndarray, np.ndarray | None]], *, names: np.ndarray | None
) -> tuple[dict[str, ArrayPart], tuple[str, ...]]:
    for images, labels in found.values():
        if labels is not None and (labels.size != len(images) or labels.dtype.kind not in "iufUbS"):
            raise InputError(
                f"{os.fspath(path)!r} needs one integer or text label for each of {len(images)} images, "
                f"got labels of shape {labels.shape} and type {labels.dtype}."
            )
    texts = {
        split: None if labels is None else _class_texts(path, split, labels) for split, (_, labels) in found.items()
    }
    known = sorted({text for of_split in texts.values() for text in of_split or () if text}, key=natural_key)
    numbered = names is not None and all(labels is None or labels.dtype.kind in "iuf" for _, labels in found.values())
    called = list(map(name_of, names)) if numbered and names is not None else known
    if numbered and not set(known) <= set(map(str, range(len(called)))):
        raise InputError(f"{os.fspath(path)!r} names {len(called)} classes, but has labels up to {known[-1]}.")
    distinct = tuple(dict.fromkeys(called))
    row_of = {name: row for row, name in enumerate(distinct)}
    rows = {str(i): row_of[name] for i, name in enumerate(called)} if numbered else row_of
    parts = {}
    for split, (images, _) in found.items():
        of_split = texts[split]
        classes = None if of_split is None else np.array([rows.get(text or "", -1) for text in of_split], np.int64)
        parts[split] = ArrayPart(images, classes)
    return parts, distinct


def _class_texts(path: Path, split: str, labels: np.ndarray) -> list[str | None]:
    """Return the class of each image as text, None where it is not known."""
    place = f"{path}, labels{f' of {split}' if split else ''}"
    return class_names(labels.ravel(), source=place, where=lambda i: f"{place}, row {i}")
