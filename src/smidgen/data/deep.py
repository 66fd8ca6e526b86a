"""Image files with more than 8 bits per value, read without loss of precision."""

from __future__ import annotations

import io
import re
import sys
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageFile

from smidgen.data.values import BITS

_BITS_PER_SAMPLE, _SAMPLE_FORMAT, _PLANAR = 258, 339, 284  # TIFF tags
_UNSIGNED = (1,)
_COLOURS = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16")


class Deep(NamedTuple):
    """Pixels of more than 8 bits.

    values: (height, width) grey or (height, width, 3), integers or floats. opacity: (height, width) float32 in 0..1,
    None where all is opaque.
    """

    values: np.ndarray
    opacity: np.ndarray | None = None


def deep_pixels(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    """Return the values of an image just opened, None if it has 8 bits; what Pillow and its codecs raise passes.

    image: opened and not loaded; what it holds later counts no more. data: the file's bytes.

    Pillow reads grey images of 16 and 32 bits as they are, but of 16 bits in colour, or grey with transparency, it
    keeps only the upper 8. They are read twice here, the other byte being unpacked the second time.
    """
    if image.format == "PPM":
        return _from_pnm(image, data)
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return _from_grey(image)
    if getattr(image, "tag_v2", {}).get(_PLANAR) == 2 and _bits(image) == 16:
        raise ValueError("16-bit colours in separate planes")
    mode = _raw_mode(image)
    return _from_colour(image, data, mode) if mode.startswith(_COLOURS) else None


def _from_grey(image: ImageFile.ImageFile) -> Deep:
    image.load()
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if values.dtype == np.int32 and tags.get(_SAMPLE_FORMAT, _UNSIGNED) == _UNSIGNED and _bits(image) == 32:
        values = values.view(np.uint32)
    key = image.info.get("transparency")
    return Deep(values, (values != key).astype(np.float32) if isinstance(key, int) else None)


def _bits(image: ImageFile.ImageFile) -> int:
    return int(getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (0,))[0])


# -------------------------------------------------------------------------------------------------- 16 bits in colour


def _raw_mode(image: ImageFile.ImageFile) -> str:
    """Return how the first tile of an opened image is unpacked, in Pillow's words: "RGB;16B"."""
    if not image.tile:
        return ""
    args = image.tile[0].args
    return str(args if isinstance(args, str) else args[0]) if args else ""


def _from_colour(image: ImageFile.ImageFile, data: bytes, mode: str) -> Deep:
    grey = mode.startswith("LA")
    if grey:
        parts = _unpacked(data, "RGBA", mode="RGBA").astype(np.uint16)  # its four bytes a pixel, as they come
        values = parts[..., 0::2] * np.uint16(256) + parts[..., 1::2]
    else:
        upper = _unpacked(data, mode).astype(np.uint16)
        values = upper * np.uint16(256) + _unpacked(data, _other_byte(mode))
    key = image.info.get("transparency")
    if isinstance(key, tuple):
        return Deep(values, (values != np.array(key)).any(axis=2).astype(np.float32))
    if image.mode == "RGB":
        return Deep(values)
    colour = values[..., 0] if grey else values[..., :3]
    return Deep(colour, values[..., -1].astype(np.float32) / 65535)


def _other_byte(mode: str) -> str:
    """Return the raw mode that unpacks the lower byte where `mode` unpacks the upper one."""
    layout, order = mode[:-1], mode[-1]
    big_endian = order == "B" or (order == "N" and sys.byteorder == "big")
    return layout + ("L" if big_endian else "B")


def _unpacked(data: bytes, raw_mode: str, *, mode: str | None = None) -> np.ndarray:
    """Return a file's pixels (height, width, channels) as Pillow unpacks them by a raw mode."""
    with Image.open(io.BytesIO(data), formats=("PNG", "TIFF")) as image:
        if mode is not None:
            image._mode = mode  # as a plugin of Pillow does
        for place, tile in enumerate(image.tile):
            args = raw_mode if isinstance(tile.args, str) else (raw_mode, *(tile.args or ())[1:])
            image.tile[place] = tile._replace(args=args)
        image.load()
        return np.array(image)


# ------------------------------------------------------------------------------------------------------- PGM and PPM


def _from_pnm(image: ImageFile.ImageFile, data: bytes) -> Deep | None:
    """Return the values of a PGM or PPM file whose largest value is above 255, or of a PFM.

    Values are stretched where the largest that the file names, its white, is not that of a depth in `BITS`.
    """
    if image.mode == "F":
        image.load()
        return Deep(np.asarray(image))
    start = image.tile[0].offset
    words = _without_comments(data[:start]).split()
    white = int(words[3]) if words[0][1:] in (b"2", b"3", b"5", b"6") else 0
    if white <= 255:
        return None
    shape = (image.height, image.width, 3) if image.mode == "RGB" else (image.height, image.width)
    n = int(np.prod(shape))
    if words[0][1:] in (b"5", b"6"):
        values = np.frombuffer(data, ">u2", count=n, offset=start).astype(np.uint16)
    else:
        values = np.array(_without_comments(data[start:]).split()[:n], dtype=np.int64).astype(np.uint16)
    most = next(2**bits - 1 for bits in BITS if 2**bits > white)
    if white != most:
        values = np.rint(np.minimum(values, white) * (most / white)).astype(np.uint16)
    return Deep(values.reshape(shape))


def _without_comments(text: bytes) -> bytes:
    return re.sub(rb"#[^\r\n]*", b"", text)
