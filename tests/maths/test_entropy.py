import math

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mutual_info_score

from smidgen.maths.entropy import (
    cross_entropy_between,
    entropy,
    entropy_of_mean,
    mean_entropy,
    mutual_information,
    sharpened,
    sharpness_for,
)


def soft(n: int, k: int, seed: int) -> torch.Tensor:
    return (3 * torch.randn(n, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)).softmax(1)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 8), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_entropy_agrees_with_scipy_and_stays_in_its_range(n: int, k: int, seed: int) -> None:
    p = soft(n, k, seed)
    h = entropy(p)
    np.testing.assert_allclose(h, scipy.stats.entropy(p.numpy(), axis=1), atol=1e-12)
    assert ((h >= -1e-12) & (h <= math.log(k) + 1e-12)).all()
    torch.testing.assert_close(entropy(p.T, dim=0), h)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 8), k=st.integers(1, 6), seed=st.integers(0, 99))
def test_mutual_information_is_between_zero_and_ln_clusters(n: int, k: int, seed: int) -> None:
    p = soft(n, k, seed)
    assert -1e-12 <= float(mutual_information(p)) <= math.log(k) + 1e-12
    torch.testing.assert_close(mutual_information(p, balance=5), 5 * entropy_of_mean(p) - mean_entropy(p))


def test_mutual_information_of_hard_rows_is_scikit_learns() -> None:
    clusters = torch.tensor([0, 0, 1, 2, 2, 2])
    p = torch.nn.functional.one_hot(clusters, 4).double()
    assert float(mutual_information(p)) == pytest.approx(mutual_info_score(range(6), clusters.numpy()))


def test_hand_computed() -> None:
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])  # the mean row is (.75, .25)
    assert float(mean_entropy(p)) == pytest.approx(math.log(2) / 2)
    assert float(entropy_of_mean(p)) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_value_and_gradient_are_finite_at_zero(dtype: torch.dtype) -> None:
    p = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]], dtype=dtype, requires_grad=True)
    value = mutual_information(p)
    value.backward()
    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert p.grad is not None
    assert p.grad.isfinite().all()


def test_gradient_is_that_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(mutual_information, soft(3, 4, 0).requires_grad_())
    q = soft(3, 4, 1)
    assert torch.autograd.gradcheck(lambda p: cross_entropy_between(p, q), soft(3, 4, 0).requires_grad_())


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 99))
def test_cross_entropy_is_least_at_the_same_distribution(seed: int) -> None:
    p, q = soft(4, 3, seed), soft(4, 3, seed + 1)
    assert (cross_entropy_between(p, q) >= entropy(p)).all()
    torch.testing.assert_close(cross_entropy_between(p, p), entropy(p))


def test_one_confident_mistake_costs_no_more_than_the_floor_allows() -> None:
    p, q = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    assert float(cross_entropy_between(p, q)) == pytest.approx(-math.log(1e-6))


@pytest.mark.parametrize("confidence", [0.55, 0.7, 0.95])
def test_assignments_are_sharpened_to_the_confidence_that_is_wanted(confidence):
    p = torch.randn(200, 4, generator=torch.Generator().manual_seed(0)).softmax(1)  # .5 sure on average
    found = sharpened(p, sharpness_for(p, confidence))
    assert found.amax(1).mean() == pytest.approx(confidence, abs=1e-3)
    assert (found.argmax(1) == p.argmax(1)).all()
    torch.testing.assert_close(found.sum(1), torch.ones(200))


def test_assignments_that_are_surer_than_wanted_become_less_so():
    p = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    found = sharpened(p, sharpness_for(p, 0.6))
    assert found.amax(1).mean().item() == pytest.approx(0.6, abs=1e-4)
    assert sharpness_for(torch.eye(2), 0.6) < 0.06  # out of reach
