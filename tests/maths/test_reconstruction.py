"""Errors of decoded images: by hand, against a slow loop, and the properties of SSIM."""

import math

import pytest
import torch

from smidgen.maths.reconstruction import mse, ssim


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def slow_ssim(a, b):
    """One window at a time, on one channel of 11 rows or more."""
    weights = [math.exp(-((i - 5) ** 2) / (2 * 1.5**2)) for i in range(11)]
    kernel = torch.tensor([[x * y for y in weights] for x in weights], dtype=torch.float64)
    kernel /= kernel.sum()
    values = []
    for row in range(a.shape[0] - 10):
        for column in range(a.shape[1] - 10):
            x, y = a[row : row + 11, column : column + 11].double(), b[row : row + 11, column : column + 11].double()
            mx, my = (kernel * x).sum(), (kernel * y).sum()
            vx, vy, vxy = (kernel * (x - mx) ** 2).sum(), (kernel * (y - my) ** 2).sum(), (kernel * (x - mx) * (y - my)).sum()  # fmt: skip # noqa: E501
            values.append((2 * mx * my + 1e-4) * (2 * vxy + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(sum(values) / len(values))


def test_ssim_of_equal_images_is_one_in_mixed_precision_too():
    flat = 0.5 + 0.02 * torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert ssim(flat, flat).tolist() == pytest.approx([1.0] * 4, abs=1e-4)


def test_ssim_is_the_equation():
    a, b = draw(2, 2, 13, 14), draw(2, 2, 13, 14, seed=1)
    b = 0.6 * a + 0.4 * b
    for i in range(2):
        expected = sum(slow_ssim(a[i, c], b[i, c]) for c in range(2)) / 2
        assert float(ssim(a, b)[i]) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("shape", [(3, 1, 28, 28), (2, 3, 8, 5), (2, 1, 1, 1)])
def test_ssim_is_one_for_equal_images_and_symmetric(shape):
    a, b = draw(*shape), draw(*shape, seed=1)
    torch.testing.assert_close(ssim(a, a), torch.ones(shape[0]))
    torch.testing.assert_close(ssim(a, b), ssim(b, a))
    assert float(ssim(a, b).max()) < 1


def test_ssim_of_constant_images_by_hand():
    a, b = torch.full((1, 1, 12, 12), 0.5), torch.full((1, 1, 12, 12), 0.25)
    assert ssim(a, b).item() == pytest.approx((2 * 0.125 + 1e-4) / (0.25 + 0.0625 + 1e-4), abs=1e-4)


def test_ssim_falls_with_noise_and_its_gradient_is_finite_for_black_images():
    image, noise = draw(1, 1, 16, 16), draw(1, 1, 16, 16, seed=1) - 0.5
    values = [ssim(image + s * noise, image).item() for s in (0.1, 0.4, 1.0)]
    assert values == sorted(values, reverse=True)
    black = torch.zeros(1, 1, 16, 16, requires_grad=True)
    ssim(black, torch.zeros(1, 1, 16, 16)).sum().backward()
    assert bool(black.grad.isfinite().all())


def test_mse_is_of_each_image():
    a, b = draw(3, 2, 4, 4), draw(3, 2, 4, 4, seed=1)
    torch.testing.assert_close(mse(a, b), torch.stack([(a[i] - b[i]).square().mean() for i in range(3)]))
