"""Losses of labels, pairs, proportions, class counts and presence against slow loops and in every corner."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from smidgen.maths.likelihoods import (
    class_count_log_probabilities,
    class_count_loss,
    label_loss,
    pair_loss,
    presence_loss,
    proportion_loss,
)


def draw(n_images, n_clusters, *, seed=0, spread=2.0):
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(n_images, n_clusters, generator=generator, dtype=torch.float64)).softmax(1)


def test_label_loss_mixes_in_a_uniform_label():
    loss = label_loss(torch.tensor([[0.7, 0.2, 0.1]]), torch.tensor([1]), epsilon=0.3)
    assert float(loss) == pytest.approx(-math.log(0.7 * 0.2 + 0.1))


def test_pair_loss_of_same_and_different():
    p, q = torch.tensor([[0.7, 0.3]] * 2), torch.tensor([[0.6, 0.4]] * 2)
    loss = pair_loss(p, q, torch.tensor([True, False]), epsilon=0.1)
    assert loss.tolist() == pytest.approx([-math.log(0.9 * 0.54 + 0.05), -math.log(0.9 * 0.46 + 0.05)])


def test_proportion_loss_without_epsilon_is_dllp():
    p, pi = draw(6, 3), torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.2, 0.2]], dtype=torch.float64)
    found = proportion_loss(p, torch.tensor([0, 2, 6]), pi, epsilon=0.0)
    means = torch.stack([p[:2].mean(0), p[2:].mean(0)])
    entropy = (pi * pi.log()).sum(1)
    torch.testing.assert_close(found, entropy - (pi * means.log()).sum(1))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 100), epsilon=st.floats(0.001, 0.5), n_clusters=st.integers(2, 8))
def test_proportion_loss_is_least_where_the_means_are_as_given(seed, epsilon, n_clusters):
    p, offsets = draw(7, n_clusters, seed=seed), torch.tensor([0, 7])
    found = proportion_loss(p, offsets, p.mean(0, keepdim=True), epsilon=epsilon)
    elsewhere = proportion_loss(p, offsets, draw(1, n_clusters, seed=seed + 1), epsilon=epsilon)
    assert float(found) == pytest.approx(0, abs=1e-12)
    assert -1e-12 <= float(elsewhere) <= math.log(n_clusters / epsilon)


def test_class_counts_equal_enumeration():
    p, counts = draw(5, 3), torch.tensor([[2, 0, 3]])
    wanted = torch.zeros(3, dtype=torch.float64)
    for choice in itertools.product(range(3), repeat=5):
        probability = math.prod(float(row[k]) for row, k in zip(p, choice, strict=True))
        wanted += probability * torch.tensor([choice.count(k) == counts[0, k] for k in range(3)])
    found = class_count_log_probabilities(p, torch.tensor([0, 5]), counts).exp()[0]
    torch.testing.assert_close(found, wanted)


def test_class_counts_of_equal_images_are_binomial():
    p = torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(20, 2)
    found = class_count_log_probabilities(p, torch.tensor([0, 20]), torch.tensor([[6, 14]])).exp()
    assert found[0].tolist() == pytest.approx([stats.binom.pmf(6, 20, 0.3)] * 2)


def test_class_counts_of_large_bags_are_close_to_binomial():
    p = torch.tensor([[0.3, 0.7]], dtype=torch.float64).expand(400, 2)
    found = class_count_log_probabilities(p, torch.tensor([0, 400]), torch.tensor([[130, 270]]))
    assert float(found[0, 0]) == pytest.approx(stats.binom.logpmf(130, 400, 0.3), abs=0.02)


def test_class_counts_of_a_bag_do_not_depend_on_the_others():
    p, offsets = torch.full((131 + 128, 2), 0.5), torch.tensor([0, 2, 131, 259])
    counts = torch.tensor([[2, 0], [60, 69], [64, 64]])
    together = class_count_log_probabilities(p, offsets, counts)
    assert together[0].exp().tolist() == pytest.approx([0.25, 0.25])
    assert float(together[2, 0].exp()) == pytest.approx(stats.binom(128, 0.5).pmf(64), rel=1e-9)
    for bag, (start, end) in enumerate(itertools.pairwise(offsets.tolist())):
        alone = class_count_log_probabilities(p[start:end], torch.tensor([0, end - start]), counts[bag : bag + 1])
        assert torch.equal(alone[0], together[bag])


def test_class_count_loss_prefers_decided_images_where_the_means_agree():
    offsets, counts = torch.tensor([0, 2]), torch.tensor([[1, 1]])
    assert class_count_loss(torch.eye(2), offsets, counts) < class_count_loss(torch.full((2, 2), 0.5), offsets, counts)


def test_presence_loss_equals_enumeration_of_stated_classes():
    p, presence = draw(4, 3), torch.tensor([[1, 0, -1]])
    absent = (1 - p).prod(0)
    wanted = -(math.log(0.9 * (1 - absent[0]) + 0.05) + math.log(0.9 * absent[1] + 0.05)) / 2
    assert float(presence_loss(p, torch.tensor([0, 4]), presence, epsilon=0.1)) == pytest.approx(wanted)


def test_absence_from_a_large_bag_still_pulls_at_the_start():
    p = torch.full((1000, 10), 0.1, requires_grad=True)
    presence = torch.full((1, 10), -1)
    presence[0, 3] = 0
    presence_loss(p, torch.tensor([0, 1000]), presence).sum().backward()
    assert float(p.grad[:, 3].sum()) > 0.5


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize(("n_images", "n_clusters"), [(1, 2), (1000, 10), (32, 100)])
@pytest.mark.parametrize("kind", ["one-hot", "zeros", "uniform"])
def test_gradients_are_finite_everywhere(kind, n_images, n_clusters, epsilon):
    p = {
        "one-hot": torch.eye(n_clusters)[torch.zeros(n_images, dtype=torch.int64)],
        "zeros": torch.zeros(n_images, n_clusters),
        "uniform": torch.full((n_images, n_clusters), 1 / n_clusters),
    }[kind].requires_grad_()
    offsets, last = torch.tensor([0, n_images]), torch.eye(n_clusters, dtype=torch.int64)[-1:]  # all in the last class
    losses = [
        label_loss(p, torch.full((n_images,), n_clusters - 1), epsilon=epsilon),
        pair_loss(p, p.flip(0), torch.arange(n_images) % 2 == 0, epsilon=epsilon),
        proportion_loss(p, offsets, last.float(), epsilon=epsilon),
        class_count_loss(p, offsets, last * n_images, epsilon=epsilon),
        presence_loss(p, offsets, last, epsilon=epsilon),
    ]
    for loss in losses:
        (gradient,) = torch.autograd.grad(loss.sum(), p, retain_graph=True)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()
