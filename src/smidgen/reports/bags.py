"""The report's section on bags, for UCC and RCC: scores, divergences, features, reconstructions.

Everything comes from the run's `metrics.json` and `tables/`, which `evaluation.bag_methods` and the method wrote.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from smidgen.csv_tables import read_csv
from smidgen.errors import RunError
from smidgen.reports import figures
from smidgen.reports.pictures import png_uri
from smidgen.reports.tables import is_number, percent, thousands

_LARGEST_FIGURE = 24  # classes
_MOST_FEATURES = 32

_SCORES = {
    "ucc_accuracy": "Unique counts right",
    "ucc_loss": "Cross-entropy of unique counts",
    "paper_ucc_accuracy": "Unique counts of bags of 32 right, as in the paper",
    "proportion_error": "Images counted to a wrong class",
    "class_count_accuracy": "Class counts right",
    "report_class_count_accuracy": "Same, divided by the bag size as in the RCC report",
    "count_loss": "Squared error of class counts",
    "kmeans_accuracy": "k-means on features",
    "spectral_accuracy": "Spectral clustering of features",
    "min_js": "Least divergence of two classes",
    "report_min_js": "Same, summed over features as in the RCC report",
    "reconstruction_error": "Reconstruction error",
    "reconstruction_error_shuffled": "Same with other images’ features",
}

_CARRIES = 0.01  # of an image's variance: what its own features must tell the decoder to be said to tell something


def read_bags(run_folder: Path | str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the section shows, empty where the method describes no bags; RunError for a damaged table."""
    folder = Path(run_folder) / "tables"
    tables = {name: folder / f"{name}.csv" for name in ("js_divergences", "class_densities", "reconstructions")}
    if not any(path.is_file() for path in tables.values()):
        return {}
    found: dict[str, Any] = {"scores": _scores(metrics), "splits": _splits(metrics), "divergences": None}
    found |= {"features": [], "more_features": 0}
    found |= {"pictures": None, "width": 0}
    for name, path in tables.items():
        if path.is_file():
            try:
                found |= _READERS[name](read_csv(path))
            except (KeyError, ValueError) as error:
                raise RunError(f"{str(path)!r} is not a table of {name} ({error}).") from None
    return found


def _scores(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """Return (name, its value on each of `_splits`, "" where there is none)."""
    splits = _splits(metrics)
    values = {key: [metrics.get(f"{split}_{key}") for split in splits] for key in _SCORES}
    return [
        (
            words,
            [_score_text(key, v, s, metrics) if is_number(v) else "" for s, v in zip(splits, values[key], strict=True)],
        )
        for key, words in _SCORES.items()
        if any(map(is_number, values[key]))
    ]


def _splits(metrics: Mapping[str, Any]) -> list[str]:
    """Return the splits that were scored, that of unseen images first."""
    splits = ("test", "train", "all")
    return [split for split in splits if any(is_number(metrics.get(f"{split}_{key}")) for key in _SCORES)]


def _score_text(key: str, value: float, split: str, metrics: Mapping[str, Any]) -> str:
    """Return a score as the report words it."""
    if key.endswith("min_js"):
        return f"{value:.3f} bits"
    if key in ("ucc_loss", "count_loss"):
        return f"{value:.4f}"
    if not key.startswith("reconstruction_error"):
        n = metrics.get(f"{split}_spectral_images") if key == "spectral_accuracy" else None
        return percent(value) + (f" of {thousands(n)} images" if is_number(n) else "")
    error = metrics.get(f"{split}_reconstruction_error")
    idle = key.endswith("_shuffled") and is_number(error) and value - error < _CARRIES
    return f"{value:.4f}" + ": the features carry nothing about the image" * idle


def _divergences(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    names = list(dict.fromkeys(columns["class"]))
    values = np.array([float(bits or "nan") for bits in columns["bits"]]).reshape(len(names), len(names))
    if not 1 < len(names) <= _LARGEST_FIGURE:
        return {}
    np.fill_diagonal(values, np.nan)
    largest = max(float(np.nanmax(values, initial=0)), 1e-6)
    label = "Jensen–Shannon divergence of classes, in bits"
    figure = figures.value_map(
        values, rows=names, columns=names, label=label, words=("class", "class"), largest=largest
    )
    return {"divergences": figure}


def _features(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    names = list(dict.fromkeys(columns["class"]))
    n_features, n_points = (1 + max(int(cell) for cell in columns[axis]) for axis in ("feature", "point"))
    densities = np.array([float(cell or "nan") for cell in columns["density"]])
    densities = densities.reshape(len(names), n_features, n_points)
    if len(names) > _LARGEST_FIGURE:
        return {}
    points = [str(m + 1) for m in range(n_points)]
    strips: list[tuple[str, Markup]] = []
    for j in range(min(n_features, _MOST_FEATURES)):
        label = f"Densities of feature {j + 1} by class"
        values = densities[:, j]
        largest = max(float(np.nanmax(values, initial=0)), 1e-6)
        words = ("class", "point")
        figure = figures.value_map(
            values, rows=names, columns=points, label=label, words=words, largest=largest, cell=9
        )
        strips.append((f"feature {j + 1}", figure))
    return {"features": strips, "more_features": n_features - len(strips)}


def _reconstructions(columns: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    if "feature" in columns:  # of vectors, not images
        return {}
    shape = tuple(1 + max(int(cell) for cell in columns[axis]) for axis in ("image", "channel", "row", "column"))
    pictures = [np.array([float(cell) for cell in columns[name]]).reshape(shape) for name in ("original", "decoded")]
    sheet = np.concatenate([_side_by_side(images) for images in pictures], axis=1)
    return {"pictures": Markup(_png(sheet)), "width": max(2, 44 // shape[3]) * sheet.shape[2]}


def _side_by_side(images: np.ndarray) -> np.ndarray:
    """Return (channels, height, n · width) of images (n, channels, height, width)."""
    return np.concatenate(list(images), axis=2)


def _png(picture: np.ndarray) -> str:
    """Return a data URI of a picture (channels, height, width) in [0, 1]."""
    from PIL import Image

    pixels = (np.nan_to_num(picture).clip(0, 1) * 255).round().astype(np.uint8)
    return png_uri(Image.fromarray(pixels[0]) if len(pixels) == 1 else Image.fromarray(pixels[:3].transpose(1, 2, 0)))


_READERS = {"js_divergences": _divergences, "class_densities": _features, "reconstructions": _reconstructions}
