"""Small collections of images for the tests of the command line."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

QUICK = ("--method", "kmeans", "--clusters", "3", "--threads", "1", "--quiet")


def png(grey: int, *, mark: int = 0) -> bytes:
    """A grey 8 × 8 image; `mark` makes it differ from others of its grey."""
    pixels = np.full((8, 8), grey, dtype=np.uint8)
    pixels.ravel()[mark % 64] ^= 1 + mark // 64
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def huge_png() -> bytes:
    """A PNG whose header promises 200 megapixels."""
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 20_000, 10_000, 8, 0, 0, 0, 0), b"IDAT": zlib.compress(bytes(100))}
    parts = [
        struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def fill(folder: Path, *, per_class: int = 20, classes: tuple[str, ...] = ("black", "grey", "white")) -> Path:
    """A folder per class, each of one grey."""
    for number, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for mark in range(per_class):
            (folder / name / f"{mark}.png").write_bytes(png(20 + 100 * number, mark=mark))
    return folder
