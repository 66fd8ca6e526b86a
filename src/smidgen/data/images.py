"""Reads one image file into pixels: admitted formats, orientation, transparency, scaling and resizing."""

from __future__ import annotations

import io
import logging
import math
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError, features
from PIL.Image import Transpose

from smidgen.data.deep import deep_pixels
from smidgen.data.flat import (
    RESIZE,
    BadImage,
    Flat,
    Resize,
    array_of,
    as_pixels,
    channels_last,
    flat_8_bits,
    flat_array,
    flat_deep,
    resized,
    scaled_size,
)
from smidgen.data.values import OPEN, ValueRange, as_value_range
from smidgen.errors import InputError, unknown

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""Supported formats, detected by content, not extension; also HEIC if the extra `smidgen[heic]` is installed."""

MAX_PIXELS = 50_000_000
"""An image whose header promises more pixels is refused before anything is decoded."""

MAX_BYTES = 512 * 2**20
"""A file longer than this is not read: 50 megapixels of 16-bit RGB take 300 MB."""

_TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
START = 32
"""As many bytes of a file tell its format."""

_MAGIC = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"II+\0": "TIFF",
    b"MM\0+": "TIFF",
}
_BMP_HEADERS = b"\x0c\x28\x34\x38\x40\x6c\x7c"  # their possible lengths
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_ORIENTATION = 0x0112  # the EXIF tag

Source = bytes | np.ndarray
"""An image not read yet: a file's bytes; or its values, (h, w), (h, w, c) or (c, h, w) with c of 1, 3 or 4."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as it came out of its file.

    pixels: (channels, height, width) uint8, after resizing.
    width, height: its own size in pixels, upright, before resizing.
    colour: whether red, green and blue differ anywhere; False for every image decoded as one channel.
    kind: one of `values.KINDS`; low, high: its own least and largest value, before they were made 0..255.
    """

    pixels: np.ndarray
    width: int
    height: int
    colour: bool
    kind: str
    low: float
    high: float


def load_image(
    source: str | Path | bytes | np.ndarray | Image.Image,
    *,
    size: int | None = None,
    channels: int = 3,
    resize: Resize = "crop",
    value_range: object = None,
) -> np.ndarray:
    """Return an image file as uint8 pixels (channels, height, width), upright and flattened.

    The policy, the same for every image that smidgen reads:

    - only the formats of `FORMATS`, by content, up to `MAX_PIXELS` by the header; of animations the first frame;
    - EXIF orientation is applied; transparency is laid on white; CMYK and palettes become RGB;
    - values of more than 8 bits, grey or colour, become 0..255 by a range that `values.decide` finds for the largest of
      them, whatever the file could hold: an image alone by its own, those of a collection all by one;
    - grey from colour is ITU-R 601-2 luma.

    source: a path, the file's bytes, an array of one image, or an image of Pillow's.
    size: side of the square result in pixels; None keeps the image's own size.
    channels: 1 (grey) or 3 (RGB).
    resize: "crop" cuts the longer side about the centre, "pad" adds white margins, "squash" changes the proportions;
        always bilinear with antialiasing.
    value_range: the values of black and white, as `values.as_value_range` takes them; None decides it.

    Raises BadImage if the file is not an image that can be read, InputError if an option is not valid.

    >>> buffer = io.BytesIO()
    >>> Image.new("I;16", (6, 4), 127).save(buffer, "PNG")
    >>> load_image(buffer.getvalue(), size=2, channels=1)
    array([[[127, 127],
            [127, 127]]], dtype=uint8)
    >>> int(load_image(buffer.getvalue(), value_range="16-bit").max())
    0
    """
    check_options(size=size, channels=channels, resize=resize)
    values = as_value_range(value_range)
    with quiet_pillow():
        return decode_image(_as_source(source), size=size, channels=channels, resize=resize, values=values).pixels


def _as_source(source: str | Path | bytes | np.ndarray | Image.Image) -> Source:
    if isinstance(source, str | Path):
        return read_capped(source)
    return array_of(source) if isinstance(source, Image.Image) else source


def check_options(*, size: int | None, channels: int | None, resize: str) -> None:
    """Raise InputError unless `size` is None or 1..4096, `channels` None, 1 or 3, and `resize` a known way."""
    if size is not None and not 1 <= size <= 4096:
        raise InputError(f"`size` must be between 1 and 4096 pixels, got {size}.")
    if channels not in (None, 1, 3):
        raise InputError(f"`channels` must be 1 (grey) or 3 (colour), got {channels}.")
    if resize not in RESIZE:
        raise unknown("way to resize", str(resize), RESIZE)


def read_capped(path: str | Path) -> bytes:
    """Return a regular file's bytes; raises BadImage if it cannot be opened or is longer than `MAX_BYTES`."""
    # A text is enough: of a hundred thousand files, `Path`s alone would cost as much as listing them.
    try:
        about = os.stat(path)  # noqa: PTH116  # before it is opened: a FIFO or a device would block or never end
        length = min(about.st_size, MAX_BYTES) + 1  # one more than allowed, no more: `read` sets aside what it is asked
        data = None
        if stat.S_ISREG(about.st_mode):
            with open(path, "rb") as file:  # noqa: PTH123
                data = file.read(length)
    except FileNotFoundError as error:
        raise BadImage("no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise BadImage(f"cannot be opened ({getattr(error, 'strerror', None) or error})") from error
    if data is None:
        raise BadImage("not a regular file")
    if len(data) > MAX_BYTES:
        raise BadImage(f"longer than {MAX_BYTES // 2**20} MB")
    return data


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's own warnings and log (broken EXIF, more than 89 megapixels); our checks speak instead.

    Log records still reach handlers that the user has set up; only Python's last resort, standard error, is kept out.
    Python's warning filters belong to the process, so enter this once, in the calling thread, around all decoding:
    entering it in several threads at once could leave the filters changed. Pillow's switches stay as they are.
    """
    log, nowhere = logging.getLogger("PIL"), logging.NullHandler()
    log.addHandler(nowhere)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"PIL\b")
            yield
    finally:
        log.removeHandler(nowhere)


def image_format(start: bytes) -> str | None:
    """Return the format that the first `START` bytes of a file belong to, or None; a hint, not a proof.

    >>> image_format(b"\\x89PNG\\r\\n\\x1a\\n"), image_format(b"RIFF....WEBPVP8 "), image_format(b"Dear Sir,")
    ('PNG', 'WEBP', None)
    """
    for prefix, name in _MAGIC.items():
        if start.startswith(prefix):
            return name
    if start[:2] == b"BM" and start[14:15] in _BMP_HEADERS and start[15:18] == b"\0\0\0":
        return "BMP"
    if start[:4] == b"RIFF" and start[8:12] == b"WEBP":
        return "WEBP"
    if start[4:8] == b"ftyp":
        brands = {start[at : at + 4] for at in range(8, len(start), 4)}
        return "AVIF" if brands & _AVIF else "HEIC" if brands & _HEIC else None
    if start[:1] == b"P" and start[1:2] in b"123456f" and start[2:3].isspace() and start[3:4] in b"#0123456789":
        return "PPM"
    return None


def image_size(source: Source) -> tuple[int, int]:
    """Return the width and height in an image file's header, not yet turned upright; raises BadImage."""
    if isinstance(source, np.ndarray):
        height, width = channels_last(source).shape[:2]
        return width, height
    with opened(source) as image:
        return image.size


def decode_image(
    source: Source, *, size: int | None, channels: int | None, resize: Resize, values: ValueRange = OPEN
) -> Decoded:
    """Return the decoded image, by the policy of `load_image`; trusts its options, call it inside `quiet_pillow`.

    channels: None keeps the image's own, 1 or 3, and looks whether its colours differ.
    values: the values of black and white; a range that is open is decided by those of this image.

    Raises BadImage.
    """
    flat = flat_image(source, size=size, resize=resize, values=values)
    pixels = as_pixels(flat.image, channels=channels)
    low, high = flat.low, flat.high
    if flat.kind == "eight_bits" and math.isnan(low):
        low, high = float(pixels.min()), float(pixels.max())
    colour = channels is None and _has_colour(pixels)
    return Decoded(pixels, flat.width, flat.height, colour, flat.kind, low, high)


def flat_image(source: Source, *, size: int | None = None, resize: Resize = "crop", values: ValueRange = OPEN) -> Flat:
    """Return an upright image of mode L or RGB, without transparency; call it inside `quiet_pillow`.

    Its least and largest value are NaN where 8 bits are kept as they are: they can be seen in the pixels.

    Raises BadImage.
    """
    if not isinstance(source, np.ndarray):
        return _flat_file(source, values, size=size, resize=resize)
    array = channels_last(source)
    check_pixels(array.shape[1], array.shape[0])
    flat = flat_array(array, values)
    return flat if size is None else flat._replace(image=resized(flat.image, size=size, resize=resize))


def _flat_file(data: bytes, values: ValueRange, *, size: int | None, resize: Resize) -> Flat:
    with opened(data) as image:
        width, height = image.size
        check_pixels(width, height)
        if size is not None:
            _decode_small(image, scaled_size(width, height, size=size, resize=resize))
        deep = deep_pixels(image, data)
        if deep is None:
            image.load()
        turn = _orientation(image)  # after load: PNG may hold it behind the pixels, TIFF has turned itself by now
        flat = flat_8_bits(image, values) if deep is None else flat_deep(deep, values)
        small = flat.image if size is None else resized(flat.image, size=size, resize=resize)
        if turn in _TURNS:  # turned when small: a square's crop and margins are the same either way
            small = small.transpose(_TURNS[turn])
        width, height = (height, width) if turn in (5, 6, 7, 8) else (width, height)
        return Flat(small, width, height, flat.kind, flat.low, flat.high)


@contextmanager
def opened(data: bytes) -> Iterator[ImageFile.ImageFile]:
    """Open a file's bytes; whatever Pillow and its codecs raise on damaged files becomes BadImage."""
    try:
        is_heic = image_format(data[:START]) == "HEIC"
        with _open_heic(data) if is_heic else Image.open(io.BytesIO(data), formats=FORMATS) as image:
            yield image
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage(_unidentified(data)) from error
    except Image.DecompressionBombError as error:
        raise BadImage(f"more than {MAX_PIXELS // 10**6} megapixels") from error
    except Exception as error:  # SyntaxError, struct.error, zlib.error, EOFError, IndexError …: depends on the codec
        words = " ".join(str(error).split()) or type(error).__name__
        raise BadImage(f"damaged {image_format(data[:START]) or 'image'} ({words})") from error


def _unidentified(data: bytes) -> str:
    if not data:
        return "the file is empty"
    seen = image_format(data[:START])
    if seen == "AVIF" and not features.check("avif"):
        return "this Pillow was built without AVIF; `pip install --upgrade pillow` gets one that has it"
    return f"damaged or truncated {seen}" if seen else f"not an image (known: {', '.join(FORMATS)})"


def _open_heic(data: bytes) -> ImageFile.ImageFile:
    """Open a HEIC file by pillow-heif, which need not be there; Pillow's own list of formats stays as it is."""
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError as error:
        raise BadImage("HEIC needs the package pillow-heif: `pip install 'smidgen[heic]'`") from error
    return HeifImageFile(io.BytesIO(data))


def check_pixels(width: int, height: int) -> None:
    """Raise BadImage for more pixels than `MAX_PIXELS`, or none."""
    if width * height > MAX_PIXELS:
        raise BadImage(f"{width} x {height} pixels are more than {MAX_PIXELS // 10**6} megapixels")
    if width * height == 0:
        raise BadImage("it has no pixels")


def _decode_small(image: Image.Image, target: tuple[int, int]) -> None:
    """Let the JPEG decoder shrink by 2, 4 or 8 while it decodes, to no less than twice the target.

    Twice, because the decoder's own shrinking is a box filter; the rest is left to the antialiased resize.
    """
    if image.format in ("JPEG", "MPO"):
        image.draft(None, (2 * target[0], 2 * target[1]))


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF must not cost the picture
        return 1


def _has_colour(pixels: np.ndarray) -> bool:
    return len(pixels) == 3 and bool((pixels[0] != pixels[1]).any() or (pixels[1] != pixels[2]).any())
