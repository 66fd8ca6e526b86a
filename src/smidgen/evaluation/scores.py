"""How well clusters agree with classes: scores with fixed definitions on label arrays, and intervals around them.

Every score takes `classes` (what is true) first and `clusters` (what was found) second: (n,) integers from 0. Images of
class -1 (unknown) are left out; a cluster of -1 is refused, since it would be a choice which images to score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from smidgen.errors import InputError
from smidgen.maths.matching import count_table, match_counts

Score = Callable[[np.ndarray, np.ndarray], float]


def clustering_accuracy(classes: np.ndarray, clusters: np.ndarray) -> float:
    """Return the share of images whose cluster is matched to their class by the best one-to-one match, in [0, 1].

    The match is found on these very images (Hungarian method on counts). With more clusters than classes the images of
    unmatched clusters count as wrong; with fewer, those of unmatched classes do. InputError if no class is known.

    >>> clustering_accuracy(np.array([0, 0, 1, 1, -1]), np.array([1, 1, 0, 1, 0]))
    0.75
    """
    counts = confusion_counts(classes, clusters)
    matched = match_counts(counts)
    rows = np.flatnonzero(matched >= 0)
    return float(counts[rows, matched[rows]].sum() / counts.sum())


def named_accuracy(classes: np.ndarray, clusters: np.ndarray, *, cluster_map: np.ndarray | None = None) -> float:
    """Return the share of images whose cluster's class is theirs, without any matching, in [0, 1].

    cluster_map: (n_clusters,) cluster -> class, -1 for none (always wrong), as `maths.matching` finds it on training
    images; None means that cluster k is class k.

    >>> named_accuracy(np.array([0, 0, 1]), np.array([1, 1, 1]))
    0.3333333333333333
    """
    classes, clusters = _known(classes, clusters)
    return float((_mapped(clusters, cluster_map) == classes).mean())


def purity(classes: np.ndarray, clusters: np.ndarray) -> float:
    """Return the share of images that belong to the most frequent class of their cluster, in (0, 1].

    It grows with the number of clusters and is 1 when each image is its own: compare it between equal numbers only.

    >>> purity(np.array([0, 0, 1, 1]), np.array([0, 1, 2, 2]))
    1.0
    """
    counts = confusion_counts(classes, clusters)
    return float(counts.max(0).sum() / counts.sum())


def normalised_mutual_information(classes: np.ndarray, clusters: np.ndarray) -> float:
    """Return mutual information over the arithmetic mean of the two entropies, in [0, 1]; scikit-learn's.

    1 when classes and clusters are the same partition; biased upwards where clusters are many and images few.

    >>> normalised_mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
    1.0
    """
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(*_known(classes, clusters), average_method="arithmetic"))


def adjusted_mutual_information(classes: np.ndarray, clusters: np.ndarray) -> float:
    """Return mutual information adjusted for chance (arithmetic mean): at most 1, about 0 if random; scikit-learn's.

    >>> adjusted_mutual_information(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
    1.0
    """
    from sklearn.metrics import adjusted_mutual_info_score

    return float(adjusted_mutual_info_score(*_known(classes, clusters), average_method="arithmetic"))


def adjusted_rand_index(classes: np.ndarray, clusters: np.ndarray) -> float:
    """Return the share of pairs treated alike, adjusted for chance, in [-0.5, 1], about 0 if random; scikit-learn's.

    >>> adjusted_rand_index(np.array([0, 0, 1, 1]), np.array([5, 5, 3, 3]))
    1.0
    """
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(*_known(classes, clusters)))


SCORES: dict[str, Score] = {
    "accuracy": clustering_accuracy,
    "nmi": normalised_mutual_information,
    "ami": adjusted_mutual_information,
    "ari": adjusted_rand_index,
    "purity": purity,
}
"""Scores that need no names for clusters; all are 1 for a perfect clustering and blind to how labels are numbered."""

SYMMETRIC = ("accuracy", "nmi", "ami", "ari")
"""Scores that stay the same when classes and clusters change places."""

FROM_ZERO_TO_ONE = ("accuracy", "nmi", "purity")
"""Scores that never leave [0, 1]; the others can be negative."""

CHANCE_ADJUSTED = ("ami", "ari")
"""Scores whose mean over random clusterings is 0, whatever the number of clusters."""


def score_assignments(
    classes: np.ndarray, clusters: np.ndarray, *, n_clusters: int | None = None, seed: int = 0
) -> dict[str, float]:
    """Return every score of `SCORES`, and `accuracy_low` and `accuracy_high`, the 95 % interval of `accuracy_interval`.

    n_clusters: refuses clusters from this number on; it changes no score. Raises InputError without any known class.

    >>> scores = score_assignments(np.array([0, 0, 1, 1]), np.array([1, 1, 0, 0]))
    >>> scores["accuracy"], scores["accuracy_low"], sorted(scores)
    (1.0, 1.0, ['accuracy', 'accuracy_high', 'accuracy_low', 'ami', 'ari', 'nmi', 'purity'])
    """
    counts = confusion_counts(classes, clusters, n_clusters=n_clusters)
    found = {name: score(classes, clusters) for name, score in SCORES.items()}
    low, high = accuracy_interval(classes, clusters, match_counts(counts.T), seed=seed)
    return {**found, "accuracy_low": low, "accuracy_high": high}


def sample_scores(classes: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Return the scores of a sample that a training logs while it runs: `sample_accuracy` and `sample_nmi`.

    >>> sample_scores(np.array([0, 0, 1, -1]), np.array([0, 0, 0, 0]))
    {'sample_accuracy': 0.6666666666666666, 'sample_nmi': 0.0}
    """
    return {
        "sample_accuracy": float(clustering_accuracy(classes, clusters)),
        "sample_nmi": float(normalised_mutual_information(classes, clusters)),
    }


def accuracy_interval(
    classes: np.ndarray,
    clusters: np.ndarray,
    cluster_map: np.ndarray,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of the accuracy under a fixed map cluster -> class.

    Images are resampled; the clusters and the map stay. So it says how much the score depends on which images were
    scored, not how much it would change with another training run: for that, use several seeds. The number of right
    images in a resample is binomial, so it is drawn directly. At accuracy 0 or 1 the interval is a point.

    >>> accuracy_interval(np.array([0] * 90 + [1] * 10), np.zeros(100, int), np.array([0]))
    (0.84, 0.96)
    """
    _check_bootstrap(n_resamples, level)
    right = named_accuracy(classes, clusters, cluster_map=cluster_map)
    n = int((np.asarray(classes) >= 0).sum())
    return _interval(np.random.default_rng(seed).binomial(n, right, n_resamples) / n, level)


def bootstrap_interval(
    score: Score,
    classes: np.ndarray,
    clusters: np.ndarray,
    *,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (low, high) of any score; it resamples images of known class.

    `score` is computed afresh on each resample, so a score that matches clusters to classes matches them again.
    Resamples hold duplicates, which look like agreement: all scores here lean upwards where images are few per cluster.
    For accuracy use `accuracy_interval`, which takes no time.

    >>> bootstrap_interval(purity, np.array([0, 1] * 50), np.array([0, 1] * 50), n_resamples=20)
    (1.0, 1.0)
    """
    _check_bootstrap(n_resamples, level)
    classes, clusters = _known(classes, clusters)
    random = np.random.default_rng(seed)
    draws = (random.integers(len(classes), size=len(classes)) for _ in range(n_resamples))
    return _interval(np.array([score(classes[rows], clusters[rows]) for rows in draws]), level)


def confusion_counts(
    classes: np.ndarray, clusters: np.ndarray, *, n_classes: int | None = None, n_clusters: int | None = None
) -> np.ndarray:
    """Return (n_classes, n_clusters) int64: how many images of each class are in each cluster.

    n_classes, n_clusters: by default one more than the largest label. Raises InputError for labels beyond them.

    >>> confusion_counts(np.array([0, 1, 1, -1]), np.array([1, 0, 0, 0])).tolist()
    [[0, 1], [2, 0]]
    """
    classes, clusters = _known(classes, clusters)
    return count_table(
        classes,
        clusters,
        n_rows=int(classes.max()) + 1 if n_classes is None else n_classes,
        n_columns=int(clusters.max()) + 1 if n_clusters is None else n_clusters,
    )


def per_cluster_table(
    classes: np.ndarray | None,
    clusters: np.ndarray,
    *,
    n_clusters: int,
    confidences: np.ndarray | None = None,
    class_names: Sequence[str] | None = None,
) -> dict[str, np.ndarray]:
    """Return columns of (n_clusters,): `cluster`, `size`, and where given `confidence` and `class`, `known`, `purity`.

    confidence: the mean over the cluster's images. class: its most frequent class (name, or number without
    `class_names`; "" without a known image). known: how many of its images have a known class. purity: the share of
    `class` among those. Means over no image are NaN.

    >>> classes, clusters = np.array([0, 0, 1, -1]), np.array([0, 0, 0, 1])
    >>> table = per_cluster_table(classes, clusters, n_clusters=2, class_names=["cat", "dog"])
    >>> table["size"].tolist(), table["class"].tolist(), table["purity"].round(2).tolist()
    ([3, 1], ['cat', ''], [0.67, nan])
    """
    clusters = _clusters(clusters)
    size = count_table(clusters, np.zeros_like(clusters), n_rows=n_clusters, n_columns=1)[:, 0]
    table = {"cluster": np.arange(n_clusters), "size": size}
    if confidences is not None:
        table["confidence"] = _share(np.bincount(clusters, weights=confidences, minlength=n_clusters), size)
    if classes is None or not len(classes) or not (classes >= 0).any():
        return table
    names = class_names or [str(number) for number in range(int(classes.max()) + 1)]
    counts = confusion_counts(classes, clusters, n_classes=len(names), n_clusters=n_clusters)
    known, largest = counts.sum(0), counts.argmax(0)
    table["class"] = np.array([names[c] if k else "" for c, k in zip(largest, known, strict=True)], dtype=object)
    return {**table, "known": known, "purity": _share(counts.max(0), known)}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return part / whole as floats, NaN where the whole is 0."""
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def _known(classes: np.ndarray, clusters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return both lists for the images of known class; InputError if there are none or the lists do not fit."""
    classes, clusters = np.asarray(classes), _clusters(clusters)
    if classes.shape != clusters.shape:
        raise InputError(
            f"Classes and clusters must be lists of one length, got shapes {classes.shape} and {clusters.shape}."
        )
    known = classes >= 0
    if not known.any():
        raise InputError(f"Scores need images of known class, got none among {len(classes)}; give classes to score by.")
    return classes[known].astype(np.int64), clusters[known]


def _clusters(clusters: np.ndarray) -> np.ndarray:
    clusters = np.asarray(clusters)
    if clusters.ndim != 1 or (clusters.size and (clusters.dtype.kind not in "iu" or clusters.min() < 0)):
        raise InputError(
            f"Clusters must be a list of integers from 0, got {clusters.dtype} of shape {clusters.shape};"
            " take the argmax of assignments, and leave images without a cluster out."
        )
    return clusters.astype(np.int64)


def _mapped(clusters: np.ndarray, cluster_map: np.ndarray | None) -> np.ndarray:
    if cluster_map is None:
        return clusters
    if clusters.max() >= len(cluster_map):
        raise InputError(
            f"The map has {len(cluster_map)} clusters, but there is a cluster {clusters.max()}; use this run's map."
        )
    return np.asarray(cluster_map)[clusters]


def _check_bootstrap(n_resamples: int, level: float) -> None:
    if n_resamples < 1 or not 0 < level < 1:
        raise InputError(f"n_resamples must be at least 1 and level between 0 and 1, got {n_resamples} and {level}.")


def _interval(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
