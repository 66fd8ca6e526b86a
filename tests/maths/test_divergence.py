"""Jensen–Shannon divergence: SciPy's, by hand, and with empty groups."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon

from smidgen.errors import InputError
from smidgen.maths.divergence import js_divergences, least_divergence


def draw(groups, features, points, *, seed=0):
    return np.random.default_rng(seed).dirichlet(np.full(points, 0.3), (groups, features))


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 6))
def test_it_is_scipy_s_squared_distance_on_all_features_side_by_side(seed, features):
    densities = draw(3, features, 11, seed=seed)
    flat = densities.reshape(3, -1) / features
    expected = [[jensenshannon(p, q, base=2) ** 2 for q in flat] for p in flat]
    np.testing.assert_allclose(js_divergences(densities), expected, atol=1e-8)


def test_by_hand():
    p, q = np.array([[[0.5, 0.5], [1.0, 0.0]]]), np.array([[[0.5, 0.5], [0.5, 0.5]]])
    quarter = 0.25 * math.log2(0.25 / 0.375)  # of .5 / 2 against the mean with .25
    to_mean = (0.5 * math.log2(0.5 / 0.375) + 0.0, quarter + 0.25 * math.log2(0.25 / 0.125))
    assert js_divergences(np.concatenate([p, q]))[0, 1] == pytest.approx(sum(to_mean) / 2, abs=1e-9)


def test_it_does_not_grow_with_the_number_of_features():
    one = draw(2, 1, 11)
    np.testing.assert_allclose(js_divergences(np.repeat(one, 7, axis=1)), js_divergences(one), atol=1e-9)


def test_an_empty_group_is_left_out():
    densities = draw(3, 2, 5)
    densities[1] = np.nan
    found = js_divergences(densities)
    assert np.isnan(found[1]).all()
    assert least_divergence(found) == found[0, 2] > 0
    assert math.isnan(least_divergence(found[:2, :2]))


def test_other_shapes_are_refused():
    with pytest.raises(InputError, match=r"shape \(groups, features, points\), got \(2, 3\)"):
        js_divergences(np.ones((2, 3)))
