"""Labels from bags whose images are all of one class."""

from __future__ import annotations

import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor
from torch.nn import functional as F

from smidgen.evidence.resolved import Resolved
from smidgen.maths.matching import match_counts

LEAST_RIGHT = 0.5
"""The probability of a right count above which a bag is taken for one of a single class."""

LEAST_PURE = 3
"""Bags of one class per cluster from which on bags are clustered by their means."""


def labels_of_pure_bags(
    evidence: Resolved, features: Tensor, assignments: Tensor, *, right: Tensor | None = None
) -> Tensor:
    """Return the clusters (images,) int64 of the images in bags with a unique class count of one, -1 for all others.

    features: (images, d). assignments: (images, clusters), to which the classes of the bags are matched. right:
    (counts,), the probability that each count is right, None for 1; bags whose count is rather wrong are left out.

    The mean of some twenty embeddings lies far closer to its class than one does, and Ward's method finds the classes
    among such means where k-means mostly does not. Fewer than three such bags per cluster give no labels.
    """
    n_clusters, found = assignments.shape[1], torch.full((len(features),), -1)
    pure = (evidence.counts_max == 1) & (evidence.bag_sizes[evidence.count_bags] > 1)
    if right is not None:
        pure &= right.cpu() > LEAST_RIGHT
    pure = evidence.count_bags[pure]
    if len(pure) < LEAST_PURE * n_clusters:
        return found
    members = [evidence.members[evidence.offsets[bag] : evidence.offsets[bag + 1]] for bag in pure.tolist()]
    unit, start = F.normalize(features, dim=1).cpu(), assignments.cpu().double()
    means = torch.stack([unit[rows].mean(0) for rows in members]).double()
    merged = AgglomerativeClustering(n_clusters, linkage="ward").fit_predict(means.numpy()).tolist()
    votes = torch.zeros(n_clusters, n_clusters, dtype=torch.float64)
    for label, rows in zip(merged, members, strict=True):
        votes[label] += start[rows].mean(0)
    cluster = match_counts(votes.numpy())
    for label, rows in zip(merged, members, strict=True):
        found[rows] = int(cluster[label])
    return found
