"""How honest confidence is: calibration error, Brier score, accuracy against coverage, and audits of random images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from smidgen.errors import InputError

BINS = 15


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence against accuracy, in bins of confidence of equal width that hold any image.

    confidence, accuracy: (bins,) means over the images of a bin, in 0 … 1. images: (bins,) int64, how many there are.
    """

    confidence: np.ndarray
    accuracy: np.ndarray
    images: np.ndarray

    @property
    def error(self) -> float:
        """The expected calibration error (Guo et al. 2017): mean distance of the two, weighted by images; 0 to 1."""
        return float(np.average(np.abs(self.confidence - self.accuracy), weights=self.images))


def reliability(confidence: np.ndarray, right: np.ndarray, *, bins: int = BINS) -> Reliability:
    """Return confidence against accuracy in bins of equal width.

    confidence: (n,) in 0 … 1. right: (n,) bool, whether the image is of the class that its cluster stands for.
    Raises InputError for no images, or confidence outside 0 … 1.

    >>> found = reliability(np.array([0.9, 0.9, 0.6, 0.6]), np.array([True, True, True, False]))
    >>> found.accuracy.tolist(), round(found.error, 3)
    ([0.5, 1.0], 0.1)
    """
    confidence, right = _checked(confidence, right)
    place = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    images = np.bincount(place, minlength=bins)
    held = images > 0
    return Reliability(
        confidence=np.bincount(place, weights=confidence, minlength=bins)[held] / images[held],
        accuracy=np.bincount(place, weights=right, minlength=bins)[held] / images[held],
        images=images[held],
    )


def brier(confidence: np.ndarray, right: np.ndarray) -> float:
    """Return the Brier score of the stated confidence, mean (confidence − right)², 0 for the best; see `reliability`.

    >>> brier(np.array([1.0, 0.5]), np.array([True, False]))
    0.125
    """
    confidence, right = _checked(confidence, right)
    return float(np.square(confidence - right).mean())


def coverage_curve(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coverage and accuracy, (steps,) each: the share of images kept, the surest first, and of right ones there.

    Images of equal confidence come in together. See `reliability` for the arguments.

    >>> coverage, accuracy = coverage_curve(np.array([0.9, 0.8, 0.8, 0.1]), np.array([True, True, False, False]))
    >>> coverage.tolist(), accuracy.round(2).tolist()
    ([0.25, 0.75, 1.0], [1.0, 0.67, 0.5])
    """
    confidence, right = _checked(confidence, right)
    order = np.argsort(-confidence, kind="stable")
    last = np.append(np.flatnonzero(np.diff(confidence[order])), len(order) - 1)  # of each group of equal ones
    taken = last + 1
    return taken / len(order), np.cumsum(right[order])[last] / taken


def share_interval(n_right: int, n: int, *, level: float = 0.95) -> tuple[float, float]:
    """Return the exact interval (Clopper and Pearson 1934) of a share of which n_right of n random draws are right.

    Raises InputError for no draws.

    >>> low, high = share_interval(27, 30)
    >>> round(low, 2), round(high, 2)
    (0.73, 0.98)
    """
    if not 0 <= n_right <= n or n < 1:
        raise InputError(f"An interval needs one image checked at least, got {n_right} right of {n}.")
    found = binomtest(n_right, n).proportion_ci(level, method="exact")
    return float(found.low), float(found.high)


def calibration_scores(confidence: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Return "calibration_error" and "brier" of images whose confidence is known (not NaN); nothing without any."""
    known = ~np.isnan(confidence)
    if not known.any():
        return {}
    confidence, right = confidence[known], right[known]
    return {"calibration_error": reliability(confidence, right).error, "brier": brier(confidence, right)}


def _checked(confidence: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    confidence, right = np.asarray(confidence, dtype=np.float64), np.asarray(right, dtype=bool)
    if len(confidence) != len(right) or not len(right):
        raise InputError(f"Calibration needs a confidence for each image, got {len(confidence)} for {len(right)}.")
    if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():
        raise InputError("`confidence` must lie in 0 … 1.")
    return np.minimum(confidence, 1.0), right
