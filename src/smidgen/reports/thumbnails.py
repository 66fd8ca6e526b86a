"""Thumbnails as data URIs, shrunk until the page fits its size limit."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from smidgen.run_folder import RunFolder

_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
_SIDES = (128, 96, 64, 48, 32)  # sides to try, in pixels, until the galleries fit
_MAP_SIDE = 48
_SMALL = 1200  # bytes below which a thumbnail is left as it is


@dataclass(frozen=True)
class Thumbnails:
    """Data URIs by row of `assignments.csv`, and how large to draw them.

    side: edge of a thumbnail on the page in CSS pixels. pixelated: whether they are pixel art (32 px or less).
    """

    uris: Mapping[int, str]
    side: int
    pixelated: bool


def read_thumbnails(run_folder: Path, rows: np.ndarray) -> dict[int, bytes]:
    """Return the stored PNG or JPEG bytes of those of the rows that have any; files of other kinds are left out.

    Raises RunError if the file is damaged.
    """
    wanted = set(rows.tolist())
    return {row: data for row, data in RunFolder(run_folder).thumbnails().items() if row in wanted and _mime(data)}


def fit_thumbnails(
    stored: Mapping[int, bytes], shown: Iterable[np.ndarray], sample: np.ndarray, *, budget: int
) -> Thumbnails:
    """Return data URIs that together take at most `budget` characters on the page.

    Gallery images are shrunk as far as is needed, those only on the map to 48 px; what does not fit even then is left
    out, the least wanted first.

    stored: bytes by row. shown: rows of the galleries, the most wanted first, a row may come twice. sample: rows of
    the map. budget: characters.
    """
    gallery = [row for rows in shown for row in rows.tolist() if row in stored]
    small = _shrunk_to_fit(stored, gallery, budget=int(0.7 * budget))
    only_map = [row for row in sample.tolist() if row in stored and row not in small]
    small |= {row: _shrink(stored[row], _MAP_SIDE) for row in only_map}
    uris: dict[int, str] = {}
    left = budget
    uses = Counter(gallery)
    for row in [*dict.fromkeys(gallery), *only_map]:
        uri = _uri(small[row])
        cost = len(uri) * max(uses[row], 1)
        if uri and cost <= left:
            uris[row] = uri
            left -= cost
    width = _typical_width(stored)
    return Thumbnails(uris, side=display_side(width), pixelated=width <= 32)


def _shrunk_to_fit(stored: Mapping[int, bytes], gallery: list[int], *, budget: int) -> dict[int, bytes]:
    small: dict[int, bytes] = {}
    room = float(_SIDES[0])
    for side in _SIDES:
        if side > room and side != _SIDES[-1]:
            continue
        small = {row: _shrink(stored[row], side) for row in dict.fromkeys(gallery)}
        size = sum(len(small[row]) * 4 / 3 + 40 for row in gallery)
        if size <= budget:
            break
        room = side * (budget / size) ** 0.5  # bytes go with the area: sides that cannot do need no try
    return small


def _mime(data: bytes) -> str:
    return next((mime for start, mime in _SIGNATURES.items() if data.startswith(start)), "")


def _uri(data: bytes) -> str:
    return f"data:{_mime(data)};base64,{base64.b64encode(data).decode()}" if data else ""


def _shrink(data: bytes, side: int) -> bytes:
    """Return the image with edges of at most `side` pixels; as it is if small already, empty if it is damaged."""
    if len(data) <= _SMALL:
        return data
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG")) as image:
            if max(image.size) <= side and len(data) <= side * side // 2:
                return data
            image.thumbnail((side, side))
            out = io.BytesIO()
            image.convert("RGB").save(out, "JPEG", quality=80, optimize=True)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return b""
    return out.getvalue()


def _typical_width(stored: Mapping[int, bytes]) -> int:
    """Return the longer edge in pixels of the first thumbnail that can be read, 64 where none can."""
    from PIL import Image

    for row in sorted(stored)[:20]:
        try:
            with Image.open(io.BytesIO(stored[row]), formats=("PNG", "JPEG")) as image:
                return max(image.size)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            continue
    return 64


def display_side(width: int) -> int:
    """Return the edge at which thumbnails `width` pixels wide are drawn: whole multiples keep pixel art crisp.

    >>> display_side(8), display_side(28), display_side(32), display_side(96)
    (56, 56, 64, 56)
    """
    return max(1, round(56 / width)) * width if width <= 32 else 56
