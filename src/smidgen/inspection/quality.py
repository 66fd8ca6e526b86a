"""Images of unusual size, and images too blurred, dark, bright or uniform to be recognised."""

from __future__ import annotations

import numpy as np

from smidgen.inspection.appearance import Appearance
from smidgen.inspection.issues import Issue
from smidgen.inspection.outliers import UNUSUAL, robust_deviations, worst_first

DARK, BRIGHT, FLAT, BLURRED = 0.2, 0.8, 0.1, 0.5
"""Brightness that 99 % of a dark image's pixels stay below, and 99 % of a bright one's above; the range that 98 % of
a flat one's lie in; the sharpness that a blurred one stays below."""


def find_odd_sizes(sizes: np.ndarray) -> list[Issue]:
    """Return the images whose files have an unusual width and height (n, 2), 0 where unknown; the oddest first."""
    known = np.flatnonzero((sizes > 0).all(axis=1))
    if not len(known):
        return []
    logs = np.log(sizes[known].astype(np.float64))
    measures = logs.mean(axis=1), np.abs(logs[:, 0] - logs[:, 1])  # of the area's root, of long by short side
    factors = np.exp(np.max([np.abs(m - np.median(m)) for m in measures], axis=0))
    return [Issue(int(known[row]), "odd_size", float(factors[row])) for row in worst_first(-factors, factors > 2)]


def find_poor(seen: Appearance) -> list[Issue]:
    """Return the images of which little can be seen."""
    logs = np.log(np.where(np.isfinite(seen.sharpness), np.maximum(seen.sharpness, 1e-6), 20))
    unsharp = (robust_deviations(logs, least=0.1) < -UNUSUAL) & (seen.sharpness < BLURRED)
    span = seen.high - seen.low
    found = {
        "blurred": (seen.sharpness, seen.sharpness, unsharp),
        "dark": (seen.high, seen.high, seen.high < DARK),
        "bright": (seen.low, -seen.low, seen.low > BRIGHT),
        "low_contrast": (span, span, span < FLAT),
    }
    return [
        Issue(int(row), kind, float(score[row]))
        for kind, (score, order, holds) in found.items()
        if 2 * holds.sum() <= len(holds)
        for row in worst_first(order, holds)
    ]
