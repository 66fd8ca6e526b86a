"""Spreading over a neighbour graph against its matrix, and new points against old ones."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.graph_spreading import neighbour_mean, spread


def graph(seed, *, n=12, k=3, features=4):
    generator = torch.Generator().manual_seed(seed)
    neighbours = torch.stack([torch.randperm(n - 1, generator=generator)[:k] for _ in range(n)])
    neighbours = neighbours + (neighbours >= torch.arange(n)[:, None])  # never itself
    return torch.randn(n, features, generator=generator, dtype=torch.float64), neighbours


@given(st.integers(0, 1000), st.integers(0, 9))
def test_it_is_a_power_of_the_lazy_walk(seed, rounds):
    points, neighbours = graph(seed)
    walk = torch.eye(12, dtype=torch.float64) / 2
    walk.scatter_add_(1, neighbours, torch.full(neighbours.shape, 1 / 6, dtype=torch.float64))
    moved, _ = spread(points, neighbours, rounds=rounds)
    torch.testing.assert_close(moved, torch.linalg.matrix_power(walk, rounds) @ points)


@given(st.integers(0, 1000), st.integers(0, 9))
def test_a_new_point_like_an_old_one_ends_where_that_does(seed, rounds):
    points, neighbours = graph(seed)
    moved, passed = spread(points, neighbours, rounds=rounds)
    torch.testing.assert_close(points / 2**rounds + neighbour_mean(passed, neighbours), moved)


def test_rounds_below_zero_are_refused():
    with pytest.raises(InputError, match="`rounds` must be 0 or above, got -1"):
        spread(*graph(0), rounds=-1)
