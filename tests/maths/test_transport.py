import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.transport import balanced_labels, logits_of, rows_of, scale_columns


def draw(n, clusters, *, seed=0, scale=1.0):
    return scale * torch.randn(n, clusters, generator=torch.Generator().manual_seed(seed))


def uniform(clusters):
    return torch.full((clusters,), 1 / clusters)


def plan(scores, log_scale, weights=None):
    """The plan by the definition, in float64."""
    rows = (scores.double() + log_scale.double()).softmax(1)
    return rows / len(rows) if weights is None else rows * weights[:, None]


def published(log_p, iterations):
    """SeLa's update as printed in the paper: r, c in float64 on P^λ of shape (clusters, n), rows scaled first."""
    p = np.exp(log_p.double().numpy()).T
    c = (1 / p.shape[1]) / p.sum(0)
    for _ in range(iterations):
        r = (1 / p.shape[0]) / (p @ c)
        c = (1 / p.shape[1]) / (r @ p)
    return r, c, (r[:, None] * p).argmax(0)


KEEPS = (None, torch.float32, torch.bfloat16)


@pytest.mark.parametrize("keep", KEEPS)
@given(n=st.integers(1, 60), clusters=st.integers(1, 8), scale=st.floats(0, 30), seed=st.integers(0, 99))
def test_columns_reach_any_marginals(keep, n, clusters, scale, seed):
    scores = draw(n, clusters, seed=seed, scale=scale)
    marginals = torch.rand(clusters, generator=torch.Generator().manual_seed(seed)) + 0.1
    marginals /= marginals.sum()
    found = scale_columns(rows_of(scores, rows=7), marginals=marginals, tolerance=1e-3, keep=keep)
    assert torch.isfinite(found.log_scale).all()
    if found.iterations < 1000:  # sharp scores of few rows take more: the plan is then nearly a permutation
        off = (plan(scores, found.log_scale).sum(0) / marginals - 1).abs().mean()
        assert off < 2e-3


def test_it_is_the_published_update_at_equal_iterations():
    log_p = 5 * draw(300, 6).log_softmax(1)
    r, _, labels = published(log_p, 12)
    found = scale_columns(rows_of(log_p), marginals=uniform(6), tolerance=0, max_iterations=12)
    np.testing.assert_allclose(found.log_scale.numpy(), np.log(r) - np.log(r).mean(), atol=1e-4)
    assert (balanced_labels(rows_of(log_p), found.log_scale).numpy() == labels).all()


@pytest.mark.parametrize("keep", KEEPS)
def test_with_an_exponent_columns_are_scaled_by_that_power(keep):
    scores, marginals, r = 3 * draw(200, 5), torch.tensor([0.1, 0.1, 0.2, 0.2, 0.4]), np.ones(5)
    q = np.exp(scores.double().numpy())
    for _ in range(200):
        r = (marginals.numpy() / (q.T @ ((1 / 200) / (q @ r)))) ** 0.3
    found = scale_columns(rows_of(scores), marginals=marginals, tolerance=1e-4, exponent=0.3, keep=keep)
    assert found.error < 1e-4
    assert found.iterations < 50
    np.testing.assert_allclose(found.log_scale.numpy(), np.log(r) - np.log(r).mean(), atol=2e-3)


def test_rows_have_their_weights():
    scores, weights = draw(40, 3), torch.arange(40.0) / 780
    found = scale_columns(rows_of(scores, rows=11), marginals=uniform(3), weights=weights, tolerance=1e-5)
    torch.testing.assert_close(plan(scores, found.log_scale, weights).sum(0), uniform(3).double(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("keep", KEEPS)
def test_a_dead_cluster_comes_to_life(keep):
    """P = 1e-3 to the 25th underflows: the published code divides by zero there."""
    p = torch.full((200, 4), 1e-3)
    p[torch.arange(200), torch.arange(200) % 3] = 1.0
    p[:, 3] *= 1 + torch.rand(200, generator=torch.Generator().manual_seed(0)) / 10
    scores = 25 * p.log()
    found = scale_columns(rows_of(scores), marginals=uniform(4), tolerance=0.02, max_iterations=5000, keep=keep)
    torch.testing.assert_close(plan(scores, found.log_scale).sum(0), uniform(4).double(), atol=0.01, rtol=0)


@pytest.mark.parametrize("keep", KEEPS)
def test_a_constant_of_a_row_changes_nothing_and_labels_are_the_published_ones(keep):
    """So logits do for SeLa's λ log softmax; a rounded kernel moves few labels."""
    logits = 20 * draw(3000, 40)
    _, _, labels = published(logits.log_softmax(1), 15)
    blocks = rows_of(logits, rows=500)
    found = scale_columns(blocks, marginals=uniform(40), tolerance=0, max_iterations=15, keep=keep)
    assert (balanced_labels(blocks, found.log_scale).numpy() == labels).mean() >= 0.999


def test_a_matrix_given_by_blocks_is_left_as_it_was():
    scores = draw(30, 4)
    before = scores.clone()
    scale_columns(rows_of(scores, rows=8), marginals=uniform(4), keep=torch.float32)
    assert torch.equal(scores, before)


def test_going_on_from_earlier_scalings_takes_fewer_iterations():
    blocks = rows_of(10 * draw(500, 8).log_softmax(1))
    first = scale_columns(blocks, marginals=uniform(8), tolerance=1e-4)
    again = scale_columns(blocks, marginals=uniform(8), tolerance=1e-4, start=first.log_scale)
    assert again.iterations < first.iterations / 3


def test_scores_computed_by_blocks_are_those_of_the_whole_matrix():
    embeddings, prototypes, bias = draw(50, 4), draw(3, 4, seed=1), draw(1, 3, seed=2)[0]
    scores = 7 * (embeddings @ prototypes.T + bias)
    blocks = logits_of(embeddings, prototypes, bias=bias, strength=7, rows=9)
    torch.testing.assert_close(torch.cat(list(blocks())), scores)


@pytest.mark.parametrize(
    "wrong", [{"max_iterations": 0}, {"keep": torch.float16}, {"marginals": torch.tensor([1.0, 0.0])}]
)
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        scale_columns(rows_of(draw(5, 2)), **{"marginals": uniform(2)} | wrong)
