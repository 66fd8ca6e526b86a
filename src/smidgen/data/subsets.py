"""Parts of a dataset, for experiments: a random sample, and classes of unequal frequency."""

from __future__ import annotations

import numpy as np

from smidgen.data.datasets import Dataset
from smidgen.errors import InputError


def choose_images(train: Dataset, *, images: int | None, imbalance: float | None, seed: int) -> Dataset:
    """Return a part of a dataset, its images in their old order; the same part for the same arguments.

    imbalance: ratio of the first class's share of images kept to the last one's, ≥ 1: of K known classes class k keeps
    imbalance^(−k / (K − 1)) of its own, at least one; images of unknown class stay. images: how many of what is left
    to draw at random. None for all.
    Raises InputError if there are fewer images, or classes are wanted and none is known.

    >>> from smidgen.data.datasets import open_dataset
    >>> digits = choose_images(open_dataset("digits"), images=None, imbalance=10, seed=0)
    >>> np.bincount(digits.classes).tolist()
    [151, 125, 86, 61, 53, 43, 32, 23, 16, 14]
    """
    if imbalance is not None:
        train = train.subset(_unequal(train, imbalance, np.random.default_rng((seed, 0))))
    if images is None:
        return train
    if not 1 <= images <= len(train):
        raise InputError(f"`images` must be from 1 to {len(train)}, the training images there are, got {images}.")
    return train.subset(np.sort(np.random.default_rng((seed, 1)).choice(len(train), images, replace=False)))


def _unequal(train: Dataset, imbalance: float, generator: np.random.Generator) -> np.ndarray:
    """Return the rows of a part in which classes are of unequal size."""
    if not imbalance >= 1:
        raise InputError(f"`imbalance` must be 1 or above, got {imbalance}.")
    if train.classes is None:
        raise InputError("`imbalance` needs images whose classes are known.")
    present = np.unique(train.classes[train.classes >= 0])
    rows = [np.flatnonzero(train.classes < 0)]
    for rank, k in enumerate(present.tolist()):
        own = np.flatnonzero(train.classes == k)
        share = imbalance ** (-rank / max(1, len(present) - 1))
        rows.append(generator.permutation(own)[: max(1, round(share * len(own)))])
    return np.sort(np.concatenate(rows))
