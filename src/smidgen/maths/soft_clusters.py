"""How sure it is which of several centroids a point belongs to: what k-means leaves open."""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.maths.kmeans import assign, kmeans
from smidgen.maths.matching import align

_ROWS = 8192  # looked at together
_HALF = 5000  # points that are clustered again
_STARTS = 3
_LEAST = 1e-15  # of a deviation by the distance of centroids: below, points coincide with their centroids
_HELD = 1e-30, 1e38  # what float32 holds with all its digits, and what it holds at all
_FAR = 1e18  # deviations, whose square float32 still holds
_DOUBLINGS = 12  # of the spread, at most


def spread_among_centroids(points: Tensor, centroids: Tensor, labels: Tensor) -> Tensor:
    """Return twice the variance of points around their centroids along the directions in which centroids differ, ().

    Along other directions a point is as far from every centroid, so that its distances say nothing, however large; in
    many dimensions they are most of what a mean squared distance adds up.

    points: (n, features); centroids: (clusters, features); labels: (n,), the centroid of each point. Any scale:
    what float32 cannot hold comes in float64.

    >>> points = torch.tensor([[0.0, 9.0], [2.0, -9.0], [10.0, 9.0], [12.0, -9.0]])
    >>> spread_among_centroids(points, torch.tensor([[1.0, 0.0], [11.0, 0.0]]), torch.tensor([0, 0, 1, 1]))
    tensor(2.)
    """
    own = centroids.double()
    own = own - own.mean(0)
    scale = own.abs().max().clamp_min(torch.finfo(own.dtype).tiny)
    _, lengths, directions = torch.linalg.svd(own / scale, full_matrices=False)
    directions = directions[lengths > 1e-6 * max(1.0, float(lengths.max()))]  # (differing, features)
    if not len(directions):
        return centroids.new_zeros(())
    total = torch.zeros((), dtype=torch.float64)
    for rows, near in zip(points.split(_ROWS), labels.split(_ROWS), strict=True):
        along = ((rows.double() - centroids[near].double()) / scale) @ directions.T
        total += along.square().sum()
    spread = 2 * scale.square() * total / (len(points) * len(directions))
    held = float(spread) == 0 or _HELD[0] < float(spread) < _HELD[1]
    return spread.to(centroids) if held else spread


def calibrated_spread(
    points: Tensor, centroids: Tensor, labels: Tensor, *, generator: torch.Generator, spherical: bool = False
) -> Tensor:
    """Return the spread by which assignments are on average as sure as clusters are stable, ().

    It is `spread_among_centroids`, or larger: that takes it for given that there are clusters, and k-means finds some
    in an even cloud too. Arguments as there, on the CPU; generator: draws the points that are clustered again.
    """
    spread = spread_among_centroids(points, centroids, labels)
    stable = stability(points, labels, len(centroids), generator=generator, spherical=spherical)
    some = points[_shuffled(points, generator)[:_HALF]]
    low, high = 0.0, float(_DOUBLINGS)
    for _ in range(12):  # a larger spread is less sure
        middle = (low + high) / 2
        sure = float(assignments_by_distance(some, centroids, spread * 2**middle).amax(1).mean())
        low, high = (middle, high) if sure > stable else (low, middle)
    return spread * 2**low


def stability(
    points: Tensor, labels: Tensor, n_clusters: int, *, generator: torch.Generator, spherical: bool = False
) -> float:
    """Return the share of points that k-means on other points puts into the same cluster, clusters matched, in [0, 1].

    Two halves of the points, of at most 5,000 each, are clustered, and each sorts the other. With fewer than four
    points for each cluster it is not known: 1. points: (n, features); labels: (n,) from 0.

    >>> points = torch.tensor([[0.0], [9.0]]).repeat(8, 1)
    >>> stability(points, points[:, 0].long() // 9, 2, generator=torch.Generator().manual_seed(0))
    1.0
    """
    half = min(len(points) // 2, _HALF)
    if half < 2 * n_clusters:
        return 1.0
    first, second = _shuffled(points, generator)[: 2 * half].split(half)
    same = 0
    for own, other in ((first, second), (second, first)):
        found = kmeans(points[own], n_clusters, n_init=_STARTS, spherical=spherical, generator=generator)
        again = assign(points[other], found.centroids, spherical=spherical)
        same += int((align(labels[other], again, n_clusters)[again] == labels[other]).sum())
    return same / (2 * half)


def _shuffled(points: Tensor, generator: torch.Generator) -> Tensor:
    """Return the rows of points in random order, drawn where the generator is."""
    return torch.randperm(len(points), generator=generator, device=generator.device).to(points.device)


def assignments_by_distance(points: Tensor, centroids: Tensor, spread: Tensor) -> Tensor:
    """Return assignments (n, clusters): a softmax of −d² / spread; the nearest centroid is the likeliest.

    With the spread of `spread_among_centroids` that is P(cluster | point) where clusters are as large and points lie
    around centroids normally, alike in all directions in which these differ.

    >>> assignments_by_distance(torch.tensor([[1.0]]), torch.tensor([[0.0], [2.0]]), torch.tensor(3.0))
    tensor([[0.5000, 0.5000]])
    """
    apart = (centroids - centroids.mean(0)).abs().max()
    least = _LEAST * torch.where(apart > 0, apart, 1.0)
    unit = torch.maximum(spread.sqrt().to(points), least.to(points))  # first: squares of large numbers leave float32
    distances = torch.cdist(points / unit, centroids / unit, compute_mode="donot_use_mm_for_euclid_dist")
    return (-distances.clamp(max=_FAR).square()).softmax(1)
