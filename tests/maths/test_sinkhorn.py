import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.sinkhorn import sinkhorn


@given(st.integers(1, 40), st.integers(1, 8), st.floats(0, 100), st.integers(0, 99))
def test_rows_sum_to_one_and_everything_is_finite(n, clusters, scale, seed):
    scores = torch.randn(n, clusters, generator=torch.Generator().manual_seed(seed)) * scale
    result = sinkhorn(scores)
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result.sum(1), torch.ones(n))


@given(st.integers(0, 99))
def test_columns_reach_the_prior(seed):
    generator = torch.Generator().manual_seed(seed)
    scores, prior = torch.randn(50, 4, generator=generator), torch.tensor([0.1, 0.2, 0.3, 0.4])
    torch.testing.assert_close(sinkhorn(scores, iterations=200, prior=prior).sum(0), 50 * prior, rtol=1e-3, atol=1e-3)


def test_it_is_the_scaling_of_the_exponentials():
    scores = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = np.exp(scores.numpy())
    for _ in range(3):
        slow *= (6 / 3) / slow.sum(0, keepdims=True)
        slow /= slow.sum(1, keepdims=True)
    np.testing.assert_allclose(sinkhorn(scores, iterations=3).numpy(), slow, rtol=1e-12)


@pytest.mark.parametrize("exponent", [0.9, 0.3])
def test_with_an_exponent_columns_are_scaled_by_that_power(exponent):
    scores, prior = (
        torch.randn(30, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
        [0.1, 0.2, 0.3, 0.4],
    )
    q = np.exp(2 * scores.numpy())
    b = np.ones(4)
    for _ in range(3):
        a = (1 / 30) / (q @ b)
        b = (np.array(prior) / (q.T @ a)) ** exponent
    slow = q * b / (q @ b)[:, None]
    found = sinkhorn(2 * scores, iterations=3, prior=torch.tensor(prior), exponent=exponent)
    np.testing.assert_allclose(found.numpy(), slow, rtol=1e-6)


def test_sizes_are_between_those_of_the_scores_and_those_of_the_prior():
    scores = torch.randn(500, 3, generator=torch.Generator().manual_seed(2)) + torch.tensor([1.0, 0.0, -1.0])
    smallest = [float(sinkhorn(scores, iterations=50, exponent=f).mean(0)[2]) for f in (0.0, 0.3, 0.7, 1.0)]
    assert smallest == sorted(smallest)
    assert smallest[0] == pytest.approx(float(scores.softmax(1).mean(0)[2]))
    assert smallest[-1] == pytest.approx(1 / 3, abs=1e-4)


def test_several_heads_are_independent_problems():
    scores = torch.randn(3, 20, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sinkhorn(scores)[1], sinkhorn(scores[1]))


def test_scores_that_overflow_in_half_precision_are_fine():
    scores = torch.tensor([[1.0, 0.0], [0.9, 0.1]], dtype=torch.bfloat16) / 0.01
    assert torch.isfinite(sinkhorn(scores)).all()


def test_no_iterations_are_refused():
    with pytest.raises(InputError, match="iterations"):
        sinkhorn(torch.zeros(2, 2), iterations=0)


@pytest.mark.parametrize("exponent", [-0.1, 1.1, float("nan")])
def test_an_exponent_out_of_range_is_refused(exponent):
    with pytest.raises(InputError, match="`exponent` must be from 0 to 1"):
        sinkhorn(torch.zeros(2, 2), exponent=exponent)
