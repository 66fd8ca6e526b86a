"""Scores of UCC and RCC: counts and proportions of bags, how far classes lie apart, spectral clustering of features.

The names that begin with `report_` are the RCC report's own definitions (docs/methods.md §2), for comparison with its
figures only: they are off by a factor that the docstrings name.
"""

from __future__ import annotations

import warnings

import numpy as np

from smidgen.errors import InputError
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.simulation import Simulation, draw_bags

SPECTRAL_CAP = 10_000
"""The most images that are clustered spectrally: time and memory grow faster than their number."""


def balanced_bags(
    classes: np.ndarray,
    *,
    ucc: tuple[int, int],
    bag_size: int | tuple[int, int],
    n_bags: int,
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return test bags as (rows, offsets, counts): the same number of bags of each count, evenly split as in the paper.

    classes: (n,) int64, -1 unknown. rows: images of all bags one after the other; offsets: (bags + 1,); counts:
    (bags,), the number of different classes in each bag. Raises InputError for more classes in a bag than there are.

    >>> rows, offsets, counts = balanced_bags(np.arange(20) % 2, ucc=(1, 2), bag_size=4, n_bags=6,
    ...     generator=np.random.default_rng(0))
    >>> offsets.tolist(), sorted(counts.tolist())
    ([0, 4, 8, 12, 16, 20, 24], [1, 1, 1, 2, 2, 2])
    """
    settings = Simulation(n_bags=n_bags, ucc=ucc, bag_size=bag_size, short="replace")
    bags = draw_bags(settings, np.asarray(classes), generator, [])
    counts = np.array([len(np.unique(classes[bag])) for bag in bags])
    return np.concatenate(bags), np.cumsum([0, *map(len, bags)]), counts


def ucc_accuracy(counts: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of bags whose unique class count is right; the paper's on as many bags of each count.

    counts, predicted: (bags,) integers.

    >>> ucc_accuracy(np.array([1, 2, 3, 4]), np.array([1, 2, 3, 3]))
    0.75
    """
    counts, predicted = _same_shape(counts, predicted, ndim=1)
    return float((counts == predicted).mean())


def proportion_error(shares: np.ndarray, predicted: np.ndarray) -> float:
    """Return the mean over bags of ½ Σ_k |π_k − π̂_k|, in [0, 1]: the share of images counted to a wrong class.

    shares, predicted: (bags, classes), rows of `shares` sum to one.

    >>> proportion_error(np.array([[0.5, 0.5], [1.0, 0.0]]), np.array([[0.25, 0.75], [1.0, 0.0]]))
    0.125
    """
    shares, predicted = _same_shape(shares, predicted, ndim=2)
    return float(np.abs(shares - predicted).sum(1).mean() / 2)


def class_count_accuracy(counts: np.ndarray, predicted: np.ndarray) -> float:
    """Return the share of entries (bag, class) whose count is right once rounded, in [0, 1].

    counts: (bags, classes) integers. predicted: (bags, classes), whole or not. Most entries are 0 where bags hold few
    of the classes: predicting no image at all already has their share.

    >>> class_count_accuracy(np.array([[36, 0], [18, 18]]), np.array([[35.6, 0.2], [17.1, 18.9]]))
    0.5
    """
    counts, predicted = _same_shape(counts, predicted, ndim=2)
    return float((counts == np.rint(predicted)).mean())


def report_class_count_accuracy(counts: np.ndarray, predicted: np.ndarray) -> float:
    """Return the RCC report's "RCC accuracy": right entries of a bag divided by its size instead of by the classes.

    For bags of 36 and ten classes it ends at 10 / 36 = .278; `class_count_accuracy` is the right one.

    >>> round(report_class_count_accuracy(np.eye(10) * 36, np.eye(10) * 36), 3)
    0.278
    """
    counts, predicted = _same_shape(counts, predicted, ndim=2)
    return float(((counts == np.rint(predicted)).sum(1) / counts.sum(1)).mean())


def class_densities(
    features: np.ndarray, classes: np.ndarray, *, n_classes: int, points: np.ndarray, bandwidth: float
) -> np.ndarray:
    """Return (classes, features, points): the density of each feature over all images of a class, sums of one.

    features: (n, J), within the points' range. classes: (n,) int64, -1 unknown (left out); NaN for a class of no image.
    points, bandwidth: those of the model, so that what is compared is what it sees.
    """
    import torch

    from smidgen.maths.kde import feature_densities

    found = feature_densities(
        torch.from_numpy(np.asarray(features, dtype=np.float32)),
        torch.from_numpy(np.asarray(classes, dtype=np.int64)),
        torch.from_numpy(np.asarray(points, dtype=np.float32)),
        bandwidth=bandwidth,
        n_groups=n_classes,
    )
    return found.numpy()


def spectral_accuracy(
    features: np.ndarray, classes: np.ndarray, *, n_clusters: int, sample: int = SPECTRAL_CAP, seed: int = 0
) -> tuple[float, int]:
    """Return the clustering accuracy of spectral clustering on features, and of how many images it is.

    Nearest-neighbour affinity (10 neighbours), k-means in the spectral space; scikit-learn's. Where many features
    coincide, as a softmax's do in its corners, the graph falls into pieces, and so may the clusters. Of more than
    `sample` images of known class a random sample is clustered and scored; of as many as clusters each is a cluster of
    its own. Raises InputError for fewer images than clusters.

    >>> spectral_accuracy(np.eye(3), np.array([0, 1, 1]), n_clusters=3)
    (0.6666666666666666, 3)
    """
    from sklearn.cluster import SpectralClustering

    known = np.flatnonzero(np.asarray(classes) >= 0)
    if len(known) > sample:
        known = np.sort(np.random.default_rng(seed).choice(known, sample, replace=False))
    if len(known) < max(2, n_clusters):
        raise InputError(f"{n_clusters} clusters were wanted of {len(known)} images of known class: give more images.")
    if len(known) == n_clusters:  # there is no smaller space to cluster in
        return clustering_accuracy(np.asarray(classes)[known], np.arange(n_clusters)), n_clusters
    model = SpectralClustering(
        n_clusters, affinity="nearest_neighbors", n_neighbors=min(10, len(known)), random_state=seed
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Graph is not fully connected")  # clusters that lie apart: so be it
        warnings.filterwarnings("ignore", message="The spectral clustering API")  # of as many features as images
        clusters = model.fit_predict(np.asarray(features)[known].astype(np.float64))
    return clustering_accuracy(np.asarray(classes)[known], clusters), len(known)


def _same_shape(given: np.ndarray, predicted: np.ndarray, *, ndim: int) -> tuple[np.ndarray, np.ndarray]:
    given, predicted = np.asarray(given), np.asarray(predicted)
    if given.shape != predicted.shape or given.ndim != ndim or not len(given):
        what = "(bags,)" if ndim == 1 else "(bags, classes)"
        raise InputError(f"Both must be of one shape {what} of a bag or more, got {given.shape}, {predicted.shape}.")
    return given, predicted
