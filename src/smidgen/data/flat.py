"""Normalises decoded images: 8 bits, upright, no transparency, grey or RGB, and the requested size."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps
from PIL.Image import Resampling

from smidgen.data.deep import Deep
from smidgen.data.values import OPEN, ValueRange, decide, kind_of, to_levels
from smidgen.errors import InputError

BACKGROUND = 255
"""Transparent pixels and the margins of `resize="pad"` are white."""

Resize = Literal["crop", "pad", "squash"]
RESIZE = ("crop", "pad", "squash")

_BILINEAR = Resampling.BILINEAR


class BadImage(InputError):
    """A file that cannot be read as an image; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"This image cannot be read: {reason}.")
        self.reason = reason


class Flat(NamedTuple):
    """An upright image of mode L or RGB, without transparency; otherwise as `Decoded`."""

    image: Image.Image
    width: int
    height: int
    kind: str
    low: float
    high: float


def array_of(image: Image.Image) -> np.ndarray:
    """Return the upright values (h, w) or (h, w, channels) of an image of Pillow's, nothing of them lost."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode in ("LA", "La", "PA", "RGBa") or "transparency" in upright.info:
        upright = upright.convert("RGBA")
    elif upright.mode not in ("1", "L", "RGB", "RGBA", "I", "F") and not upright.mode.startswith("I;"):
        upright = upright.convert("RGB")
    return np.array(upright)


def channels_last(array: np.ndarray) -> np.ndarray:
    """Return the values of one image as (h, w) or (h, w, channels), channels 3 or 4; raises BadImage for others."""
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)):
        raise BadImage(f"an array of shape {tuple(array.shape)} is no image: (h, w) or (h, w, 1, 3 or 4) is")
    return array


def flat_array(array: np.ndarray, values: ValueRange) -> Flat:
    """Return an array of one image, as `channels_last` gives it, as mode L or RGB."""
    if kind_of(array.dtype) == "eight_bits":
        image = Image.fromarray(np.ascontiguousarray(to_levels(array, (0, 255))))
        flat = flat_8_bits(image, values if array.dtype == np.uint8 else OPEN)
    elif array.ndim == 3 and array.shape[2] == 4:
        opaque = decide(0, float(array[..., 3].max()), kind=kind_of(array.dtype))[1]
        flat = flat_deep(Deep(array[..., :3], array[..., 3].astype(np.float32) / opaque), values)
    else:
        flat = flat_deep(Deep(array), values)
    return flat._replace(width=array.shape[1], height=array.shape[0])


def flat_8_bits(image: Image.Image, values: ValueRange) -> Flat:
    """Return the loaded image of 8 bits as mode L or RGB."""
    flat = _flatten(image)
    low = high = math.nan
    if values.eight_bits != (0, 255):
        extremes = np.array(flat.getextrema())
        low, high = float(extremes.min()), float(extremes.max())
        levels = to_levels(np.arange(256, dtype=np.float32), values.eight_bits)
        flat = flat.point(levels.tolist() * len(flat.getbands()))
    return Flat(flat, *flat.size, "eight_bits", low, high)


def _flatten(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        flat = Image.new("RGBA", image.size, (BACKGROUND,) * 4)
        flat.alpha_composite(image.convert("RGBA"))
        return flat.convert("RGB")
    return image.convert("L" if mode in ("1", "L") else "RGB")


def flat_deep(deep: Deep, values: ValueRange) -> Flat:
    """Return values of more than 8 bits as mode L or RGB, laid on white."""
    low, high = float(deep.values.min()), float(deep.values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise BadImage("it holds values that are not finite")
    kind = kind_of(deep.values.dtype)
    levels = to_levels(deep.values, values.of(kind) or decide(low, high, kind=kind))
    if deep.opacity is not None:
        share = deep.opacity if levels.ndim == 2 else deep.opacity[..., None]
        levels = np.rint(levels * share + BACKGROUND * (1 - share)).astype(np.uint8)
    image = Image.fromarray(np.ascontiguousarray(levels))
    return Flat(image, *image.size, kind, low, high)


def scaled_size(width: int, height: int, *, size: int, resize: Resize) -> tuple[int, int]:
    """Return the size of the whole image once scaled, before anything is cut off or added."""
    if resize == "squash":
        return size, size
    scale = size / (min(width, height) if resize == "crop" else max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(image: Image.Image, *, size: int, resize: Resize) -> Image.Image:
    """Return the image of mode L or RGB as a square of `size` pixels; bilinear with antialiasing."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), _BILINEAR, box=(left, top, left + side, top + side))
    scaled = image.resize(scaled_size(width, height, size=size, resize=resize), _BILINEAR)
    if resize == "squash":
        return scaled
    square = Image.new(image.mode, (size, size), (BACKGROUND,) * 3 if image.mode == "RGB" else BACKGROUND)
    square.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))
    return square


def as_pixels(image: Image.Image, *, channels: int | None) -> np.ndarray:
    """Return an image of mode L or RGB as uint8 (channels, height, width); None keeps its own channels."""
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
