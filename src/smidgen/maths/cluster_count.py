"""How many clusters points fall into: every cut of merge trees, scored against points without clusters.

Ward's merge trees are made of samples of the points, in the first few of their principal components. Each cut of a tree
into K clusters, refined by steps of k-means, has a silhouette (how much nearer its own cluster is than the next one,
Rousseeuw 1987) and a stability (how far two samples agree on the points that both hold, as the adjusted Rand index). Of
a Gaussian cloud with the same variances both say what K would have without any clusters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import pdist, squareform
from sklearn.isotonic import isotonic_regression
from sklearn.metrics import adjusted_rand_score

from smidgen.errors import InputError

MOST = 200
"""Clusters of the finest cut that is scored."""

LEAST_POINTS = 10

DIMENSIONS = (6, 8, 12)
"""Components that trees are made in: fewer hide clusters, more hold differences within them."""

SAMPLES = 4
SAMPLE = 2000
SHARE = 0.7
"""How many samples there are, how many points each has at most, and which share of the points they come from."""

STABILITY_WEIGHT = 0.2
NULL_STABILITY = 0.5
DOUBLING = 0.03
"""Weight of the stability, and in it of that without clusters; how much of the score twice as many clusters cost."""

ERROR = 0.05
"""The part of the error that views do not show: so large that the range held the number of classes of four collections
in five (LAB.md)."""

_PER_CLUSTER = 8  # points of a sample: finer cuts are not scored
_FEW, _LEAST_PER_CLUSTER = 10, 3  # but up to ten clusters are, of so many points each
_STEPS = 3  # of k-means after a cut

Progress = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class Curve:
    """The scores of cuts into several numbers of clusters.

    n_clusters: (cuts,) int64, rising. silhouette, null_silhouette, stability, null_stability: (cuts,) means; null: of
    points without clusters. evidence: name → (cuts,), what is known said of each cut, added to the score.
    score: (cuts,). error: (cuts,), the standard error of its difference from the best score.
    """

    n_clusters: np.ndarray
    silhouette: np.ndarray
    null_silhouette: np.ndarray
    stability: np.ndarray
    null_stability: np.ndarray
    evidence: Mapping[str, np.ndarray]
    score: np.ndarray
    error: np.ndarray

    @property
    def best(self) -> int:
        """The number of clusters with the highest score."""
        return int(self.n_clusters[self.score.argmax()])

    @property
    def within(self) -> np.ndarray:
        """Which numbers are within one standard error of the best, (cuts,) bool."""
        return self.score >= self.score.max() - self.error

    @property
    def low(self) -> int:
        """The least number of clusters within one standard error of the best."""
        return int(self.n_clusters[self.within].min())

    @property
    def high(self) -> int:
        """The largest number of clusters within one standard error of the best."""
        return int(self.n_clusters[self.within].max())

    @property
    def is_clear(self) -> bool:
        """Whether the best cut is better separated than one of points without clusters, by twice `ERROR`."""
        best = self.score.argmax()
        return bool(self.silhouette[best] > self.null_silhouette[best] + 2 * ERROR)

    def columns(self) -> dict[str, np.ndarray]:
        """Return the curve as a table, one row for each number of clusters."""
        values = {
            "score": self.score,
            "error": self.error,
            "silhouette": self.silhouette,
            "silhouette_without_clusters": self.null_silhouette,
            "stability": self.stability,
            "stability_without_clusters": self.null_stability,
            **self.evidence,
        }
        return {
            "n_clusters": self.n_clusters,
            "within_one_error": self.within.astype(np.int64),
            **{name: np.round(column, 5) for name, column in values.items()},
        }


def numbers_to_try(n_points: int, *, least: int = 2, most: int = MOST) -> np.ndarray:
    """Return the numbers of clusters whose cuts are scored, (cuts,) int64: a geometric grid from `least` to `most`.

    It ends where a sample has fewer than 8 points a cluster, or 3 for up to ten clusters, but never before `least`.
    Raises InputError for fewer than 10 points, and where `least` is more than there are points.

    >>> numbers_to_try(40).tolist()
    [2, 3, 4, 5, 6, 7, 8, 9]
    >>> numbers_to_try(10_000, least=150).tolist()
    [150, 165, 182, 200]
    """
    if n_points < LEAST_POINTS:
        raise InputError(
            f"The number of clusters can be found for {LEAST_POINTS} images or more, and there are {n_points}: say"
            " how many you want (`--clusters N`, `n_clusters=N`)."
        )
    if least > n_points:
        raise InputError(f"The evidence needs at least {least} clusters, and there are only {n_points} images.")
    held = min(SAMPLE, int(SHARE * n_points))
    end = max(least, min(most, max(held // _PER_CLUSTER, min(_FEW, held // _LEAST_PER_CLUSTER)), n_points))
    grid, next_one = [least], least * 1.1
    while round(next_one) <= end:
        grid.append(max(round(next_one), grid[-1] + 1))
        next_one = max(next_one, grid[-1]) * 1.1
    return np.array([*(k for k in grid if k < end), end])


@dataclass(frozen=True, eq=False)
class Views:
    """What samples of points say of each cut: arrays (samples × dimensions, cuts); null: of points without clusters."""

    silhouette: np.ndarray
    null_silhouette: np.ndarray
    stability: np.ndarray
    null_stability: np.ndarray


def views_of_cuts(
    points: np.ndarray, n_clusters: Sequence[int] | np.ndarray, *, seed: int, progress: Progress | None = None
) -> Views:
    """Return silhouettes and stabilities of cuts into each of `n_clusters`.

    points: (n, features) float, principal components by falling variance. progress: called with (trees made, trees).
    """
    generator = np.random.default_rng(seed)
    held = min(SAMPLE, int(SHARE * len(points)))
    pool = generator.permutation(len(points))[: min(len(points), round(held / SHARE))]
    samples = [np.sort(generator.permutation(len(pool))[:held]) for _ in range(SAMPLES)]
    points = np.ascontiguousarray(points[pool, : max(DIMENSIONS)], dtype=np.float32)
    cloud = (generator.normal(size=points.shape) * points.std(0)).astype(np.float32)
    dimensions = sorted({min(d, points.shape[1]) for d in DIMENSIONS})
    found = []
    for done, d in enumerate(dimensions):
        found.append([_views(x[:, :d], samples, n_clusters) for x in (points, cloud)])
        if progress is not None:
            progress(done + 1, len(dimensions))
    silhouette, null_silhouette = (np.concatenate([both[k][0] for both in found]) for k in (0, 1))
    stability, null_stability = (np.concatenate([both[k][1] for both in found]) for k in (0, 1))
    return Views(silhouette, null_silhouette, stability, null_stability)


def _views(
    points: np.ndarray, samples: Sequence[np.ndarray], n_clusters: Sequence[int] | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return silhouettes and stabilities, (samples, cuts): a sample's stability is its agreement with another one."""
    silhouettes, labels = np.zeros((len(samples), len(n_clusters))), []
    for s, rows in enumerate(samples):
        some = points[rows]
        pairs = pdist(some)
        tree, distances = linkage(pairs, "ward"), squareform(pairs).astype(np.float32)
        whole = np.full((len(n_clusters), len(points)), -1)
        for i, k in enumerate(n_clusters):
            cut = refined_cut(some, tree, int(k))[0]
            silhouettes[s, i] = silhouette(distances, cut)
            whole[i, rows] = cut
        labels.append(whole)
    return silhouettes, np.array([_agreement(one, labels[s - 1]) for s, one in enumerate(labels)])


def _agreement(one: np.ndarray, other: np.ndarray) -> list[float]:
    """Return the adjusted Rand index of each two rows of labels, over the points where neither is -1."""
    both = (one[0] >= 0) & (other[0] >= 0)
    return [float(adjusted_rand_score(a[both], b[both])) for a, b in zip(one, other, strict=True)]


def refined_cut(points: np.ndarray, tree: np.ndarray, n_clusters: int) -> tuple[np.ndarray, np.ndarray]:
    """Return labels (n,) and centroids (n_clusters or fewer, features) of a tree's cut after a few steps of k-means.

    points: (n, features) float32. tree: of them, as SciPy's `linkage` gives it.
    """
    labels = fcluster(tree, n_clusters, "maxclust") - 1
    centroids = _centroids(points, labels)
    for _ in range(_STEPS):
        labels = nearest(points, centroids)
        centroids = _centroids(points, labels)
    return labels, centroids


def _centroids(points: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the means of the clusters that have points, and number their labels without gaps, in place."""
    _, labels[:], sizes = np.unique(labels, return_inverse=True, return_counts=True)
    return (_one_hot(labels, len(sizes)).T @ points) / sizes[:, None].astype(np.float32)


def nearest(points: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Return the row of the nearest centroid of each point, (n,) int64."""
    return ((centroids**2).sum(1) - 2 * points @ centroids.T).argmin(1)


def _one_hot(labels: np.ndarray, n: int) -> np.ndarray:
    found = np.zeros((len(labels), n), dtype=np.float32)
    found[np.arange(len(labels)), labels] = 1
    return found


def silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette of a clustering, 0 where there is one cluster: scikit-learn's, by one matrix product.

    distances: (n, n) float32, symmetric. labels: (n,) integers from 0, every cluster with a point.

    >>> x = np.array([[0.0], [1.0], [9.0], [10.0]])
    >>> round(silhouette(np.abs(x - x.T), np.array([0, 0, 1, 1])), 3)
    0.889
    """
    rows, n_clusters = np.arange(len(labels)), int(labels.max()) + 1
    if n_clusters < 2:
        return 0.0
    sizes = np.bincount(labels, minlength=n_clusters)
    sums = distances @ _one_hot(labels, n_clusters)  # (n, clusters)
    own = sums[rows, labels] / np.maximum(sizes[labels] - 1, 1)
    means = sums / sizes
    means[rows, labels] = np.inf
    other = means.min(1)
    larger = np.maximum(own, other)
    values = np.divide(other - own, larger, out=np.zeros_like(larger), where=larger > 0)
    return float(values[sizes[labels] > 1].sum() / len(labels))


def scored(
    views: Views, n_clusters: Sequence[int] | np.ndarray, *, evidence: Mapping[str, np.ndarray] | None = None
) -> Curve:
    """Return the scores of cuts, with their errors.

    score(K) = silhouette − its null + .2 (stability − half its null) − .03 log2 K + what the evidence adds. Nulls are
    smoothed: they fall with K. The error joins the spread of the views' differences from the best cut with `ERROR`.
    evidence: name → (cuts,), each on the scale of silhouettes.
    """
    numbers = np.asarray(n_clusters, dtype=np.int64)
    known = {name: np.asarray(values, dtype=float) for name, values in (evidence or {}).items()}
    null_silhouette = isotonic_regression(views.null_silhouette.mean(0), increasing=False)
    null_stability = isotonic_regression(views.null_stability.mean(0), increasing=False)
    each = views.silhouette + STABILITY_WEIGHT * views.stability  # (views, cuts)
    same = null_silhouette + STABILITY_WEIGHT * NULL_STABILITY * null_stability + DOUBLING * np.log2(numbers)
    score = each.mean(0) - same + sum(known.values())
    differences = each - each[:, [int(score.argmax())]]
    return Curve(
        numbers,
        views.silhouette.mean(0),
        null_silhouette,
        views.stability.mean(0),
        null_stability,
        known,
        score,
        np.hypot(differences.std(0, ddof=1), ERROR),
    )
