"""Outliers: images much farther from their nearest neighbours than these are from theirs."""

from __future__ import annotations

import numpy as np
import torch

from smidgen.inspection.issues import Issue
from smidgen.maths.neighbours import nearest_neighbours

UNUSUAL = 3.5
"""Robust standard deviations beyond which a value is an outlier (Iglewicz & Hoaglin, 1993)."""

SPARSE = 1.5
"""How many times as far an outlier's neighbours are as is usual around it."""

_NEIGHBOURS, _LEAST_NEIGHBOURS, _OTHERS = 10, 5, 10_000  # neighbours an outlier is judged by, among so many images


def robust_deviations(values: np.ndarray, *, least: float = 1e-9) -> np.ndarray:
    """Return (x − median) / (1.4826 · median of |x − median|), which for normal values are standard deviations.

    least: the smallest deviation divided by, for values most of which are the same.

    >>> robust_deviations(np.array([1.0, 2.0, 3.0, 100.0])).round(1).tolist()
    [-1.0, -0.3, 0.3, 65.8]
    """
    centred = values - np.median(values)
    return centred / max(1.4826 * float(np.median(np.abs(centred))), least)


def find_outliers(points: np.ndarray) -> list[Issue]:
    """Return the images that lie farther from their neighbours than these from theirs, the most so first."""
    if len(points) < 2 * _NEIGHBOURS:
        return []
    factors, distances = local_outlier_factors(points)
    unusual = robust_deviations(np.log(factors), least=0.05) > UNUSUAL
    chosen = unusual & (factors > SPARSE) & (distances > np.median(distances))
    return [Issue(int(row), "outlier", float(factors[row])) for row in worst_first(-factors, chosen)]


def local_outlier_factors(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each row lies from its neighbours, by what is usual around it, and how far the last of them is.

    points: (n, features), 20 rows or more; both results (n,). The first is about 1 for most: the mean reachability
    distance (LOF) by the upper quartile of those of the rows that are its neighbours or have it as theirs. Without
    these last, which are those of Jin et al. (INFLO, PAKDD 2006), and with a mean, a photograph whose nearest
    neighbours are a burst would be an outlier.
    """
    n = len(points)
    n_neighbours = min(_NEIGHBOURS, max(_LEAST_NEIGHBOURS, n // _NEIGHBOURS))
    drawn = np.arange(n) if n <= _OTHERS else np.sort(np.random.default_rng(0).permutation(n)[:_OTHERS])
    neighbours, distances = _neighbours(np.require(points, np.float32, ["C", "W"]), drawn, n_neighbours)
    last = distances[:, -1].astype(np.float64)
    reach = np.maximum(distances, last[neighbours]).mean(axis=1)
    reach += max(1e-6 * np.median(last), 1e-12 * last.max(), np.finfo(np.float64).tiny)  # where so many are the same
    links = np.stack([np.repeat(np.arange(n), n_neighbours), neighbours.ravel()], axis=1)
    links = np.unique(np.concatenate([links, links[:, ::-1]]), axis=0)  # both ways
    around = reach[links[:, 1]]
    starts = np.searchsorted(links[:, 0], np.arange(n + 1))
    quartile = starts[:-1] + np.ceil(0.75 * (np.diff(starts) - 1)).astype(np.int64)
    return reach / around[np.lexsort([around, links[:, 0]])[quartile]], last


def _neighbours(points: np.ndarray, drawn: np.ndarray, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest of the drawn rows to every row, as rows (n, n_neighbours), and how far they are."""
    x = torch.from_numpy(points)
    if len(drawn) == len(points):
        indices, distances = nearest_neighbours(x, n_neighbours)
        return indices.numpy(), distances.numpy()
    others = torch.from_numpy(drawn)
    found, far = (part.numpy() for part in nearest_neighbours(x[others], n_neighbours + 1, queries=x))
    found = drawn[found]
    itself = found == np.arange(len(points))[:, None]
    itself[:, -1] |= ~itself.any(axis=1)  # not drawn, or behind copies of itself: the last one is too many
    return found[~itself].reshape(len(points), -1), far[~itself].reshape(len(points), -1)


def worst_first(order: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen rows by rising `order`, then by row."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(order[rows], kind="stable")]
