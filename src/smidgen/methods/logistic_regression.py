"""Logistic regression on pixels or embeddings by scikit-learn: the first thing to try with some labels, a baseline.

Source: `sklearn.linear_model.LogisticRegression` on features standardised by all training images, labelled or not.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression as Fitted
from torch import Tensor

from smidgen.methods.base import Embed, EvidenceUse, Problem, Stage, Stepless
from smidgen.methods.labelled_images import labels_to_learn
from smidgen.options import Count, Options, Positive, option

_NEVER = -1e4
"""The logit of a class that no label names."""


@dataclass(frozen=True, eq=False)
class LogisticRegressionConfig(Options):
    """Settings of `logistic-regression`."""

    strength: Positive = option(1.0, "C, the inverse of the weight of the L2 penalty")
    max_iterations: Count = option(1000, "most iterations of the solver (L-BFGS)")


class LogisticRegression(Stepless):
    """See the module's docstring; clusters are the classes of the labels."""

    name = "logistic-regression"
    evidence_use = EvidenceUse(kinds=("labels",), needs_labels=True)

    mean: Tensor
    spread: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, config: LogisticRegressionConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem = config, problem
        features = int(np.prod(problem.shape))
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("spread", torch.ones(features))
        self.register_buffer("weight", torch.zeros(problem.n_clusters, features))
        self.register_buffer("bias", torch.zeros(problem.n_clusters))

    def stages(self) -> list[Stage]:
        """Return none; InputError where there are no labels."""
        labels_to_learn(self.problem, self.name)
        return []

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Standardise the features of all training images, and fit the labelled ones."""
        labels, labelled = labels_to_learn(self.problem, self.name)
        features = embed(lambda images: images.flatten(1)).numpy().astype(np.float64)
        mean, spread = features.mean(0), features.std(0)
        spread[spread <= 1e-9 * np.abs(mean)] = 1.0  # constant but for rounding
        spread[spread == 0] = 1.0
        self.mean.copy_(torch.from_numpy(mean))
        self.spread.copy_(torch.from_numpy(spread))
        weight, bias = self._fitted((features[labelled] - mean) / spread, labels)
        self.weight.copy_(torch.from_numpy(weight))
        self.bias.copy_(torch.from_numpy(bias))

    def _fitted(self, x: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (clusters, features) and bias (clusters,); x: (labelled, features), labels: (labelled,)."""
        weight, bias = np.zeros(self.weight.shape), np.full(len(self.bias), _NEVER)
        named = np.unique(labels)
        bias[named] = 0
        if len(named) == 1:
            return weight, bias
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a solution that is nearly there is one
            fitted = Fitted(C=self.config.strength, max_iter=self.config.max_iterations).fit(x, labels)
        rows = named[1:] if len(named) == 2 else named  # of two classes, only the second has weights
        weight[rows], bias[rows] = fitted.coef_, fitted.intercept_
        return weight, bias

    def encode(self, images: Tensor) -> Tensor:
        """Return the standardised features (batch, features)."""
        return (images.flatten(1) - self.mean) / self.spread

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class probabilities and standardised features."""
        features = self.encode(images)
        return (features @ self.weight.T + self.bias).softmax(1), features
