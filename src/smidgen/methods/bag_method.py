"""What UCC and RCC do alike as methods: bags in, features and clusters out."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.data.batches import Request
from smidgen.methods.bag_learner import BagLearner
from smidgen.methods.bag_tables import bag_tables
from smidgen.methods.base import Embed, Method


class BagMethod(Method):
    """What UCC and RCC do alike: all of it is their learner's."""

    training_only = ("learner.source.", "learner.recent")
    wants_classes = True
    counts_classes = False
    """Whether a head of its own tells how many images of each class a bag holds."""

    learner: BagLearner

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Shuffle the walk through tuples of classes."""
        self.learner.source.begin(generator)

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Ask for bags, of the evidence or fresh."""
        return self.learner.request(stage, step, generator, progress=progress)

    def after_step(self, stage: str, step: int) -> None:
        """Cluster the latest features now and then."""
        steps = self.config.warmup_steps if stage == "warmup" else self.config.steps
        self.learner.follow(step, steps=steps)

    @property
    def uninformed(self) -> Mapping[str, float]:
        """What the loss of the unique count is for a head that does not look at the bags."""
        return self.learner.uninformed

    @property
    def draws_bags_from(self) -> tuple[str, ...]:
        """The labels, where there is no bag in the evidence."""
        return self.learner.draws_bags_from

    @property
    def remarks(self) -> tuple[str, ...]:
        """Say so where classes are too small for the bags."""
        return (self.learner.source.repeats,) if self.learner.source.repeats else ()

    @property
    def backbone(self) -> nn.Module:
        """The encoder, before the features."""
        return self.learner.net.encoder

    def start_from(self, other: Method) -> None:
        """Take another method's encoder, and what else of it fits: see `BagLearner.take_from`."""
        super().start_from(other)
        self.learner.take_from(other)

    def encode(self, images: Tensor) -> Tensor:
        """Return the J features (batch, J)."""
        return self.learner.net(images)

    def assign(self, images: Tensor) -> Tensor:
        """Return assignments (batch, clusters) by distance from the centroids; the nearest is the likeliest."""
        return self.learner.clusters(self.encode(images))

    def look(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and features."""
        features = self.encode(images)
        return self.learner.clusters(features), features

    def count_probabilities(self, features: Tensor, offsets: Tensor) -> Tensor:
        """Return P(count = 1 … clusters), (bags, clusters), of bags of images with features (images, J)."""
        return self.learner.count_probabilities(features, offsets)

    def tables(self, embed: Embed) -> dict[str, dict[str, np.ndarray]]:
        """Return densities of features, divergences between clusters, counts of bags, and decoded images."""
        return bag_tables(self.learner, embed, embed(self.assign).argmax(1))
