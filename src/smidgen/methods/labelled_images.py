"""The labelled training images of a method that needs some."""

from __future__ import annotations

import numpy as np

from smidgen.errors import InputError
from smidgen.methods.base import Problem


def labels_to_learn(problem: Problem, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the labels (labelled,) and the rows (labelled,) of the training images that have one; InputError if none.

    method: its name, for the sentence.
    """
    labels = problem.evidence.labels.cpu().numpy()
    rows = np.flatnonzero(labels >= 0)
    if not len(rows):
        raise InputError(
            f"`{method}` needs labels, and no training image has one: give --labels, or data with classes and no"
            " evidence (`fusion` learns from every kind)."
        )
    return labels[rows], rows
