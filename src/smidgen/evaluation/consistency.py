"""A score without labels: how far images that lie close together are in the same cluster."""

from __future__ import annotations

import numpy as np
import torch

from smidgen.errors import InputError
from smidgen.maths.neighbours import nearest_neighbours


def neighbour_consistency(embeddings: np.ndarray, labels: np.ndarray, *, n_neighbours: int = 10) -> float:
    """Return how much oftener than by chance nearest neighbours share a cluster: 1 always, 0 as by chance, or less.

    (agreement − chance) / (1 − chance), where chance is the probability that two different images of these cluster
    sizes share one, so that a single large cluster gains nothing; 0 where there is one cluster only.

    embeddings: (n, features), n ≥ 2, finite; distances are Euclidean. labels: (n,) integers ≥ 0. n_neighbours: n − 1
        where that is less. Raises InputError for fewer than two images.

    >>> x = np.array([[0.0], [0.1], [5.0], [5.1]])
    >>> neighbour_consistency(x, np.array([0, 0, 1, 1]), n_neighbours=1)
    1.0
    >>> neighbour_consistency(x, np.array([0, 0, 0, 0]), n_neighbours=1)
    0.0
    """
    n = len(labels)
    if n < 2:
        raise InputError(f"Neighbours need two images or more, got {n}.")
    sizes = np.bincount(labels).astype(np.float64)
    chance = float((sizes * (sizes - 1)).sum()) / (n * (n - 1))
    if chance == 1:
        return 0.0
    points = torch.from_numpy(np.ascontiguousarray(embeddings))
    near = nearest_neighbours(points, min(n_neighbours, n - 1))[0].cpu().numpy()
    agreement = float((labels[near] == labels[:, None]).mean())
    return (agreement - chance) / (1 - chance)
