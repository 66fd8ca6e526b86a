"""One number that makes assignments honest: the temperature T of p' ∝ p^(1/T). The order of the clusters stays."""

from __future__ import annotations

import math

from scipy.optimize import minimize_scalar
from torch import Tensor

from smidgen.maths.entropy import sharpened, sharpness_for

COLDEST, HOTTEST = 0.05, 20.0

SPREAD = 0.3
"""Standard deviation of log T around where it starts: how far a few labels may move it."""


def tempered(p: Tensor, temperature: float) -> Tensor:
    """Return p' ∝ p^(1/T), (…, clusters), rows sum to one: surer below 1, less sure above.

    >>> import torch
    >>> tempered(torch.tensor([0.8, 0.2]), 2.0)
    tensor([0.6667, 0.3333])
    """
    return p if temperature == 1 else sharpened(p, 1 / temperature)


def temperature_for(p: Tensor, confidence: float) -> float:
    """Return the temperature, .05 to 20, at which the mean largest assignment is as wanted; the nearer end otherwise.

    p: (images, clusters), rows sum to one. confidence: wanted, in (0, 1).

    >>> import torch
    >>> round(temperature_for(torch.tensor([[0.8, 0.2]]), 0.6667), 2)
    2.0
    """
    return 1 / sharpness_for(p, confidence)


def fitted_temperature(p: Tensor, labels: Tensor, *, start: float) -> float:
    """Return the T that minimises −Σ log p'(label) + (log T − log start)² / (2 · .3²).

    p: (labelled, clusters), assignments of images by models that were not shown their labels (cross-fitted).
    labels: (labelled,) int64. start: T as it is estimated without labels, above 0; returned as it is without any.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, with a prior for few labels.

    >>> import torch
    >>> always = torch.tensor([[0.99, 0.01]]).repeat(1000, 1)
    >>> right_in_nine_of_ten = torch.tensor([0] * 900 + [1] * 100)
    >>> round(float(tempered(always[0], fitted_temperature(always, right_in_nine_of_ten, start=1.0))[0]), 2)
    0.9
    """
    if not len(labels):
        return start

    def cost(log_t: float) -> float:
        given = tempered(p, math.exp(log_t)).gather(1, labels[:, None])
        return float(-given.clamp_min(1e-12).log().sum()) + (log_t - math.log(start)) ** 2 / (2 * SPREAD**2)

    found = minimize_scalar(cost, bounds=(math.log(COLDEST), math.log(HOTTEST)), method="bounded")
    return math.exp(float(found.x))
