"""Assignments that have collapsed: all the same, all in one cluster, one cluster too large, some empty."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from smidgen.training.monitors.hints import hint

EVEN = 0.98
"""Normalised entropy above which assignments count as uniform."""

COLLAPSES = ("even", "one", "large", "small", "empty")
"""The kinds of `collapse_alarms`."""


def collapse_alarms(
    assignments: np.ndarray, *, options: Collection[str] | None = None, early: bool = False
) -> dict[str, str]:
    """Return what is wrong with assignments, kind → sentence with hints; empty if nothing is.

    assignments: (n, clusters), rows sum to one. options: names of the method's options, so that only these are
    advised; None for any. early: too little training for even assignments to mean anything.
    Kinds: "even", every image equally likely everywhere; "one" cluster holds all; a "large" one holds more than half;
    a "small" one less than an eighth of the mean; some are "empty".

    >>> collapse_alarms(np.eye(3)[[0, 1, 2, 0]])
    {}
    >>> collapse_alarms(np.full((4, 2), 0.5))["even"]
    'Every image is equally likely in every cluster, nothing has been learned yet: train longer, raise ...'
    """
    n, n_clusters = assignments.shape
    sizes = np.bincount(assignments.argmax(1), minlength=n_clusters)
    is_even = evenness(assignments) > EVEN
    if is_even and not early:
        learns = options is None or "steps" in options
        why = "nothing has been learned yet" if learns else "nothing tells them apart"
        about = f"Every image is equally likely in every cluster, {why}"
        return {"even": f"{about}: {hint('even', options)}."}
    if n_clusters > 1 and sizes.max() == n:
        return {"one": f"All images are in one cluster: {hint('one', options)}."}
    alarms = {}
    if n_clusters > 2 and sizes.max() > n / 2 and not is_even:
        share = f"Cluster {sizes.argmax()} holds {sizes.max() / n:.0%} of the images"
        alarms["large"] = f"{share}: {hint('large', options)}."
    if n >= 20 * n_clusters and 0 < sizes.min() < n / n_clusters / 8 and not is_even:
        about = f"Cluster {sizes.argmin()} holds {sizes.min()} of {n:,} images"
        alarms["small"] = f"{about}: {hint('small', options)}."
    if n >= 20 * n_clusters and sizes.min() == 0 and not is_even:
        empty = np.flatnonzero(sizes == 0)
        which = f"{len(empty)} of {n_clusters} clusters are empty ({', '.join(map(str, empty[:5]))})"
        alarms["empty"] = f"{which}: {hint('empty', options)}."
    return alarms


def evenness(assignments: np.ndarray) -> float:
    """Return the normalised mean entropy of the rows, 0 … 1; 0 for a single cluster."""
    if assignments.shape[1] == 1:
        return 0.0
    rows = -(assignments * np.log(np.maximum(assignments, 1e-12))).sum(1).mean()
    return float(rows / math.log(assignments.shape[1]))
