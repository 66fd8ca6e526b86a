"""How far a decoded image is from the original: mean squared error and structural similarity (SSIM)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.hardware import to_device

_SIGMA = 1.5  # of the Gaussian window, in pixels: Wang et al. 2004
_WINDOW = 11


def mse(decoded: Tensor, images: Tensor) -> Tensor:
    """Return the mean squared difference of each image, (batch,); both (batch, channels, height, width).

    >>> mse(torch.zeros(1, 1, 1, 2), torch.tensor([[[[1.0, 3.0]]]]))
    tensor([5.])
    """
    return (decoded - images).square().flatten(1).mean(1)


def ssim(decoded: Tensor, images: Tensor, *, span: float = 1.0) -> Tensor:
    """Return the structural similarity of each image, (batch,) in [−1, 1], 1 for equal images.

    The mean over all places of a Gaussian window (σ 1.5, 11 × 11 or as large as the image) and over channels of
    (2 μ_a μ_b + C₁)(2 σ_ab + C₂) / ((μ_a² + μ_b² + C₁)(σ_a² + σ_b² + C₂)), C₁ = (.01 span)², C₂ = (.03 span)².
    Source: Wang, Bovik, Sheikh and Simoncelli, "Image quality assessment", IEEE TIP 2004.

    decoded, images: (batch, channels, height, width). span: the largest difference two pixels can have.

    >>> grey = torch.full((1, 1, 8, 8), 0.5)
    >>> round(float(ssim(grey, 0 * grey)), 4)  # C₁ / (.25 + C₁): there is no structure to share
    0.0004
    """
    with torch.autocast(images.device.type, enabled=False):  # variances are small differences of large numbers
        return _similarity(decoded.float(), images.float(), span=span)


def _similarity(a: Tensor, b: Tensor, *, span: float) -> Tensor:
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    mean_a, mean_b = _window_mean(a), _window_mean(b)
    # The clamp holds variances at 0 where they are rounded below it.
    var_a = (_window_mean(a * a) - mean_a**2).clamp_min(0)
    var_b = (_window_mean(b * b) - mean_b**2).clamp_min(0)
    covariance = _window_mean(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).flatten(1).mean(1)


def _window_mean(x: Tensor) -> Tensor:
    """Return the Gaussian-weighted mean around every place where the window fits."""
    channels = x.shape[1]
    for dim in (2, 3):
        weights = to_device(_gaussian(min(_WINDOW, x.shape[dim])), x.device, x.dtype)
        shape = (channels, 1, -1, 1) if dim == 2 else (channels, 1, 1, -1)
        x = F.conv2d(x, weights.expand(channels, -1).reshape(shape), groups=channels)
    return x


def _gaussian(size: int) -> Tensor:
    places = torch.arange(size) - (size - 1) / 2
    weights = (-places.square() / (2 * _SIGMA**2)).exp()
    return weights / weights.sum()
