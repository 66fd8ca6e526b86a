"""The problem given to a method: shapes, statistics and evidence of the training images."""

from __future__ import annotations

import math

import numpy as np

from smidgen.config import Config
from smidgen.data.datasets import Dataset
from smidgen.data.shapes import is_vector
from smidgen.evidence.resolved import Resolved
from smidgen.methods.base import Problem
from smidgen.setup.clusters import number_to_plan_with


def make_problem(config: Config, train: Dataset, evidence: Resolved) -> Problem:
    """Return the problem: what a method may know of the training set."""
    mean, std = _channel_statistics(train.images)
    return Problem(
        n_images=len(train),
        shape=train.shape,
        n_clusters=number_to_plan_with(config, train, evidence),
        mean=mean,
        std=std,
        evidence=evidence,
    )


def _channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel in [0, 1], exactly and without a float copy of the images.

    Of ready embeddings: per feature, as they are.
    """
    if is_vector(images.shape[1:]):
        if images.strides[0] == 0:
            images = images[:1]  # zeros that stand for embeddings
        means = images.mean(0, dtype=np.float64)
        blocks = (images[start : start + 1024] - means for start in range(0, len(images), 1024))
        variances = sum((block**2).sum(0) for block in blocks) / len(images)
        return tuple(means.tolist()), tuple(np.sqrt(variances).tolist())
    counts = np.zeros((images.shape[1], 256))
    for start in range(0, len(images), 1024):
        for c in range(images.shape[1]):
            counts[c] += np.bincount(images[start : start + 1024, c].ravel(), minlength=256)
    values, shares = np.arange(256) / 255, counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    variance = (shares * (values - mean[:, None]) ** 2).sum(1)
    return tuple(float(m) for m in mean), tuple(math.sqrt(v) for v in variance)
