"""Online evaluation: assignments of a sample during training, and scores where classes are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from smidgen.data.batches import seeded
from smidgen.methods.base import Stage
from smidgen.training.callbacks import Callback, Moment
from smidgen.training.contract import check_assignments
from smidgen.training.embed import map_images

Score = Callable[[np.ndarray, np.ndarray], Mapping[str, float]]

SAMPLE = 2000
MOST_EVALUATIONS = 20
"""Evaluations per stage, at most: with a large net, one takes as long as many steps."""


class OnlineEval(Callback):
    """Assigns a fixed sample of the training images at regular intervals.

    The assignments go into the moment, for later callbacks (`Diagnostics`); where classes are known, scores go into the
    log. Nothing in training depends on them.

    classes: of the images, (n,), -1 where unknown. score: returns named scores of (classes, clusters).
    """

    def __init__(
        self,
        images: np.ndarray,
        classes: np.ndarray | None,
        *,
        score: Score,
        seed: int,
        device: torch.device,
        every: int = 100,
    ) -> None:
        order = torch.randperm(len(images), generator=seeded(seed, "watch"))[:SAMPLE].sort().values.numpy()
        if classes is not None and (classes[order] < 0).all():
            classes = None
        self._images, self._classes = images[order], None if classes is None else classes[order]
        self._score, self._device, self._every = score, device, every

    def wants_to_see(self, stage: Stage, step: int) -> bool:
        """Return whether this step is evaluated; no step of a stage without meaningful assignments is."""
        is_time = step % max(self._every, stage.steps // MOST_EVALUATIONS) == 0 or step == stage.steps
        return stage.assigns and is_time

    def after_step(self, moment: Moment) -> None:
        """Evaluate, if it is time to."""
        if not self.wants_to_see(moment.stage, moment.step):
            return
        method = moment.method
        assignments = map_images(method.assign, self._images, method=method, device=self._device).numpy()
        moment.assignments = check_assignments(method, assignments)
        if self._classes is not None:
            moment.extras.update(self._score(self._classes, assignments.argmax(1)))
