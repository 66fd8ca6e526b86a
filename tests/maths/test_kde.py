"""Densities of bags in log space: the paper's equation, no NaN, and gradients that reach every bag."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.kde import (
    annealed_bandwidth,
    bag_log_softmax,
    density_points,
    feature_densities,
    log_densities,
)

POINTS = density_points(11)


def draw(n, j, *, seed=0):
    return torch.rand(n, j, generator=torch.Generator().manual_seed(seed))


def naive(features, offsets, points, sigma, weights=None):
    """The equation as the paper has it, one number at a time."""
    result = []
    for a, b in itertools.pairwise(offsets.tolist()):
        rows = []
        for j in range(features.shape[1]):
            weighed = [(1 if weights is None else float(weights[i]), float(features[i, j])) for i in range(a, b)]
            sums = [sum(w * math.exp(-((float(x) - f) ** 2) / (2 * sigma**2)) for w, f in weighed) for x in points]
            rows.append([s / sum(sums) for s in sums])
        result.append(rows)
    return torch.tensor(result)


def test_densities_are_the_equation():
    features, offsets = draw(9, 3), torch.tensor([0, 2, 3, 9])
    found = log_densities(features, offsets, POINTS, bandwidth=0.1).exp()
    torch.testing.assert_close(found, naive(features, offsets, POINTS, 0.1), rtol=1e-4, atol=1e-6)


def test_bags_of_equal_and_of_different_sizes_take_different_ways_to_the_same_numbers():
    features = draw(8, 2)
    equal = log_densities(features, torch.tensor([0, 4, 8]), POINTS, bandwidth=0.1)
    padded = log_densities(torch.cat([features, features[:1]]), torch.tensor([0, 4, 8, 9]), POINTS, bandwidth=0.1)
    torch.testing.assert_close(padded[:2], equal)
    large = draw(60, 2, seed=1).requires_grad_()
    offsets = torch.tensor([0, *range(4, 9), 60])
    summed = log_densities(torch.cat([features, large[8:]]), offsets, POINTS, bandwidth=0.1)
    torch.testing.assert_close(summed[0], equal[0])
    alone = log_densities(large[8:], torch.tensor([0, 52]), POINTS, bandwidth=0.1)[0]
    torch.testing.assert_close(summed[-1], alone)
    both = [torch.autograd.grad(found[..., 3].sum(), large, retain_graph=True)[0] for found in (summed[-1], alone)]
    torch.testing.assert_close(*both)


def test_weights_are_shares_of_the_kernels():
    features, offsets = draw(5, 2), torch.tensor([0, 3, 5])
    log_weights = bag_log_softmax(torch.tensor([0.0, 1.0, 3.0, -2.0, 2.0]), offsets)
    found = log_densities(features, offsets, POINTS, bandwidth=0.1, log_weights=log_weights).exp()
    expected = naive(features, offsets, POINTS, 0.1, log_weights.exp())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(log_weights.exp()[:3].sum(), torch.tensor(1.0))


def test_half_precision_is_worked_on_in_single():
    features = draw(4, 2).to(torch.bfloat16)
    assert log_densities(features, torch.tensor([0, 4]), POINTS, bandwidth=0.1).dtype == torch.float32


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.005, 1), st.floats(0.1, 100))
def test_rows_sum_to_one_wherever_the_features_are(seed, bandwidth, spread):
    generator = torch.Generator().manual_seed(seed)
    features = spread * torch.randn(7, 3, generator=generator)
    law = log_densities(features, torch.tensor([0, 1, 7]), POINTS, bandwidth=bandwidth).exp()
    torch.testing.assert_close(law.sum(2), torch.ones(2, 3))


def test_no_nan_in_ten_thousand_random_bags():
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 25, (10_000,), generator=generator)
    offsets = torch.nn.functional.pad(sizes.cumsum(0), (1, 0))
    scale = torch.tensor([0.0, 1.0, 1.0, 30.0, 1e4])[torch.randint(5, (int(sizes.sum()), 1), generator=generator)]
    features = (scale * torch.randn(len(scale), 2, generator=generator)).requires_grad_()
    for bandwidth in (0.1, 0.0167):
        logs = log_densities(features, offsets, POINTS, bandwidth=bandwidth)
        (gradient,) = torch.autograd.grad((logs.exp() * logs.exp().roll(1, 2)).sum(), features)
        assert bool(logs.isfinite().all())
        assert bool(gradient.isfinite().all())


def gradient_at(value, j, *, log_output, points=POINTS, bandwidth=0.1):
    """Length of the gradient of a fixed linear layer at a bag of 32 whose features are all about `value`."""
    generator = torch.Generator().manual_seed(j)
    layer = torch.randn(j * len(points), generator=generator) / math.sqrt(j * len(points))
    features = value + 0.01 * torch.randn(32, j, generator=generator)
    features.requires_grad_()
    logs = log_densities(features, torch.tensor([0, 32]), points, bandwidth=bandwidth)
    described = (logs if log_output else logs.exp()).flatten(1)
    (described @ layer).sum().backward()
    return float(features.grad.norm())


@pytest.mark.parametrize("j", [10, 64, 256])
@pytest.mark.parametrize("log_output", [False, True])
def test_a_bag_anywhere_in_the_range_has_a_gradient(j, log_output):
    reference = gradient_at(0.4, j, log_output=log_output)
    least = min(gradient_at(value, j, log_output=log_output) for value in torch.linspace(0, 1, 21).tolist())
    assert least >= 1e-3 * reference > 0


def test_the_authors_narrow_kernels_have_gradients_too():
    narrow = {"points": density_points(21), "bandwidth": 0.0167, "log_output": False}
    reference = gradient_at(0.4, 32, **narrow)
    assert min(gradient_at(v, 32, **narrow) for v in torch.linspace(0, 1, 41).tolist()) >= 1e-3 * reference > 0


@pytest.mark.parametrize("value", [-5.0, 5.0])
def test_beyond_the_points_only_log_densities_have_a_gradient(value):
    assert gradient_at(value, 10, log_output=False) < 1e-10 * gradient_at(0.4, 10, log_output=False)
    assert gradient_at(value, 10, log_output=True) > 1e-3 * gradient_at(0.4, 10, log_output=True)


def test_one_image_far_from_the_others_is_dead_by_construction_and_a_wide_bandwidth_revives_it():
    features = torch.tensor([[0.2], [0.5], [0.9], [-1.5]], requires_grad=True)
    for bandwidth, dead in ((0.1, True), (0.6, False)):
        logs = log_densities(features, torch.tensor([0, 4]), POINTS, bandwidth=bandwidth)
        (gradient,) = torch.autograd.grad(logs[..., 0].sum(), features)
        assert (gradient[3].item() == 0) == dead
        assert gradient[0].item() != 0


def test_the_bandwidth_falls_geometrically_and_stays():
    widths = [annealed_bandwidth(t / 10, start=0.8, end=0.1, until=0.3) for t in range(11)]
    assert widths[0] == pytest.approx(0.8)
    assert widths[1] / widths[0] == pytest.approx(widths[2] / widths[1])
    assert widths[3:] == pytest.approx([0.1] * 8)


def test_densities_of_groups_are_those_of_one_bag_each():
    features, groups = draw(12, 3), torch.tensor([0, 2, -1] * 4)
    found = feature_densities(features, groups, POINTS, bandwidth=0.1, n_groups=3)
    together = torch.cat([features[groups == 0], features[groups == 2]])
    expected = log_densities(together, torch.tensor([0, 4, 8]), POINTS, bandwidth=0.1).exp()
    torch.testing.assert_close(found[[0, 2]].float(), expected)
    assert bool(found[1].isnan().all())


@pytest.mark.parametrize("bandwidth", [0.0, -0.1, math.nan])
def test_a_bandwidth_must_be_above_zero(bandwidth):
    with pytest.raises(InputError, match="`bandwidth` must be above 0"):
        log_densities(draw(2, 2), torch.tensor([0, 2]), POINTS, bandwidth=bandwidth)


def test_a_density_has_two_points():
    with pytest.raises(InputError, match="2 points or more, got 1"):
        density_points(1)
