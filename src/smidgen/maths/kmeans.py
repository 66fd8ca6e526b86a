"""k-means with greedy k-means++ starts: plain, weighted, spherical, seeded by labels, constrained by labels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from smidgen.errors import InputError, unknown
from smidgen.maths.checks import finite_matrix
from smidgen.maths.products import column_of_smallest, product_with
from smidgen.maths.scaling import check_range, power_of_two, unit_rows

EMPTY = ("farthest", "keep", "split")

_ROWS = 8192  # rows assigned at once, measured: larger blocks leave the cache
_FAR = 1e15  # beyond so many times the centroids' distances, float32 does not tell them apart
_BLOCK_ELEMENTS = 2**19  # scores (rows, clusters) computed at once, measured: more leave the cache
_LEAST_ROWS = 256  # of such a block
_FEW = 128  # clusters whose starts are drawn from all rows
_ROWS_PER_START = 8  # from how many rows, chosen at random, each start of more clusters is drawn
_LEAST_SAMPLE = 2**13


@dataclass(frozen=True, eq=False)
class KMeansResult:
    """The best of several runs.

    centroids: (n_clusters, features), in the type of the data. labels: (n,) int64, each row's cluster.
    inertia: sum over rows of weight x squared distance to its centroid. n_iterations: of the best run.
    """

    centroids: Tensor
    labels: Tensor
    inertia: float
    n_iterations: int


def kmeans(
    x: Tensor,
    n_clusters: int,
    *,
    generator: torch.Generator,
    n_init: int = 10,
    max_iterations: int = 300,
    tolerance: float = 1e-4,
    spherical: bool = False,
    initial: Tensor | None = None,
    seeds: Tensor | None = None,
    fixed: Tensor | None = None,
    weights: Tensor | None = None,
    empty: str = "farthest",
    progress: Callable[[int, int], None] | None = None,
) -> KMeansResult:
    """Return the best clustering by inertia over `n_init` runs of Lloyd's algorithm.

    x: (n, features), finite, n >= n_clusters; clustered in float32 or float64, of any scale.
    generator: draws the k-means++ starts (greedy: best of 2 + ln n_clusters candidates) and the splits.
    n_init: runs; one is enough, and one is made, when `initial` or labels for every cluster fix the start.
    tolerance: a run stops when the centroids' squared movement is at most this share of the features' mean variance, or
        when no label changes, or after `max_iterations`.
    spherical: rows and centroids have length one, so that the nearest centroid is the one of largest cosine; zero rows
        stay zero.
    initial: (n_clusters, features), the centroids to start from.
    seeds: (n,) int64 cluster of each row, -1 unknown ("seeded k-means"): the means of labelled rows start the
        centroids; clusters without labels are started by k-means++ around them.
    fixed: like `seeds`, and labelled rows also keep their cluster ("constrained k-means"). Source of both: Basu,
        Banerjee and Mooney, "Semi-supervised clustering by seeding", ICML 2002.
    weights: (n,) at least 0, not all 0; a row of weight 2 counts as two rows.
    empty: what happens to a centroid without rows: "farthest" moves it to the row farthest from its own centroid (as
        scikit-learn does), "split" to a copy of a populous centroid, both moved apart a little (as in DeepCluster),
        "keep" leaves it where it is.
    progress: called with (runs done, runs).

    With fewer different rows than clusters the surplus clusters stay empty, which is valid; InputError is raised for
    fewer rows than clusters, values that are not finite, and a row a million times as far out as most others.

    >>> x = torch.tensor([[0.0], [0.2], [9.0], [9.2]])
    >>> result = kmeans(x, 2, generator=torch.Generator().manual_seed(0))
    >>> sorted(round(float(c), 3) for c in result.centroids), round(result.inertia, 3), result.n_iterations
    ([0.1, 9.1], 0.04, 1)
    """
    x = finite_matrix(x, what="x")
    problem = _problem(x, n_clusters, spherical=spherical, fixed=fixed, weights=weights, empty=empty)
    if n_init < 1 or max_iterations < 1 or not tolerance >= 0:
        raise InputError(
            f"n_init and max_iterations must be at least 1 and tolerance at least 0, got {n_init}, {max_iterations}"
            f" and {tolerance}."
        )
    start = _given_start(problem, n_clusters, initial=initial, seeds=fixed if seeds is None else seeds)
    n_runs = 1 if len(start.missing) == 0 else n_init
    best = None
    for run in range(n_runs):
        centroids = _plus_plus(problem, start, generator)
        result = _lloyd(problem, centroids, max_iterations=max_iterations, tolerance=tolerance, generator=generator)
        if best is None or result.inertia < best.inertia:
            best = result
        if progress is not None:
            progress(run + 1, n_runs)
    assert best is not None
    scale = float(problem.scale)
    return replace(best, centroids=best.centroids * problem.scale + problem.shift, inertia=best.inertia * scale * scale)


def assign(x: Tensor, centroids: Tensor, *, spherical: bool = False) -> Tensor:
    """Return the nearest centroid (n,) int64 of each row of x (n, features); a tie goes to the smaller number.

    centroids: (n_clusters, features). spherical: by largest cosine instead of smallest distance.
    Raises InputError for values that are not finite, other features, or no centroid.

    >>> assign(torch.tensor([[1.0], [8.0]]), torch.tensor([[0.0], [9.0]])).tolist()
    [0, 1]
    """
    x = finite_matrix(x, what="x")
    centroids = finite_matrix(centroids, what="centroids").to(x)
    if len(centroids) == 0 or centroids.shape[1] != x.shape[1]:
        raise InputError(
            f"centroids must be (1 or more, {x.shape[1]}) like the rows of x, got shape {tuple(centroids.shape)}."
        )
    if spherical:
        return _nearest(_with_ones(unit_rows(x)), unit_rows(centroids))[1]
    shifted, shift = _centred(centroids)
    scale = power_of_two(shifted.abs().max())
    points = ((x - shift) / scale).clamp(-_FAR, _FAR)
    return _nearest(_with_ones(points), shifted / scale)[1]


@dataclass(frozen=True)
class _Problem:
    """What every run shares; `rows` is (n, features + 1): centred and scaled (or unit) points and a column of ones."""

    rows: Tensor
    weighted: Tensor  # (n, features + 1) rows x weights
    squares: Tensor  # (n,) squared length of each point
    weights: Tensor  # (n,)
    fixed: Tensor  # (n,) int64, -1 free
    shift: Tensor  # (features,), what was taken off every point
    scale: Tensor  # (), what they were divided by: a power of two, so that it rounds nothing
    variance: float  # mean over features
    spherical: bool
    empty: str

    @property
    def points(self) -> Tensor:
        return self.rows[:, :-1]


@dataclass(frozen=True)
class _Start:
    centroids: Tensor  # (n_clusters, features), those in `missing` still undefined
    missing: list[int]


def _problem(
    x: Tensor, n_clusters: int, *, spherical: bool, fixed: Tensor | None, weights: Tensor | None, empty: str
) -> _Problem:
    n = len(x)
    if not 1 <= n_clusters <= n:
        raise InputError(
            f"n_clusters must be from 1 to the number of rows ({n}), got {n_clusters};"
            " ask for fewer clusters or give more images."
        )
    if empty not in EMPTY:
        raise unknown("rule for empty clusters", empty, EMPTY)
    weights = x.new_ones(n) if weights is None else weights.to(x)
    if weights.shape != (n,) or not bool(((weights >= 0) & weights.isfinite()).all()) or not float(weights.sum()) > 0:
        raise InputError(f"weights must be {n} finite numbers of at least 0, not all 0; give one weight per row of x.")
    fixed = torch.full((n,), -1, device=x.device) if fixed is None else _labels(fixed, x, n_clusters, what="fixed")
    if spherical:
        points, shift, scale = unit_rows(x), x.new_zeros(x.shape[1]), x.new_ones(())
    else:
        check_range(x)
        points, shift = _centred(x)
        scale = power_of_two(points.abs().max())
        points = points.div_(scale)
    rows, squares = _with_ones(points), points.square().sum(1)
    variance = float(squares.mean() - points.mean(0).square().sum()) / x.shape[1]
    weighted = rows if bool((weights == 1).all()) else rows * weights[:, None]
    return _Problem(rows, weighted, squares, weights, fixed, shift, scale, variance, spherical, empty)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return points about their mean (n, features), and what was taken off (features,)."""
    unit = power_of_two(x.abs().amax(0))
    shift = (x / unit).mean(0) * unit  # a sum of large numbers overflows
    points = x - shift
    low, high = points.amin(0), points.amax(0)
    middle = low / 2 + high / 2
    # The mean of large numbers is rounded, by more than the points differ where a feature is large and constant.
    rest = torch.where(middle.abs() > (high - low).max(), middle, 0)
    return (points - rest, shift + rest) if bool(rest.any()) else (points, shift)


def _labels(labels: Tensor, x: Tensor, n_clusters: int, *, what: str) -> Tensor:
    if labels.shape != (len(x),) or labels.is_floating_point():
        given = f"{labels.dtype} of shape {tuple(labels.shape)}"
        raise InputError(f"{what} must be {len(x)} integers, one cluster per row of x, got {given}.")
    labels = labels.to(x.device, torch.int64)
    if not bool(((labels >= -1) & (labels < n_clusters)).all()):
        raise InputError(
            f"{what} must be from 0 to {n_clusters - 1}, or -1 for unknown, got {int(labels.min())} to"
            f" {int(labels.max())}; give the right n_clusters."
        )
    return labels


def _with_ones(points: Tensor) -> Tensor:
    """Return (n, features + 1): the last column takes the centroids' biases in, and counts when rows are summed."""
    return torch.cat([points, points.new_ones(len(points), 1)], dim=1)


def _given_start(problem: _Problem, n_clusters: int, *, initial: Tensor | None, seeds: Tensor | None) -> _Start:
    """Return the centroids that `initial` or labelled rows determine, and the numbers of the others."""
    points = problem.points
    if initial is not None:
        centroids = finite_matrix(initial, what="initial").to(points)
        if centroids.shape != (n_clusters, points.shape[1]):
            raise InputError(
                f"initial must be {n_clusters} centroids of {points.shape[1]} features, got {tuple(centroids.shape)}."
            )
        start = unit_rows(centroids) if problem.spherical else (centroids - problem.shift) / problem.scale
        return _Start(start, [])
    if seeds is None:
        return _Start(points.new_zeros(n_clusters, points.shape[1]), list(range(n_clusters)))
    labels = _labels(seeds, points, n_clusters, what="seeds")
    # Unknown rows are summed into a cluster of their own, which is then dropped.
    sums = _sums(problem, torch.where(labels < 0, n_clusters, labels), n_clusters + 1)[:-1]
    means = _means(problem, sums, points.new_zeros(n_clusters, points.shape[1]))
    return _Start(means, (sums[:, -1] == 0).nonzero().flatten().tolist())


def _plus_plus(problem: _Problem, start: _Start, generator: torch.Generator) -> Tensor:
    """Return centroids (n_clusters, features), the missing ones drawn by greedy k-means++.

    Arthur and Vassilvitskii, SODA 2007, with the candidates of their section 5: each new centroid is the best of
    2 + ln n_clusters rows drawn with probability proportional to weight x squared distance. For many clusters
    a sample of the rows stands for all of them, which costs as much as a few iterations.
    """
    problem = _sample(problem, len(start.missing), generator)
    centroids = start.centroids.clone()
    n_clusters = len(centroids)
    present = sorted(set(range(n_clusters)) - set(start.missing))
    closest = _closest(problem, centroids[present])
    for place, cluster in enumerate(start.missing):
        first = place == 0 and not present
        chances = problem.weights if first else problem.weights * closest
        chances = chances if float(chances.sum()) > 0 else problem.weights  # every row is a centroid already
        drawn = _draw(chances, 1 if first else 2 + int(math.log(n_clusters)), generator)
        distances = torch.minimum(_squared_distances(problem, problem.points[drawn]), closest)  # (candidates, n)
        best = int((distances @ problem.weights).argmin())
        centroids[cluster], closest = problem.points[drawn[best]], distances[best]
    return centroids


def _sample(problem: _Problem, n_starts: int, generator: torch.Generator) -> _Problem:
    """Return the problem with as many rows, chosen at random, as that number of starts needs."""
    there = problem.weights.nonzero().flatten()
    size = max(_ROWS_PER_START * n_starts, _LEAST_SAMPLE)
    if n_starts <= _FEW or len(there) <= size:
        return problem
    order = torch.randperm(len(there), generator=generator, device=generator.device)[:size]
    chosen = there[order.to(there.device)]
    return replace(problem, rows=problem.rows[chosen], squares=problem.squares[chosen], weights=problem.weights[chosen])


def _closest(problem: _Problem, centroids: Tensor) -> Tensor:
    """Return each row's squared distance to the nearest centroid, (n,); infinity where there is none."""
    if len(centroids) == 0:
        return torch.full_like(problem.squares, torch.inf)
    return _nearest(problem.rows, centroids)[0].add_(problem.squares).clamp_min_(0)


def _draw(chances: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Return `size` row numbers drawn with replacement, in proportion to `chances` (n,)."""
    cumulative = chances.cpu().to(torch.float64).cumsum(0)
    at = torch.rand(size, generator=generator, dtype=torch.float64, device=generator.device).cpu() * cumulative[-1]
    return torch.searchsorted(cumulative, at, right=True).clamp_max(len(chances) - 1).to(chances.device)


def _squared_distances(problem: _Problem, centroids: Tensor) -> Tensor:
    """Return (centroids, n) squared distances."""
    weights = torch.cat([-2 * centroids, centroids.square().sum(1, keepdim=True)], dim=1)
    return (weights @ problem.rows.T).add_(problem.squares).clamp_min_(0)


def _lloyd(
    problem: _Problem, centroids: Tensor, *, max_iterations: int, tolerance: float, generator: torch.Generator
) -> KMeansResult:
    """Return the end of one run; the labels are always those of the centroids returned."""
    scores, labels = _assign(problem, centroids)
    sums = _sums(problem, labels, len(centroids))
    n_iterations, settled = 0, False
    while not settled and n_iterations < max_iterations:
        means = _means(problem, sums, centroids)
        moved = _mend(problem, means, sums[:, -1], scores, labels, generator)
        shift = float((moved - centroids).square().sum())
        centroids, previous = moved, labels
        scores, labels = _assign(problem, centroids)
        _update_sums(problem, sums, previous, labels)
        settled = shift <= tolerance * problem.variance or torch.equal(labels, previous)
        n_iterations += 1
    return KMeansResult(centroids, labels, _inertia(problem, centroids, labels), n_iterations)


def _assign(problem: _Problem, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return each row's squared distance less its own square, (n,), and its cluster; labelled rows keep theirs."""
    scores, labels = _nearest(problem.rows, centroids)
    return scores, torch.where(problem.fixed >= 0, problem.fixed, labels)


def _nearest(rows: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """Return the smallest |c|^2 - 2 c.x (n,) of each row, and whose it is; rows come with their column of ones."""
    weights = torch.cat([-2 * centroids, centroids.square().sum(1, keepdim=True)], dim=1)
    scores, labels = rows.new_empty(len(rows)), torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    few = len(centroids) <= 32  # three times faster than rows x few columns, which BLAS does badly
    product = product_with(weights)
    for start in range(0, len(rows), size := _block_rows(len(centroids))):
        block = slice(start, start + size)
        if few:
            torch.min(weights @ rows[block].T, dim=0, out=(scores[block], labels[block]))
        else:
            found = product(rows[block])
            labels[block] = nearest = column_of_smallest(found)
            scores[block] = found.gather(1, nearest[:, None]).squeeze(1)
    return scores, labels


def _block_rows(n_clusters: int) -> int:
    return min(_ROWS, max(_LEAST_ROWS, _BLOCK_ELEMENTS // n_clusters))


def _sums(problem: _Problem, labels: Tensor, n_clusters: int) -> Tensor:
    """Return (n_clusters, features + 1): weighted sums of points and, in the last column, the sums of weights.

    In float64 (where the device has it), so that adding and taking away rows for hundreds of iterations loses nothing.
    """
    wide = torch.float32 if labels.device.type == "mps" else torch.float64
    sums = torch.zeros(n_clusters, problem.rows.shape[1], dtype=wide, device=labels.device)
    for start in range(0, len(labels), _ROWS):
        block = slice(start, start + _ROWS)
        sums.index_add_(0, labels[block], problem.weighted[block].to(wide))
    return sums


def _update_sums(problem: _Problem, sums: Tensor, previous: Tensor, labels: Tensor) -> None:
    """Move the rows that changed cluster from one sum to the other, in place; soon they are few."""
    changed = (labels != previous).nonzero().flatten()
    rows = problem.weighted[changed].to(sums)
    sums.index_add_(0, previous[changed], rows, alpha=-1).index_add_(0, labels[changed], rows)
    left = sums[:, -1:] > 1e-12 * sums[:, -1].sum()  # taking away fractional weights leaves a little rounding
    sums.mul_(left)


def _means(problem: _Problem, sums: Tensor, previous: Tensor) -> Tensor:
    """Return the centroids of these sums; a cluster that is empty, or whose unit rows cancel out, keeps its old one."""
    divisors = sums[:, :-1].norm(dim=1, keepdim=True) if problem.spherical else sums[:, -1:]
    return torch.where(divisors > 0, (sums[:, :-1] / divisors).to(previous), previous)


def _mend(
    problem: _Problem, centroids: Tensor, sizes: Tensor, scores: Tensor, labels: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the centroids with those of empty clusters moved, by the problem's rule."""
    empty = (sizes == 0).nonzero().flatten()
    if len(empty) == 0 or problem.empty == "keep":
        return centroids
    centroids, sizes = centroids.clone(), sizes.clone()
    if problem.empty == "split":
        for cluster in empty.tolist():
            donor = int(_draw(sizes, 1, generator))
            sizes[cluster] = sizes[donor] = sizes[donor] / 2
            centroids[cluster], centroids[donor] = _apart(centroids[donor], 1e-3 * math.sqrt(problem.variance))
        return normalize(centroids, dim=1) if problem.spherical else centroids
    far = torch.where(problem.fixed < 0, (scores + problem.squares) * problem.weights, -torch.inf)
    for cluster, row in zip(empty.tolist(), far.topk(min(len(empty), len(far))).indices.tolist(), strict=False):
        if far[row] > 0:  # else every free row is on its centroid: fewer different rows than clusters
            centroids[cluster] = problem.points[row]
    return centroids


def _apart(centroid: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """Return two copies of a centroid, moved by `step` in opposite directions along every feature."""
    steps = torch.full_like(centroid, step)
    steps[1::2] = -step
    return centroid + steps, centroid - steps


def _inertia(problem: _Problem, centroids: Tensor, labels: Tensor) -> float:
    """Return the weighted sum of squared distances, by plain differences."""
    total = 0.0
    for start in range(0, len(labels), _ROWS):
        block = slice(start, start + _ROWS)
        squares = (problem.points[block] - centroids[labels[block]]).square().sum(1)
        total += float(squares @ problem.weights[block])
    return total
