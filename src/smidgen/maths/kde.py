"""Kernel density estimates of each feature over the images of a bag, in log space: the layer that UCC and RCC share.

UCC (Oner, Lee and Sung, ICLR 2020) describes a bag by one density per feature j: a Gaussian kernel of bandwidth σ on
every image, read at points x_m and normalised over them,

    h_jm = Σ_i exp(−(x_m − f_ij)² / 2σ²) / Σ_m' Σ_i exp(−(x_m' − f_ij)² / 2σ²)                          log_densities

Written like that, a feature that is far from every point gives 0 / 0. Here log h is a log-sum-exp over images and a
log-softmax over points, which is finite for every finite feature.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.errors import InputError
from smidgen.hardware import to_device
from smidgen.maths.counts import bag_numbers

_FILLED = 4  # times as many rows as there are images, up to which bags are filled up to one size


def density_points(n: int, *, least: float = 0.0, most: float = 1.0) -> Tensor:
    """Return n equally spaced points from `least` to `most`, (n,) float32; InputError for fewer than two.

    >>> density_points(3)
    tensor([0.0000, 0.5000, 1.0000])
    """
    if n < 2:
        raise InputError(f"A density is read at 2 points or more, got {n}.")
    return torch.linspace(least, most, n)


def log_densities(
    features: Tensor, offsets: Tensor, points: Tensor, *, bandwidth: float, log_weights: Tensor | None = None
) -> Tensor:
    """Return log h, the log density of each feature in each bag at each point, (bags, features, points).

    features: (images, features), any float type, worked on in at least float32. offsets: (bags + 1,) int64; the images
    of bag b are rows offsets[b] … offsets[b + 1] − 1, at least one. points: (points,). bandwidth: σ above 0, in the
    features' unit. log_weights: (images,) the logarithm of each image's share in its bag; None for equal ones.
    `exp` of the result sums to one over the points. Raises InputError for a bandwidth that is not above 0.

    Values and gradients are finite for features up to about 1e15. Dead by construction:

    - An image that is far from all points while others of its bag are among them adds exp(−distance² / 2σ²) of their
      mass, which is 0 in float32 from 13 σ on: its gradient is exactly 0, in log space too.
    - A bag whose images are all beyond the points (x < −5 or x > 6 with points on [0, 1], σ = .1) has its whole density
      on the last point: h is constant there and its gradient vanishes (1e-18 at ±5 by `exp`). log h goes on falling
      at the other points and keeps its gradient.
    - Bandwidths far below the points' distance: of an image between two points only the nearer one sees anything.

    So features should be bounded to the range of the points; then every bag has a gradient. Where they cannot be, use
    log h itself, or begin with a wide bandwidth and narrow it.

    >>> features = torch.tensor([[0.0], [1.0], [5.0]])
    >>> log_densities(features, torch.tensor([0, 2, 3]), density_points(3), bandwidth=0.5).exp()[0]
    tensor([[0.3259, 0.3482, 0.3259]])
    """
    if not bandwidth > 0:
        raise InputError(f"`bandwidth` must be above 0, got {bandwidth}.")
    x = features if features.dtype == torch.float64 else features.float()
    log_kernels = -(x.unsqueeze(2) - points.to(x)).square() / (2 * bandwidth**2)  # (images, features, points)
    if log_weights is not None:
        log_kernels = log_kernels + log_weights.to(x)[:, None, None]
    return _bag_logsumexp(log_kernels, offsets).log_softmax(2)


def _bag_logsumexp(rows: Tensor, offsets: Tensor) -> Tensor:
    """Return (bags, …): the logarithm of the sum of the exponentials of each bag's rows (images, …)."""
    offsets = offsets.cpu()
    n_bags, most = len(offsets) - 1, int(offsets.diff().max())
    if n_bags * most == len(rows):
        return rows.view(n_bags, most, *rows.shape[1:]).logsumexp(1)
    bags = bag_numbers(offsets)
    places = to_device(torch.arange(len(rows)) - offsets[bags], rows.device)
    bags = to_device(bags, rows.device)
    if n_bags * most <= _FILLED * len(rows):  # fill bags up with −∞, which weighs nothing: the faster way
        filled = rows.new_full((n_bags, most, *rows.shape[1:]), -torch.inf)
        return filled.index_put((bags, places), rows).logsumexp(1)
    where = bags.view(-1, *[1] * (rows.ndim - 1)).expand_as(rows)
    largest = rows.new_full((n_bags, *rows.shape[1:]), -torch.inf).scatter_reduce(0, where, rows.detach(), "amax")
    sums = torch.zeros_like(largest).index_add(0, bags, (rows - largest[bags]).exp())
    return sums.log() + largest


def bag_log_softmax(scores: Tensor, offsets: Tensor) -> Tensor:
    """Return (images,) the log-softmax of scores (images,) inside each bag: the weights of attention.

    >>> bag_log_softmax(torch.tensor([1.0, 1.0, 7.0]), torch.tensor([0, 2, 3])).exp()
    tensor([0.5000, 0.5000, 1.0000])
    """
    totals = _bag_logsumexp(scores, offsets)
    return scores - totals[to_device(bag_numbers(offsets.cpu()), totals.device)]


def annealed_bandwidth(progress: float, *, start: float, end: float, until: float = 0.5) -> float:
    """Return the bandwidth at a share of training: geometrically from `start` to `end` over the first `until`.

    >>> [round(annealed_bandwidth(t, start=0.4, end=0.1), 3) for t in (0.0, 0.25, 0.5, 1.0)]
    [0.4, 0.2, 0.1, 0.1]
    """
    left = max(0.0, 1 - progress / until)
    return end * (start / end) ** left


def feature_densities(features: Tensor, groups: Tensor, points: Tensor, *, bandwidth: float, n_groups: int) -> Tensor:
    """Return (groups, features, points): one density per feature over all images of a group, NaN for an empty group.

    groups: (images,) int64, a cluster or class each; images of -1 are left out. For the divergence of
    docs/methods.md §1 and for figures; by blocks, without gradients.
    """
    sums = torch.full((n_groups, features.shape[1], len(points)), -torch.inf, dtype=torch.float64)
    for block, numbers in zip(features.detach().split(4096), groups.split(4096), strict=True):
        log_kernels = -(block.double().unsqueeze(2) - points.double()).square() / (2 * bandwidth**2)
        for group in numbers[numbers >= 0].unique().tolist():
            sums[group] = torch.logaddexp(sums[group], log_kernels[numbers == group].logsumexp(0))
    return F.softmax(sums, dim=2)
