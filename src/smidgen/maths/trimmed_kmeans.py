"""k-means that leaves out the rows farthest from their centroids, so that outliers draw no centroid away."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from smidgen.errors import InputError
from smidgen.maths.kmeans import KMeansResult, kmeans
from smidgen.maths.scaling import unit_rows


def trimmed_kmeans(
    x: Tensor,
    n_clusters: int,
    *,
    trim: float,
    generator: torch.Generator,
    n_init: int = 10,
    max_iterations: int = 100,
    spherical: bool = False,
    seeds: Tensor | None = None,
    fixed: Tensor | None = None,
) -> KMeansResult:
    """Return the best of `n_init` clusterings in which a share of the rows, the farthest out, counts for nothing.

    Each step of Lloyd's algorithm is preceded by one that leaves out the `trim` · n rows farthest from their centroids;
    rows that are `fixed` stay. Where no row has a label, starts are random rows.
    Source: Cuesta-Albertos, Gordaliza and Matrán, "Trimmed k-means", Annals of Statistics 25, 1997.

    x: (n, features). trim: in [0, 1); with 0 this is `maths.kmeans.kmeans`. The other arguments are as there.
    In the result all rows have labels; `inertia` is that of the rows that count.

    >>> x = torch.tensor([[0.0], [0.2], [9.0], [9.2], [1000.0]])
    >>> found = trimmed_kmeans(x, 2, trim=0.2, generator=torch.Generator().manual_seed(0))
    >>> sorted(round(float(c), 3) for c in found.centroids)
    [0.1, 9.1]
    """
    if not 0 <= trim < 1:
        raise InputError(f"`trim` must be a share from 0 to below 1, got {trim:g}.")
    if trim == 0:
        return kmeans(
            x,
            n_clusters,
            generator=generator,
            n_init=n_init,
            max_iterations=max_iterations,
            spherical=spherical,
            seeds=seeds,
            fixed=fixed,
        )
    best = None
    for _ in range(1 if _starts_are_given(seeds, fixed, n_clusters) else n_init):
        found = kmeans(
            x,
            n_clusters,
            generator=generator,
            n_init=1,
            max_iterations=1,
            spherical=spherical,
            initial=_drawn(x, n_clusters, generator) if seeds is None and fixed is None else None,
            seeds=seeds,
            fixed=fixed,
        )
        found = _concentrated(x, found, trim, generator, max_iterations, spherical, fixed)
        if best is None or found.inertia < best.inertia:
            best = found
    assert best is not None
    return best


def _starts_are_given(seeds: Tensor | None, fixed: Tensor | None, n_clusters: int) -> bool:
    given = fixed if seeds is None else seeds
    return given is not None and len(given[given >= 0].unique()) == n_clusters


def _drawn(x: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    """Return random rows to start from, all equally likely: k-means++ would draw the outliers first."""
    return x[torch.randperm(len(x), generator=generator, device=generator.device)[:n_clusters].to(x.device)]


def _concentrated(
    x: Tensor,
    found: KMeansResult,
    trim: float,
    generator: torch.Generator,
    max_iterations: int,
    spherical: bool,
    fixed: Tensor | None,
) -> KMeansResult:
    """Return what alternating between leaving out the farthest rows and moving the centroids comes to."""
    for iteration in range(max_iterations):
        kept = _nearest_rows(x, found, trim, spherical=spherical, fixed=fixed)
        again = kmeans(
            x,
            len(found.centroids),
            generator=generator,
            max_iterations=1,
            spherical=spherical,
            initial=found.centroids,
            fixed=fixed,
            weights=kept,
        )
        settled = torch.equal(again.labels, found.labels) and iteration > 0
        found = replace(again, n_iterations=iteration + 1)
        if settled:
            break
    return found


def _nearest_rows(x: Tensor, found: KMeansResult, trim: float, *, spherical: bool, fixed: Tensor | None) -> Tensor:
    """Return (n,) 1 for the rows that count and 0 for the `trim` · n farthest ones."""
    points = unit_rows(x) if spherical else x
    distances = (points - found.centroids[found.labels]).norm(dim=1)
    if fixed is not None:
        distances = torch.where(fixed >= 0, 0.0, distances)
    kept = torch.ones_like(distances)
    return kept.index_fill_(0, distances.topk(int(trim * len(x))).indices, 0.0)
