"""How one image file becomes pixels: what is admitted, how it is turned, flattened, scaled and resized."""

from __future__ import annotations

import io
import logging
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, UnidentifiedImageError, features
from PIL.Image import Resampling, Transpose

from smidgen.errors import InputError, unknown

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF")
"""What is read, by content and not by extension; and HEIC, where the extra `smidgen[heic]` is installed."""

MAX_PIXELS = 50_000_000
"""An image whose header promises more pixels is refused before anything is decoded."""

MAX_BYTES = 512 * 2**20
"""A file longer than this is not read: 50 megapixels of 16-bit RGB take 300 MB."""

BACKGROUND = 255
"""Transparent pixels and the margins of `resize="pad"` are white."""

Resize = Literal["crop", "pad", "squash"]
RESIZE = ("crop", "pad", "squash")

_BILINEAR = Resampling.BILINEAR
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
_BITS_PER_SAMPLE = 258  # the TIFF tag


class BadImage(InputError):
    """A file that cannot be read as an image; `reason` says why in a few words."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"This image cannot be read: {reason}.")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Decoded:
    """An image as it came out of its file.

    pixels: (channels, height, width) uint8, after resizing.
    width, height: its own size in pixels, upright, before resizing.
    colour: whether red, green and blue differ anywhere; False for every image decoded as one channel.
    """

    pixels: np.ndarray
    width: int
    height: int
    colour: bool


def load_image(
    source: Path | bytes, *, size: int | None = None, channels: int = 3, resize: Resize = "crop"
) -> np.ndarray:
    """Return an image file as uint8 pixels (channels, height, width), upright and flattened.

    The policy, the same for every image that smidgen reads:

    - only the formats of `FORMATS`, told by content, up to `MAX_PIXELS` by the header; of animations the first frame;
    - EXIF orientation is applied; transparency is laid on white; CMYK and palettes become RGB;
    - 16-bit greys (also 9 to 15 bits in TIFF) are scaled to 0..255, not clipped. 32-bit integers and floats do not
      say their range: within [0, 1] (floats only) they are scaled by 255, within [0, 255] (floats only) kept, within
      [0, 65535] taken as 16 bits, and otherwise their own least and greatest value become 0 and 255;
    - grey from colour is ITU-R 601-2 luma.

    source: a path, or the file's bytes.
    size: side of the square result in pixels; None keeps the image's own size.
    channels: 1 (grey) or 3 (RGB).
    resize: "crop" cuts the longer side about the centre, "pad" adds white margins, "squash" changes the proportions;
        always bilinear with antialiasing.

    Raises BadImage if the file is not an image that can be read, InputError if an option is not valid.

    >>> buffer = io.BytesIO()
    >>> Image.new("I;16", (6, 4), 65535 // 2).save(buffer, "PNG")
    >>> load_image(buffer.getvalue(), size=2, channels=1)
    array([[[127, 127],
            [127, 127]]], dtype=uint8)
    """
    check_options(size=size, channels=channels, resize=resize)
    data = read_capped(source) if isinstance(source, Path) else source
    with quiet_pillow():
        return decode_image(data, size=size, channels=channels, resize=resize).pixels


def check_options(*, size: int | None, channels: int | None, resize: str) -> None:
    """Raise InputError unless `size` is None or 1..4096, `channels` None, 1 or 3, and `resize` a known way."""
    if size is not None and not 1 <= size <= 4096:
        raise InputError(f"`size` must be between 1 and 4096 pixels, got {size}.")
    if channels not in (None, 1, 3):
        raise InputError(f"`channels` must be 1 (grey) or 3 (colour), got {channels}.")
    if resize not in RESIZE:
        raise unknown("way to resize", resize, RESIZE)


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


def image_size(data: bytes) -> tuple[int, int]:
    """Return the width and height in an image file's header, not yet turned upright; raises BadImage."""
    with _opened(data) as image:
        return image.size


def decode_image(data: bytes, *, size: int | None, channels: int | None, resize: Resize) -> Decoded:
    """Return the decoded image, by the policy of `load_image`; trusts its options, call it inside `quiet_pillow`.

    channels: None keeps the image's own, 1 or 3, and looks whether its colours differ.

    Raises BadImage.
    """
    image = flat_image(data, size=size, resize=resize)
    width, height = image.info["native"]
    pixels = as_pixels(image, channels=channels)
    return Decoded(pixels, width, height, colour=channels is None and _has_colour(pixels))


def flat_image(data: bytes, *, size: int | None = None, resize: Resize = "crop") -> Image.Image:
    """Return an upright image of mode L, F (0..255) or RGB, without transparency; call it inside `quiet_pillow`.

    `info["native"]` holds its own (width, height), upright.

    Raises BadImage.
    """
    with _opened(data) as image:
        width, height = image.size
        _check_pixels(width, height)
        if size is not None:
            _decode_small(image, _scaled_size(width, height, size=size, resize=resize))
        image.load()
        turn = _orientation(image)  # after load: PNG may hold it behind the pixels, TIFF has turned itself by now
        flat = _flatten(image)
        if size is not None:
            flat = resized(flat, size=size, resize=resize)
        if turn in _TURNS:  # turned when small: a square's crop and margins are the same either way
            flat = flat.transpose(_TURNS[turn])
        flat.info["native"] = (height, width) if turn in (5, 6, 7, 8) else (width, height)
        return flat


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
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


def _open_heic(data: bytes) -> Image.Image:
    """Open a HEIC file by pillow-heif, which need not be there; Pillow's own list of formats stays as it is."""
    try:
        from pillow_heif.as_plugin import HeifImageFile
    except ImportError as error:
        raise BadImage("HEIC needs the package pillow-heif: `pip install 'smidgen[heic]'`") from error
    return HeifImageFile(io.BytesIO(data))


def _check_pixels(width: int, height: int) -> None:
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


def _flatten(image: Image.Image) -> Image.Image:
    """Return the loaded image as mode L, F (0..255) or RGB."""
    mode = image.mode
    if mode in ("I", "F") or mode.startswith("I;"):
        return _high_depth(image)
    if mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        flat = Image.new("RGBA", image.size, (BACKGROUND,) * 4)
        flat.alpha_composite(image.convert("RGBA"))
        return flat.convert("RGB")
    return image.convert("L" if mode in ("1", "L") else "RGB")


def _high_depth(image: Image.Image) -> Image.Image:
    """Return a deep grey image as mode F, its range scaled to 0..255 (never clipped)."""
    values = np.asarray(image).astype(np.float32)
    if not np.isfinite(values).all():
        raise BadImage("it holds values that are not finite")
    low, high = float(values.min()), float(values.max())
    if low >= 0 and high <= 65535:
        scaled = values * (255 / _range(image, high))
    else:
        scaled = (values - low) * (255 / max(high - low, 1e-30))  # a constant image becomes 0
    if image.mode.startswith("I;") and isinstance(image.info.get("transparency"), int):
        scaled[values == image.info["transparency"]] = BACKGROUND
    return Image.fromarray(scaled.astype(np.float32))


def _range(image: Image.Image, high: float) -> float:
    """Return the value that stands for white."""
    if image.mode == "F" and high <= 1:
        return 1.0
    if image.mode == "F" and high <= 255:
        return 255.0
    bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (16,))[0]
    return float(2**bits - 1) if 8 < bits < 16 else 65535.0


def _scaled_size(width: int, height: int, *, size: int, resize: Resize) -> tuple[int, int]:
    """Return the size of the whole image once scaled, before anything is cut off or added."""
    if resize == "squash":
        return size, size
    scale = size / (min(width, height) if resize == "crop" else max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def resized(image: Image.Image, *, size: int, resize: Resize) -> Image.Image:
    """Return the image of mode L, F or RGB as a square of `size` pixels; bilinear with antialiasing."""
    width, height = image.size
    if (width, height) == (size, size):
        return image
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        return image.resize((size, size), _BILINEAR, box=(left, top, left + side, top + side))
    scaled = image.resize(_scaled_size(width, height, size=size, resize=resize), _BILINEAR)
    if resize == "squash":
        return scaled
    square = Image.new(image.mode, (size, size), (BACKGROUND,) * 3 if image.mode == "RGB" else BACKGROUND)
    square.paste(scaled, ((size - scaled.width) // 2, (size - scaled.height) // 2))
    return square


def as_pixels(image: Image.Image, *, channels: int | None) -> np.ndarray:
    """Return an image of mode L, F (0..255) or RGB as uint8 (channels, height, width); None keeps its own channels."""
    if image.mode == "F":
        image = Image.fromarray(np.clip(np.rint(np.asarray(image)), 0, 255).astype(np.uint8))
    if channels is not None:
        image = image.convert("L" if channels == 1 else "RGB")
    pixels = np.asarray(image)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))


def _has_colour(pixels: np.ndarray) -> bool:
    return len(pixels) == 3 and bool((pixels[0] != pixels[1]).any() or (pixels[1] != pixels[2]).any())
