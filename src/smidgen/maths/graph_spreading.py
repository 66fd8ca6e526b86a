"""Points moved towards their neighbours: some steps of a lazy random walk on the neighbour graph."""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.errors import InputError

_ROWS = 4096  # whose neighbours are gathered at once


def spread(points: Tensor, neighbours: Tensor, *, rounds: int) -> tuple[Tensor, Tensor]:
    """Return the points after `rounds` steps, and what neighbours pass on to new points, both (n, features).

    points: z_0, (n, features). neighbours: (n, k) int64, the rows that each point is moved towards.

    z_{t+1} = (z_t + mean of z_t over the neighbours) / 2. A new point with neighbours among these ends where
    z_0 / 2^rounds + mean of m over its neighbours is, with m = Σ_t z_t / 2^(rounds − t) the second result.
    Raises InputError for rounds below 0.

    >>> moved, passed = spread(torch.tensor([[0.0], [4.0]]), torch.tensor([[1], [0]]), rounds=1)
    >>> moved.flatten().tolist(), passed.flatten().tolist()
    ([2.0, 2.0], [0.0, 2.0])
    """
    if rounds < 0:
        raise InputError(f"`rounds` must be 0 or above, got {rounds}.")
    moved, passed = points, torch.zeros_like(points)
    for step in range(rounds):
        passed = passed + moved / 2 ** (rounds - step)
        moved = (moved + neighbour_mean(moved, neighbours)) / 2
    return moved, passed


def neighbour_mean(values: Tensor, neighbours: Tensor) -> Tensor:
    """Return the mean of values (points, features) over the neighbours (n, k) of each row, (n, features)."""
    return torch.cat([values[some].mean(1) for some in neighbours.split(_ROWS)])
