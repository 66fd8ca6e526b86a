"""Cross-entropy on labels, nothing else: the upper bound that every other method is measured against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import View
from smidgen.methods.base import EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.labelled_images import labels_to_learn
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoders import make_encoder
from smidgen.nets.heads import LinearHeads
from smidgen.options import Count, CountOrZero, Options, Several, Weight, option

PRETRAINED_RATE = 0.1
"""Factor on the learning rate of a pretrained encoder."""


@dataclass(frozen=True, eq=False)
class SupervisedConfig(Options):
    """Settings of `supervised`."""

    encoder: EncoderOption = option("conv", "the encoder, see `smidgen list encoders`")
    steps: Count = option(1500, "optimiser steps")
    batch_size: Several = option(256, "images per step")
    learning_rate: Weight = option(2e-3, "of AdamW, at its peak")
    encoder_rate: Weight | None = option(
        None, "factor on the learning rate of the encoder; none is 1, and 0.1 where it is a pretrained one"
    )
    frozen_stages: CountOrZero | None = option(
        None, "number of first stages of a pretrained encoder that are frozen; none is all but the last two"
    )
    weight_decay: Weight = option(1e-2, "of AdamW")
    augment: bool = option(True, "augment images by random views")


class Supervised(Method):
    """See the module's docstring; clusters are the classes of the evidence, in its order."""

    name = "supervised"
    training_only = ("labels", "labelled")
    evidence_use = EvidenceUse(kinds=("labels",), needs_labels=True)

    labels: Tensor
    labelled: Tensor

    def __init__(self, config: SupervisedConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        self.register_buffer("labels", problem.evidence.labels.clone())
        self.register_buffer("labelled", (problem.evidence.labels >= 0).nonzero().flatten())
        self.encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
        self.encoder.freeze(config.frozen_stages)
        self.head = LinearHeads(self.encoder.features, problem.n_clusters)

    def stages(self) -> list[Stage]:
        """Return the one stage, "train"."""
        labels_to_learn(self.problem, self.name)  # refuses where there are none
        return [Stage("train", self.config.steps)]

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW, with a rate of its own for the encoder."""
        rate, factor = self.config.learning_rate, self.config.encoder_rate
        if factor is None:
            factor = PRETRAINED_RATE if self.encoder.is_pretrained else 1.0
        groups = [
            {"params": [p for p in module.parameters() if p.requires_grad], "lr": rate * by}
            for module, by in ((self.encoder, factor), (self.head, 1.0))
        ]
        return [torch.optim.AdamW([g for g in groups if g["params"]], weight_decay=self.config.weight_decay)]

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Request random labelled images."""
        augment = self.config.augment and not self.problem.holds_vectors
        view = View(rotate=10, scale=0.15, shear=0.2, shift=0.1) if augment else None
        draws = torch.randint(len(self.labelled), (self.config.batch_size,), generator=generator)
        return {"labelled": Request(self._host("labelled", self.labelled)[draws], view)}

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the cross-entropy."""
        part = parts["labelled"]
        return {"total": F.cross_entropy(self._logits(part.images), self.labels[part.indices])}

    def _logits(self, images: Tensor) -> Tensor:
        return self.head(self.encoder(images))[:, 0].float()

    @property
    def starting_point(self) -> StartingPoint:
        """The encoder and the layer of class logits."""
        layer = self.head.linear
        return StartingPoint(self.config.encoder, self.encoder, (layer.weight, layer.bias))

    def encode(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features)."""
        return self.encoder(images)

    def assign(self, images: Tensor) -> Tensor:
        """Return class probabilities (batch, clusters)."""
        return self._logits(images).softmax(1)

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class probabilities and embeddings."""
        embeddings = self.encoder(images)
        return self.head(embeddings)[:, 0].float().softmax(1), embeddings
