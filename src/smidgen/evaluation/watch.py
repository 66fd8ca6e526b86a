"""A look at the clusters while they form: alarms for collapse, and scores where classes are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from smidgen.data.batches import seeded
from smidgen.evaluation.scores import clustering_accuracy, normalised_mutual_information
from smidgen.training.callbacks import Callback, Moment
from smidgen.training.loop import map_images

SAMPLE = 2000


def collapse_alarms(assignments: np.ndarray) -> list[str]:
    """Return what is wrong with assignments (n, clusters), in words with the remedy; an empty list if nothing is.

    >>> collapse_alarms(np.eye(3)[[0, 1, 2, 0]])
    []
    >>> collapse_alarms(np.full((4, 2), 0.5))[0]
    'Every image is equally likely in every cluster: nothing has been learned yet; ...'
    """
    n, n_clusters = assignments.shape
    rows = -(assignments * np.log(np.maximum(assignments, 1e-12))).sum(1).mean()
    if rows > 0.98 * math.log(n_clusters) > 0:
        return [
            "Every image is equally likely in every cluster: nothing has been learned yet; train longer or raise"
            " the learning rate."
        ]
    sizes = np.bincount(assignments.argmax(1), minlength=n_clusters)
    if n_clusters > 1 and sizes.max() == n:
        return ["All images are in one cluster: raise `balance` or lower the learning rate."]
    alarms = []
    if n_clusters > 2 and sizes.max() > n / 2:
        alarms.append(
            f"Cluster {sizes.argmax()} holds {sizes.max() / n:.0%} of the images: ask for more clusters, or"
            " raise `balance` if the classes are of equal size."
        )
    if n >= 20 * n_clusters and sizes.min() == 0:
        empty = np.flatnonzero(sizes == 0)
        alarms.append(
            f"{len(empty)} of {n_clusters} clusters are empty ({', '.join(map(str, empty[:5]))}): ask for"
            " fewer clusters or train longer."
        )
    return alarms


class Watch(Callback):
    """Assigns a fixed sample of the training images every so often, for the log.

    Adds `alarms` (texts) where something is wrong after the first fifth of a stage, and `sample_accuracy` and
    `sample_nmi` where classes are known; these are looked at by people only.
    """

    def __init__(
        self, images: np.ndarray, classes: np.ndarray | None, *, seed: int, device: torch.device, every: int = 100
    ) -> None:
        order = torch.randperm(len(images), generator=seeded(seed, "watch"))[:SAMPLE].sort().values.numpy()
        if classes is not None and (classes[order] < 0).all():
            classes = None
        self._images, self._classes = images[order], None if classes is None else classes[order]
        self._device, self._every = device, every

    def after_step(self, moment: Moment) -> None:
        """Look, if it is time to."""
        if moment.step % self._every and moment.step != moment.stage.steps:
            return
        method = moment.method
        assignments = map_images(method.assign, self._images, method=method, device=self._device).numpy()
        moment.extras.update(self._scores(assignments.argmax(1), assignments.shape[1]))
        alarms = collapse_alarms(assignments)
        if alarms and moment.step > moment.stage.steps / 5:
            moment.extras["alarms"] = alarms

    def _scores(self, clusters: np.ndarray, n_clusters: int) -> dict[str, Any]:
        if self._classes is None:
            return {}
        return {
            "sample_accuracy": float(clustering_accuracy(self._classes, clusters)),
            "sample_nmi": float(normalised_mutual_information(self._classes, clusters)),
        }
