"""Jensen–Shannon divergence between groups of images that are described by a density per feature, as UCC reports it."""

from __future__ import annotations

import numpy as np

from smidgen.errors import InputError

FLOOR = 1e-12  # as in UCC's code


def js_divergences(densities: np.ndarray) -> np.ndarray:
    """Return the Jensen–Shannon divergences (groups, groups) in bits, symmetric, 0 on the diagonal, in [0, 1].

    densities: (groups, features, points), sums over points one. As in UCC (docs/methods.md §1): the numbers of all
    features side by side divided by the number of features, so that a group is one distribution, clipped at 1e-12;
    logarithm to base 2. Rows and columns of a group with NaN (an empty one) are NaN. InputError for another shape.

    >>> pure = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[0.5, 0.5]]])
    >>> js_divergences(pure).round(3).tolist()
    [[0.0, 1.0, 0.311], [1.0, 0.0, 0.311], [0.311, 0.311, 0.0]]
    """
    densities = np.asarray(densities, dtype=np.float64)
    if densities.ndim != 3:
        raise InputError(f"Densities must be of shape (groups, features, points), got {densities.shape}.")
    n_groups, n_features, _ = densities.shape
    p = np.clip(densities.reshape(n_groups, -1) / n_features, FLOOR, None)
    mean = (p[:, None] + p[None]) / 2
    to_mean = (p[:, None] * np.log2(p[:, None] / mean)).sum(2)  # KL(group ‖ mean with the other)
    return (to_mean + to_mean.T) / 2


def least_divergence(divergences: np.ndarray) -> float:
    """Return the smallest divergence between two different groups, NaN where there are fewer than two.

    divergences: (groups, groups) of `js_divergences`; pairs with an empty group are left out.

    >>> least_divergence(np.array([[0.0, 0.3], [0.3, 0.0]]))
    0.3
    """
    pairs = divergences[np.triu_indices(len(divergences), 1)]
    pairs = pairs[~np.isnan(pairs)]
    return float(pairs.min()) if len(pairs) else float("nan")
