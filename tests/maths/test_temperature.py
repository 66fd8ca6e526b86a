"""Temperatures: what they leave alone, and how few and many labels move them."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.maths.temperature import fitted_temperature, temperature_for, tempered


def draw(n, clusters, *, seed=0, scale=2.0):
    return torch.randn(n, clusters, generator=torch.Generator().manual_seed(seed)).mul(scale).softmax(1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 999), clusters=st.integers(2, 9), temperature=st.floats(0.05, 20))
def test_the_leading_cluster_stays_and_rows_sum_to_one(seed, clusters, temperature):
    p = draw(20, clusters, seed=seed)
    found = tempered(p, temperature)
    assert found.argmax(1).tolist() == p.argmax(1).tolist()
    torch.testing.assert_close(found.sum(1), torch.ones(20))


def test_it_is_the_softmax_of_logits_divided_by_the_temperature():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 2.5]])
    torch.testing.assert_close(tempered(logits.softmax(1), 2.5), (logits / 2.5).softmax(1))
    assert tempered(logits, 1.0) is logits


@pytest.mark.parametrize("confidence", [0.5, 0.7, 0.9])
def test_mean_confidence_becomes_what_was_measured(confidence):
    p = draw(500, 4)
    assert float(tempered(p, temperature_for(p, confidence)).amax(1).mean()) == pytest.approx(confidence, abs=1e-3)


def labelled(n, *, too_sure):
    """Return assignments (n, 3) of `too_sure` times the logits that the labels are drawn by, and the labels."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, 3, generator=generator)
    return (too_sure * logits).softmax(1), torch.multinomial(logits.softmax(1), 1, generator=generator).flatten()


@pytest.mark.parametrize("too_sure", [0.5, 1.0, 4.0])
def test_many_labels_find_the_temperature_wherever_it_starts(too_sure):
    p, labels = labelled(4000, too_sure=too_sure)
    for start in (0.5, 2.0):
        assert fitted_temperature(p, labels, start=start) == pytest.approx(too_sure, rel=0.1)


def test_few_labels_move_it_a_little():
    p, labels = labelled(6, too_sure=4.0)
    assert 1 < fitted_temperature(p, labels, start=1.0) < 3
    assert fitted_temperature(p[:0], labels[:0], start=1.7) == 1.7


def test_it_minimises_what_the_docstring_says():
    p, labels = labelled(40, too_sure=2.0)

    def cost(t):
        given = tempered(p, t).gather(1, labels[:, None]).log().sum()
        return float(-given + (math.log(t) - math.log(1.5)) ** 2 / (2 * 0.3**2))

    found = fitted_temperature(p, labels, start=1.5)
    assert cost(found) <= min(cost(found * 1.02), cost(found / 1.02))
