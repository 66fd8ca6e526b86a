"""Sizes in `fusion-embeddings` that follow from the numbers of images, clusters and labels (measured: LAB.md)."""

from __future__ import annotations

import math

_LEAST_BATCH = 512
_LEAST_NEIGHBOURS, _MOST_NEIGHBOURS = 3, 10
_IMAGES_FOR_HEADS = 300  # per cluster


def neighbours_by_size(*, n_images: int, n_clusters: int) -> int:
    """Return the number of neighbours that features are moved towards: ten, or a fifth of smaller clusters, at least 3.

    Of few images, most of many neighbours would be of other clusters.

    >>> neighbours_by_size(n_images=50_000, n_clusters=10), neighbours_by_size(n_images=90, n_clusters=3)
    (10, 6)
    """
    wanted = max(_LEAST_NEIGHBOURS, n_images // (5 * n_clusters))
    return max(1, min(_MOST_NEIGHBOURS, wanted, n_images - 1))


def batch_by_size(most: int, *, n_images: int) -> int:
    """Return the images per step, at most `most`: a twentieth of all images, but 512.

    >>> batch_by_size(2048, n_images=1_000), batch_by_size(2048, n_images=50_000)
    (512, 2048)
    """
    return min(most, max(_LEAST_BATCH, n_images // 20))


def weight_of_heads(*, n_images: int, n_clusters: int, most: float = math.inf) -> float:
    """Return the weight of the heads' votes beside k-means and Ward's method, of weight 1: more with more images.

    most: the largest, for data on which linear heads do badly.

    >>> weight_of_heads(n_images=1_200, n_clusters=4), weight_of_heads(n_images=50_000, n_clusters=10)
    (1.0, 16.666666666666668)
    """
    return min(most, n_images / (_IMAGES_FOR_HEADS * n_clusters))


def member_weights(labels_per_class: float, *, clusters: float = 0.0) -> tuple[float, float, float, float]:
    """Return the weights of the members that learn from labels, before held-out labels say more (`label_pool`).

    They are a regression on spread features, one on plain features, Poisson learning, and the clusters without labels.
    With one label of each class the graph counts thrice and plain features say nothing. clusters: the last of them.

    >>> member_weights(1), member_weights(20)
    ((0.7, 0.0, 2.1, 0.0), (0.7, 0.19, 0.77, 0.0))
    """
    fewness = 1 / labels_per_class
    return 0.7, round(0.2 * (1 - fewness), 6), round(0.7 * (1 + 2 * fewness), 6), clusters
