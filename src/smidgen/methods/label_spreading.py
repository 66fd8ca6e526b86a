"""Label spreading over the nearest neighbours of pixels or embeddings by scikit-learn: a baseline for few labels.

Source: Zhou et al., "Learning with local and global consistency" (2004), as `sklearn.semi_supervised.LabelSpreading`
on rows of unit length; a new image has the mean of its nearest training images' classes.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from msgspec import Meta
from sklearn.exceptions import ConvergenceWarning
from sklearn.semi_supervised import LabelSpreading as Fitted
from torch import Tensor

from smidgen.maths.scaling import unit_rows
from smidgen.methods.base import Embed, EvidenceUse, Problem, Stage, Stepless
from smidgen.methods.labelled_images import labels_to_learn
from smidgen.options import Count, Options, option


@dataclass(frozen=True, eq=False)
class LabelSpreadingConfig(Options):
    """Settings of `label-spreading`."""

    neighbours: Count = option(10, "nearest images that an image takes its class from")
    alpha: Annotated[float, Meta(gt=0, lt=1)] = option(0.2, "α, how much an image's own label gives way to them")
    max_iterations: Count = option(100, "most rounds of spreading")


class LabelSpreading(Stepless):
    """See the module's docstring; clusters are the classes of the labels.

    Its model holds the features of all training images, which new ones are compared with.
    """

    name = "label-spreading"
    evidence_use = EvidenceUse(kinds=("labels",), needs_labels=True)

    points: Tensor
    classes: Tensor

    def __init__(self, config: LabelSpreadingConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem = config, problem
        self.register_buffer("points", torch.zeros(problem.n_images, int(np.prod(problem.shape))))
        self.register_buffer("classes", torch.full((problem.n_images, problem.n_clusters), 1 / problem.n_clusters))

    def stages(self) -> list[Stage]:
        """Return none; InputError where there are no labels."""
        labels_to_learn(self.problem, self.name)
        return []

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Spread the labels over the graph of the training images' nearest neighbours."""
        labels, labelled = labels_to_learn(self.problem, self.name)
        points = embed()
        known = np.full(len(points), -1)
        known[labelled] = labels
        self.points = points.to(self.points.device)
        self.classes = torch.from_numpy(self._spread(points.numpy(), known)).to(self.classes)

    def _spread(self, points: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Return each training image's classes (images, clusters); images that no label reaches have all alike."""
        fitted = Fitted(
            kernel="knn", n_neighbors=self._neighbours, alpha=self.config.alpha, max_iter=self.config.max_iterations
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            warnings.simplefilter("ignore", RuntimeWarning)  # 0 / 0 where no label reaches
            fitted.fit(points, labels)
        classes = np.zeros(self.classes.shape)
        classes[:, fitted.classes_] = np.nan_to_num(fitted.label_distributions_)
        classes[classes.sum(1) == 0] = 1 / self.problem.n_clusters
        return classes / classes.sum(1, keepdims=True)

    @property
    def _neighbours(self) -> int:
        return min(self.config.neighbours, len(self.points))  # a saved model does not know how many images there were

    def encode(self, images: Tensor) -> Tensor:
        """Return features of unit length (batch, features)."""
        return unit_rows(images.flatten(1))

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes and features of unit length."""
        features = self.encode(images)
        nearest = (features @ self.points.T).topk(self._neighbours).indices
        return self.classes[nearest].mean(1), features
