"""Calibration scores against plain loops; audits bound the share that is right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.evaluation.calibration import (
    brier,
    calibration_scores,
    coverage_curve,
    reliability,
    share_interval,
)

PAIRS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


def by_hand(confidence, right, bins):
    total = 0.0
    for b in range(bins):
        inside = [i for i, c in enumerate(confidence) if b / bins <= c < (b + 1) / bins or (b == bins - 1 and c == 1)]
        if inside:
            gap = np.mean([confidence[i] for i in inside]) - np.mean([right[i] for i in inside])
            total += len(inside) / len(confidence) * abs(gap)
    return total


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_calibration_error_is_the_loop_over_bins(pairs):
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    confidence = np.round(confidence, 3)  # so that no value lies on both sides of an edge by rounding
    assert reliability(confidence, right, bins=8).error == pytest.approx(by_hand(confidence, right, 8))


@given(PAIRS)
@settings(max_examples=60, deadline=None)
def test_coverage_ends_at_all_images_and_their_accuracy(pairs):
    confidence, right = np.array([c for c, _ in pairs]), np.array([r for _, r in pairs])
    coverage, accuracy = coverage_curve(confidence, right)
    assert (np.diff(coverage) > 0).all()
    assert coverage[-1] == 1
    assert accuracy[-1] == pytest.approx(right.mean())
    for share, value in zip(coverage, accuracy, strict=True):
        kept = np.argsort(-confidence, kind="stable")[: round(share * len(right))]
        assert value == pytest.approx(right[kept].mean())


def test_honest_confidence_has_no_error_and_too_much_of_it_some():
    generator = np.random.default_rng(0)
    honest = generator.uniform(0.3, 1, 40_000)
    right = generator.uniform(size=40_000) < honest
    assert reliability(honest, right).error < 0.01
    assert reliability(np.minimum(honest + 0.2, 1), right).error > 0.15
    assert brier(honest, right) < brier(np.ones(40_000), right)


def test_images_without_confidence_are_left_out():
    assert calibration_scores(np.array([np.nan, 1.0]), np.array([False, True])) == {
        "calibration_error": 0.0,
        "brier": 0.0,
    }
    assert calibration_scores(np.array([np.nan]), np.array([False])) == {}


@pytest.mark.parametrize(("confidence", "right"), [([], []), ([1.2], [True]), ([0.5], [True, False])])
def test_what_is_no_confidence_is_refused(confidence, right):
    with pytest.raises(InputError):
        reliability(np.array(confidence), np.array(right))


def test_an_exact_interval_holds_the_true_share_at_least_as_often_as_it_says():
    generator = np.random.default_rng(0)
    for share in (0.5, 0.9, 0.99):
        draws = generator.binomial(30, share, 2000)
        bounds = {n: share_interval(n, 30) for n in set(draws.tolist())}
        assert np.mean([bounds[n][0] <= share <= bounds[n][1] for n in draws.tolist()]) >= 0.95
    with pytest.raises(InputError):
        share_interval(0, 0)
