"""What is known of some points says of cuts into clusters: how well each cut agrees with labels, pairs and counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist, squareform

from smidgen.maths.cluster_count import DIMENSIONS, SAMPLE, nearest, refined_cut, silhouette
from smidgen.maths.matching import count_table

_GROUPS_PER_CLUSTER = 3
LEAST_GROUPS = 12
"""Groups of one class each, from which on their means say how many classes there are."""


def cuts_of_all(
    points: np.ndarray, sample: np.ndarray, n_clusters: Sequence[int] | np.ndarray, *, seed: int
) -> Iterator[np.ndarray]:
    """Yield the labels (cuts, n) of all points by the cuts of one sample's tree, for each of `DIMENSIONS`.

    points: (n, features), whose clusters are wanted. sample: (m, features), of which at most 2,000 make the tree.
    """
    generator = np.random.default_rng(seed)
    some = sample[generator.permutation(len(sample))[:SAMPLE]].astype(np.float32)
    for d in sorted({min(d, points.shape[1]) for d in DIMENSIONS}):
        own = np.ascontiguousarray(some[:, :d])
        tree = linkage(pdist(own), "ward")
        centroids = [refined_cut(own, tree, int(k))[1] for k in n_clusters]
        yield np.array([nearest(np.ascontiguousarray(points[:, :d], dtype=np.float32), c) for c in centroids])


def label_agreement(labels: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the share of labelled points whose cluster is matched one to one to their class, (cuts,).

    labels: (n,) integers from 0. cuts: (cuts, n).

    >>> label_agreement(np.array([0, 0, 1, 1]), np.array([[0, 0, 0, 0], [0, 0, 1, 1], [0, 1, 2, 3]])).tolist()
    [0.5, 1.0, 0.5]
    """
    _, classes = np.unique(labels, return_inverse=True)
    found = []
    for cut in cuts:
        table = count_table(classes, cut, n_rows=int(classes.max()) + 1, n_columns=int(cut.max()) + 1)
        found.append(table[linear_sum_assignment(table, maximize=True)].sum() / len(classes))
    return np.array(found)


def pair_agreement(pairs: np.ndarray, same: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return how many pairs lie as they are said to, (cuts,): the mean of the shares of either kind.

    pairs: (pairs, 2) columns of cuts. same: (pairs,) bool. cuts: (cuts, n).

    >>> pair_agreement(np.array([[0, 1], [0, 2]]), np.array([True, False]), np.array([[0, 0, 0], [0, 0, 1]])).tolist()
    [0.5, 1.0]
    """
    together = cuts[:, pairs[:, 0]] == cuts[:, pairs[:, 1]]
    shares = [(together[:, same == kind] == kind).mean(1) for kind in (True, False) if (same == kind).any()]
    return np.mean(shares, axis=0)


def count_agreement(bags: Sequence[np.ndarray], counts: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Return the share of the variance of counts that the clusters in bags explain, (cuts,); 0 where none is there.

    bags: columns of cuts. counts: (bags,), how many classes each holds. The number of clusters in a bag is counted as
    the exponential of the entropy of their shares, so that single images astray count for little.
    """
    found = np.zeros(len(cuts))
    for i, cut in enumerate(cuts):
        seen = np.array([_effective(cut[bag]) for bag in bags])
        if seen.std() > 1e-9 and counts.std() > 0:
            found[i] = max(0.0, np.corrcoef(seen, counts)[0, 1]) ** 2
    return found


def _effective(clusters: np.ndarray) -> float:
    shares = np.unique(clusters, return_counts=True)[1] / len(clusters)
    return float(np.exp(-(shares * np.log(shares)).sum()))


def group_silhouettes(means: np.ndarray, n_clusters: Sequence[int] | np.ndarray) -> np.ndarray:
    """Return the silhouettes of cuts of the means of groups, each of which is of one class, (cuts,).

    means: (groups, features), principal components of points by falling variance. The mean of many images of one class
    lies near that of the class, so that classes are apart which single images hide. Cuts into more clusters than a
    third of the groups have the value of that.
    """
    dimensions = sorted({min(d, means.shape[1]) for d in (6, 12, 32)})
    total = np.zeros(len(n_clusters))
    for d in dimensions:
        pairs = pdist(means[:, :d])
        tree, distances = linkage(pairs, "ward"), squareform(pairs).astype(np.float32)
        most = max(2, len(means) // _GROUPS_PER_CLUSTER)
        ends = np.minimum(np.asarray(n_clusters), most)
        values = {k: silhouette(distances, _without_gaps(fcluster(tree, k, "maxclust"))) for k in set(ends.tolist())}
        total += [values[k] for k in ends.tolist()]
    return total / len(dimensions)


def _without_gaps(labels: np.ndarray) -> np.ndarray:
    return np.unique(labels, return_inverse=True)[1]
