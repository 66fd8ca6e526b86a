"""Neighbour consistency: against a slow loop, and where it must be 1 and 0."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import NearestNeighbors

from smidgen.errors import InputError
from smidgen.evaluation.consistency import neighbour_consistency


def by_hand(x, labels, k):
    """Pairs counted one by one."""
    n = len(x)
    near = NearestNeighbors(n_neighbors=k + 1).fit(x).kneighbors(x, return_distance=False)
    agree = np.mean([labels[i] == labels[j] for i in range(n) for j in [j for j in near[i] if j != i][:k]])
    chance = np.mean([labels[i] == labels[j] for i in range(n) for j in range(n) if i != j])
    return (agree - chance) / (1 - chance)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 6))
def test_it_is_the_share_of_neighbours_corrected_for_chance(seed, k):
    random = np.random.default_rng(seed)
    x, labels = random.normal(size=(30, 3)), random.integers(0, 3, 30)
    assert neighbour_consistency(x, labels, n_neighbours=k) == pytest.approx(by_hand(x, labels, k))


def test_clusters_apart_score_one_and_random_ones_nothing():
    random = np.random.default_rng(0)
    x = random.normal(size=(300, 2)) + np.repeat([[0, 0], [50, 0], [0, 50]], 100, axis=0)
    assert neighbour_consistency(x, np.repeat([0, 1, 2], 100)) == 1
    assert abs(neighbour_consistency(x, random.integers(0, 3, 300))) < 0.05


def test_a_large_cluster_gains_nothing_by_its_size():
    random = np.random.default_rng(1)
    x, labels = random.normal(size=(2000, 2)), (random.random(2000) < 0.05).astype(int)
    assert abs(neighbour_consistency(x, labels)) < 0.05  # nine in ten pairs agree all the same
    assert neighbour_consistency(x, np.zeros(2000, dtype=int)) == 0


def test_fewer_images_than_neighbours_are_enough_but_one_is_not():
    assert neighbour_consistency(np.eye(3), np.array([0, 0, 1])) == pytest.approx(0)
    with pytest.raises(InputError, match="two images or more, got 1"):
        neighbour_consistency(np.eye(1), np.array([0]))
