"""Confidence made honest: the temperature at which a model's mean confidence is what agreement and labels measure.

Where nothing is known of the classes two things can be measured: how often an image's neighbours are of its cluster,
and how often clusterings that see half of the features each would put it into the same one. Clusters that are stable
and yet not the classes cannot be told from them: this is membership, not correctness. With labels it is the likelihood
of assignments that were made without them that decides; with counts or proportions of bags it is the likelihood of what
these say of images, under a net that has not learned from them. Measured on training images of seven small collections
and on MNIST (LAB.md): nets that learn on pixels without labels, and classifiers weighted by held-out labels, are best
left as they are.
"""

from __future__ import annotations

from collections.abc import Set

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.evaluation.out_of_fold import Unseen, held_out
from smidgen.evidence.bag_labels import labels_given_bags, sets_of_counts
from smidgen.evidence.resolved import Resolved
from smidgen.maths.kmeans import kmeans
from smidgen.maths.matching import count_table, match_counts
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.pca import fit_pca
from smidgen.maths.temperature import fitted_temperature, temperature_for
from smidgen.methods.base import Method
from smidgen.nets.spread_features import metric_of

NEIGHBOURS = 10
LEAST_LABELS = 5
"""Labels per class from which on their likelihood corrects the temperature."""

FEWEST = 20
"""Images below which nothing is measured."""

BAG_KINDS = {"counts", "proportions"}
"""What says of images in bags what they are likely to be."""

_HELD_OUT = 4  # one image in so many
_ASKED = 2000  # images whose neighbours are asked
_CLUSTERED, _PER_CLUSTER = 1000, 20  # images in a clustering, at least so many per cluster
_COMPONENTS, _SPLITS, _LEAST_FEATURES = 32, 2, 16
_FARTHEST = 4.0  # agreement alone moves T from 1/4 to 4: where all agree, any small T would do
_MEASURED = 20_000  # images whose mean confidence is taken
_HARD = 1 - 1e-6  # assignments above this say nothing of how sure they are


def temperature_of(
    method: Method,
    images: np.ndarray,
    assignments: np.ndarray,
    embeddings: np.ndarray,
    *,
    kinds: Set[str],
    unseen: Unseen | None = None,
    seed: int = 0,
) -> float:
    """Return the temperature of a trained method's assignments; 1 where bags are read from them as they are.

    images: (n, …), the training images or vectors as the method sees them; assignments, embeddings: what it makes of
    them. kinds: of evidence that it has learned from. unseen: what is said out of fold.
    """
    if method.bag_heads() is not None or method.is_calibrated:
        return 1.0
    if not kinds and method.problem.holds_vectors:  # a net brings together what it takes for alike: its own agree
        return temperature_of_clusters(assignments, embeddings, features=images, seed=seed)
    evidence = method.problem.evidence
    known = evidence.labels[evidence.labels >= 0]
    if "labels" in kinds and unseen is not None and len(known) >= LEAST_LABELS * len(known.unique()):
        return temperature_of_labels(assignments, unseen.of_others, evidence.labels)
    if BAG_KINDS & kinds and method.problem.holds_vectors:
        return temperature_of_bags(assignments, evidence, features=images, seed=seed)
    return 1.0


def temperature_of_clusters(
    assignments: np.ndarray, embeddings: np.ndarray, *, features: np.ndarray, seed: int = 0
) -> float:
    """Return T, ¼ to 4, at which mean confidence is the agreement of neighbours times that of clusterings.

    assignments: (images, clusters) of the training images, rows sum to one; for hard ones T is 1. embeddings: (images,
    d), in which neighbours are found. features: (images, f), half of which each clustering sees.
    """
    n, n_clusters = assignments.shape
    if _says_nothing(assignments):
        return 1.0
    rng, clusters = np.random.default_rng(seed), assignments.argmax(1)
    agreement = neighbour_agreement(embeddings, clusters, rng)
    agreement *= agreement_of_halves(features, clusters, n_clusters=n_clusters, rng=rng)
    p = torch.from_numpy(assignments[_some(n, _MEASURED, rng)]).float()
    found = temperature_for(p, max(agreement, 1.1 / n_clusters))
    return min(max(found, 1 / _FARTHEST), _FARTHEST)


def temperature_of_labels(assignments: np.ndarray, held_out: np.ndarray, labels: Tensor) -> float:
    """Return T, at least 1, by the likelihood of labels under assignments of their images that were made without them.

    Those who imitate a model near a labelled image repeat what the label taught it: they may make it less sure only.
    assignments: (images, clusters) of the training images, rows sum to one; for hard ones T is 1. held_out: (images,
    clusters), of models that imitate them and were not shown the labels. labels: (images,) int64, -1 unknown.
    """
    if _says_nothing(assignments):
        return 1.0
    known = labels >= 0
    return max(1.0, fitted_temperature(torch.from_numpy(held_out).float()[known], labels[known], start=1.0))


def temperature_of_bags(assignments: np.ndarray, evidence: Resolved, *, features: np.ndarray, seed: int = 0) -> float:
    """Return T, at least 1, by what bags with counts or proportions say of images that a net has not learned from.

    Given their bags, assignments are right far more often than without (on seven small sets .97 … 1.00 against .74 …
    .98): the likeliest class of each image is its label here. A net learns the labels of three quarters of the images
    and is as sure of the others as the model is of new images; T is what makes it right as often as it says.

    assignments: (images, clusters) of the training images, rows sum to one. features: (images, f).
    """
    n_clusters = assignments.shape[1]
    p = torch.from_numpy(assignments).float()
    q, in_bags = labels_given_bags(evidence, p, sets=sets_of_counts(evidence, n_clusters))
    rows = in_bags.nonzero().flatten().numpy()
    if len(rows) < FEWEST or n_clusters < 2:
        return 1.0
    labels = q.argmax(1)
    asked, learned = np.split(np.random.default_rng(seed).permutation(rows), [len(rows) // _HELD_OUT])
    said = held_out(features, labels.numpy(), n_clusters=n_clusters, learned=learned, asked=asked, seed=seed)
    return max(1.0, fitted_temperature(torch.from_numpy(said).float(), labels[asked], start=1.0))


def _says_nothing(assignments: np.ndarray) -> bool:
    n, n_clusters = assignments.shape
    return n < FEWEST or n_clusters < 2 or float(np.median(assignments.max(1))) > _HARD


def neighbour_agreement(embeddings: np.ndarray, clusters: np.ndarray, rng: np.random.Generator) -> float:
    """Return how often one of an image's ten nearest neighbours is of its cluster, 0 to 1.

    embeddings: (images, d), two at least. clusters: (images,).
    """
    n = len(embeddings)
    rows, wanted = _some(n, _ASKED, rng), min(NEIGHBOURS, n - 1)
    points = torch.from_numpy(embeddings).float()
    near = nearest_neighbours(points, wanted + 1, queries=points[rows], metric=metric_of(points))[0].numpy()
    other = near != rows[:, None]  # an image is nearest to itself, or to its copy
    return float((clusters[near] == clusters[rows, None])[other].mean())


def agreement_of_halves(
    features: np.ndarray, clusters: np.ndarray, *, n_clusters: int, rng: np.random.Generator
) -> float:
    """Return how many images k-means on random halves of the features puts into the same cluster, matched, 0 to 1.

    features: (images, f); of fewer than 16 halves say little, and it is 1. clusters: (images,).
    """
    if features.shape[1] < _LEAST_FEATURES or len(features) < 2 * n_clusters:
        return 1.0
    rows = np.sort(_some(len(features), max(_CLUSTERED, _PER_CLUSTER * n_clusters), rng))
    x, own = features[rows].astype(np.float32), clusters[rows]
    x = (x - x.mean(0)) / np.maximum(x.std(0), 1e-6)
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    found = []
    for _ in range(_SPLITS):
        for columns in np.array_split(rng.permutation(x.shape[1]), 2):
            labels = _clustered(torch.from_numpy(x[:, columns]), n_clusters, generator).numpy()
            table = count_table(labels, own, n_rows=n_clusters, n_columns=n_clusters)
            found.append(table[np.arange(n_clusters), match_counts(table)].sum() / len(own))
    return float(np.mean(found))


def _clustered(x: Tensor, n_clusters: int, generator: torch.Generator) -> Tensor:
    projected = fit_pca(x, min(_COMPONENTS, *x.shape)).transform(x)
    return kmeans(F.normalize(projected, dim=1), n_clusters, n_init=2, generator=generator).labels


def _some(n: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Return rows drawn without order, all where there are few."""
    return np.arange(n) if n <= size else rng.choice(n, size, replace=False)
