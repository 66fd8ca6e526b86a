"""The report's picture of the first layer's filters, from the run's `filters.npy`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from smidgen.errors import RunError
from smidgen.files import read_array
from smidgen.reports.pictures import png_uri

_MOST = 128  # filters that are shown
_SIDE = 36  # pixels on the page that a filter has at least


def read_filters(run_folder: Path | str) -> dict[str, Any]:
    """Return the picture, its width on the page and what it shows; empty where the net has no convolution.

    Raises RunError for a damaged file.
    """
    path = Path(run_folder) / "filters.npy"
    if not path.is_file():
        return {}
    filters = read_array(path)
    if filters.ndim != 4 or not filters.size or not np.isfinite(filters).all():
        raise RunError(f"{str(path)!r} is damaged: it holds no filters (filters, channels, height, width).")
    from PIL import Image

    n, channels, height, width = filters.shape
    sheet = _sheet(np.stack([_picture(each) for each in filters[:_MOST]]))
    return {
        "uri": Markup(png_uri(Image.fromarray(sheet))),
        "width": max(round(_SIDE / height), 1) * sheet.shape[1],
        "note": f"{n:,} of {height}×{width} pixels, each stretched to its own range; {_IN_WORDS.get(channels, _APART)}",
        "more": max(n - _MOST, 0),
    }


_IN_WORDS = {1: "grey is zero", 3: "in the colours that they respond to"}
_APART = "the input’s channels are side by side"


def _picture(weights: np.ndarray) -> np.ndarray:
    """Return (height, width, 3) uint8 of a filter (channels, height, width): colours, or grey channels side by side."""
    largest = np.abs(weights).max()
    scaled = 0.5 + weights / (2 * largest if largest > 0 else 1)
    if len(weights) != 3:
        scaled = np.repeat(np.concatenate(list(scaled), axis=1)[None], 3, axis=0)
    return (255 * scaled).round().astype(np.uint8).transpose(1, 2, 0)


def _sheet(pictures: np.ndarray) -> np.ndarray:
    """Return pictures (n, height, width, 3) in rows, (rows, columns, 4), a transparent pixel between them."""
    n, height, width, _ = pictures.shape
    columns = min(max(math.ceil(math.sqrt(2 * n * height / width)), 1), n)
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + 1) - 1, columns * (width + 1) - 1, 4), dtype=np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * (height + 1), i % columns * (width + 1)
        sheet[top : top + height, left : left + width, :3] = picture
        sheet[top : top + height, left : left + width, 3] = 255
    return sheet
