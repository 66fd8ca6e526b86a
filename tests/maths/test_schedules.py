"""Schedules: shares of the peak rate, worked out by hand."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.schedules import SCHEDULES, cosine, one_cycle, rate, warm_cosine


@pytest.mark.parametrize(
    ("schedule", "progress", "share"),
    [
        (cosine, 0.0, 1.0),
        (cosine, 1 / 3, 0.75),
        (cosine, 0.5, 0.5),
        (cosine, 1.0, 0.0),
        (one_cycle, 0.0, 1 / 25),
        (one_cycle, 0.15, (1 + 1 / 25) / 2),
        (one_cycle, 0.3, 1.0),
        (one_cycle, 0.65, 0.5),
        (one_cycle, 1.0, 0.0),
        (warm_cosine, 0.025, 0.5),
        (warm_cosine, 0.05, 1.0),
        (warm_cosine, 0.525, 0.5),
    ],
)
def test_shares_at_chosen_points(schedule, progress, share):
    assert math.isclose(schedule(progress), share, abs_tol=1e-12)


@given(st.sampled_from(sorted(SCHEDULES)), st.integers(1, 10_000), st.data())
def test_a_rate_is_above_zero_and_at_most_one(name, steps, data):
    step = data.draw(st.integers(0, steps - 1))
    assert 0 < rate(name, step, steps) <= 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_has_no_jumps(name):
    rates = [rate(name, step, 1000) for step in range(1000)]
    assert max(abs(a - b) for a, b in itertools.pairwise(rates)) < 0.021


def test_one_step_is_taken_in_the_middle():
    assert rate("cosine", 0, 1) == pytest.approx(0.5)


def test_an_unknown_schedule_is_named():
    with pytest.raises(InputError, match=r"Unknown schedule 'cosin'\. Did you mean 'cosine'\?"):
        rate("cosin", 0, 1)
