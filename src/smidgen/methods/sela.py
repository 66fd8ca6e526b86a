"""SeLa: a network learns its own pseudo-labels, under the constraint that all labels are used equally often.

Idea. Cross-entropy with labels that may be chosen is least where all images have one label. With clusters of prescribed
sizes that is ruled out, and choosing the labels is an optimal transport problem: Sinkhorn's scaling solves it for all
images at once. So labels and net improve one and the same objective in turn. Several heads have labels of their own.

Source. Asano, Rupprecht and Vedaldi, "Self-labelling via simultaneous clustering and representation learning", ICLR
2020 (docs/methods.md §4), written from the equations.

Equation → function
    min over Q of ⟨Q, −log P⟩ + KL(Q ‖ r cᵀ) / λ, Q with given sizes     maths.transport.scale_columns
    label of image i = argmax_k r_k P_ki^λ                               maths.transport.balanced_labels
    relabelling at T (j / n)², j = 0 … n − 1                             relabelling.relabelling_steps
    mean over heads of −log P(label)                                     SeLa.loss

Deviations. The norm of the gradient is clipped at 1, as in every method here. Scalings are found in float32, stop at a
mean relative error of the sizes, and are kept from one relabelling to the next (`maths.transport` says more). Sizes may
be given (`prior`), or equal at first and then released ("learned", `methods.priors`). Where there are as many groups as
clusters wanted, the head with the lowest loss decides; otherwise k-means on the features. On ready embeddings dropout
stands in for views. With `neighbours` an image's label is learned from those nearest to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import apply_view
from smidgen.maths.schedules import in_steps
from smidgen.maths.transport import balanced_labels, logits_of, scale_columns
from smidgen.methods.base import Embed, Method, Problem, PseudoLabels, Stage, StartingPoint
from smidgen.methods.feature_clusters import FeatureClusters
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.priors import prior_option, read_prior, read_shares
from smidgen.methods.relabelling import (
    Relabellings,
    find_neighbours,
    one_near,
    plain_view,
    relabelling_steps,
    varied,
)
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoders import make_encoder
from smidgen.nets.heads import LinearHeads
from smidgen.options import Count, CountOrZero, Options, Positive, Several, Share, ShareBelowOne, Weight, option

DROPS = (150 / 400, 300 / 400, 350 / 400)
"""The fractions of training at which the learning rate is divided by ten, as published."""

_LARGEST_KEPT = {torch.float32: 2**26, torch.bfloat16: 2**29}  # entries of a head's matrix (images, groups), ≤ 1 GB
_MOST_ITERATIONS = 200  # at one relabelling; the next goes on from there


@dataclass(frozen=True, eq=False)
class SeLaConfig(Options):
    """Settings of `sela`; the defaults are those published for CIFAR."""

    encoder: EncoderOption = option("alexnet", "the trained encoder, see `smidgen list encoders`")
    heads: Count = option(10, "T, linear heads, each with its own labels")
    groups: CountOrZero = option(128, "K, number of labels per head; 0 for the number of clusters")
    strength: Positive = option(10.0, "λ, how closely labels follow the network's predictions; 25 on ImageNet")
    steps: Count = option(156_000, "optimiser steps; 400 passes over 50,000 images")
    relabellings: Count = option(80, "number of label updates")
    spacing: Literal["quadratic", "linear"] = option("quadratic", "spacing of label updates: densest at first, or even")
    relabelled_heads: Literal["all", "one"] = option("all", "heads in a label update: all, or one in turn")
    relabel_views: bool = option(False, "compute labels from augmented instead of original images")
    prior: str = prior_option("uniform", of="labels")
    keep_scalings: bool = option(True, "start each Sinkhorn from the scalings of the last one")
    tolerance: Positive = option(0.01, "mean relative error of the labels' sizes at which Sinkhorn stops")
    batch_size: Several = option(128, "images per step")
    crop: Share = option(0.2, "smallest fraction of a photograph's area in a view")
    dropout: ShareBelowOne = option(0.2, "dropout rate of ready embeddings in a view")
    neighbours: CountOrZero = option(0, "nearest neighbours that stand in for an image, 0 for the image itself")
    learning_rate: Weight = option(0.03, "of SGD, a tenth after 37.5, 75 and 87.5 % of the steps")
    momentum: ShareBelowOne = option(0.9, "of SGD")
    weight_decay: Weight = option(5e-4, "of SGD")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "report": {
            "groups": 3000,
            "strength": 25.0,
            "batch_size": 256,
            "learning_rate": 0.05,
            "weight_decay": 1e-5,
            "tolerance": 0.1,
        },
        "small": {
            "encoder": "conv",
            "groups": 0,
            "heads": 5,
            "steps": 2000,
            "relabellings": 50,
            "learning_rate": 0.05,
        },
        "embeddings": {
            "groups": 0,
            "heads": 5,
            "steps": 1500,
            "relabellings": 30,
            "learning_rate": 0.05,
            "neighbours": 10,
        },
    }
    """Options by name: "paper" is the defaults; "report" the configuration that seed 004 found best, on ImageNet;
    "small" trains a small net in minutes, with as many labels as clusters; "embeddings" does so on ready embeddings,
    with neighbours for views."""

    def __post_init__(self) -> None:
        super().__post_init__()
        read_shares(self.prior)


def _kept(entries: int) -> torch.dtype | None:
    """Return the type in which a matrix of so many entries is kept between passes, None for not at all."""
    return next((kind for kind, largest in _LARGEST_KEPT.items() if entries <= largest), None)


class SeLa(Method):
    """See the module's docstring."""

    name = "sela"
    training_only = ("labels", "history", "neighbours", "log_scales", "running_loss")

    labels: Tensor
    history: Tensor
    neighbours: Tensor
    log_scales: Tensor
    running_loss: Tensor
    head: Tensor

    def __init__(self, config: SeLaConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        self.n_groups = config.groups or problem.n_clusters
        self.view = plain_view(problem, crop=max(config.crop, 1e-3), colour=True)
        self.encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
        self.heads = LinearHeads(self.encoder.features, self.n_groups, heads=config.heads)
        self.clusters = FeatureClusters(self.encoder.features, problem.n_clusters)
        self._prior = read_prior(config.prior, self.n_groups, of="labels of a head")
        self._relabellings = Relabellings("iterations", "largest")
        self.register_buffer("labels", torch.zeros(config.heads, 0, dtype=torch.int64))
        self.register_buffer("history", torch.zeros(0, len(self._relabellings.columns)))
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("log_scales", torch.zeros(config.heads, self.n_groups))
        self.register_buffer("running_loss", torch.zeros(config.heads))
        self.register_buffer("head", torch.tensor(0))

    @property
    def _heads_are_clusters(self) -> bool:
        return self.n_groups == self.problem.n_clusters

    def stages(self) -> list[Stage]:
        """Return the one stage, "train"; `begin` is called at every label update."""
        config = self.config
        begins = relabelling_steps(config.steps, config.relabellings, schedule=config.spacing)
        return [Stage("train", config.steps, begins=begins, schedule=in_steps(DROPS))]

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return SGD."""
        config = self.config
        learning = [p for part in (self.encoder, self.heads) for p in part.parameters() if p.requires_grad]
        return [
            torch.optim.SGD(
                learning, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
            )
        ]

    # --------------------------------------------------------------------------------------------------- relabelling

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Update the labels of all images, by all heads or by the one whose turn it is."""
        if self.labels.shape[1] == 0:  # the clock may have passed step 0
            self.labels = self._random_labels(generator)
            if self.config.neighbours:
                self.neighbours = find_neighbours(embed, self.config.neighbours, problem=self.problem)
        embeddings = self._embeddings(embed, generator)
        previous, self.labels = self.labels, self.labels.clone()
        exponent = self._prior.exponent(step / self.config.steps, strength=self.config.strength)
        iterations = [self._relabel(head, embeddings, exponent) for head in self._heads_in_turn(step)]
        largest = max(float(torch.bincount(own).max()) for own in self.labels) / len(embeddings)
        facts = sum(iterations) / len(iterations), largest
        row = self._relabellings.row(step, previous, self.labels, *facts, like=self.history)
        self.history = torch.cat([self.history, row])
        if self._heads_are_clusters:
            self.head = self.running_loss.argmin()
        else:
            self.clusters.fit(lambda: [embeddings])
            self.clusters.find(self.clusters.project(embeddings), generator)

    def _random_labels(self, generator: torch.Generator) -> Tensor:
        """Return labels (heads, n) of equal sizes in random order: what a head has before its first turn."""
        device, n = self.log_scales.device, self.problem.n_images
        orders = [torch.randperm(n, generator=generator, device=generator.device) for _ in range(self.config.heads)]
        return torch.stack(orders).to(device) % self.n_groups

    def _heads_in_turn(self, step: int) -> list[int]:
        if self.config.relabelled_heads == "all":
            return list(range(self.config.heads))
        return [self.stages()[0].begins.index(step) % self.config.heads]

    def _embeddings(self, embed: Embed, generator: torch.Generator) -> Tensor:
        """Return the embeddings (n, features) of all images, or of a random view of each."""
        if not self.config.relabel_views:
            return embed.on_device(self.encode)
        drawn = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        draws = torch.Generator().manual_seed(drawn)

        def viewed(images: Tensor) -> Tensor:
            if self.view is None:
                return self.encode(varied(images, dropout=self.config.dropout))
            return self.encode(apply_view(self.view, images, generator=draws))

        return embed.on_device(viewed)

    def _relabel(self, head: int, embeddings: Tensor, exponent: float) -> int:
        """Give all images a head's new labels, and return how many iterations of Sinkhorn that took."""
        weight, bias = (part.detach().float() for part in self._layer(head))
        scores = logits_of(embeddings, weight, bias=bias, strength=self.config.strength)
        found = scale_columns(
            scores,
            marginals=self._prior.shares.to(embeddings),
            start=self.log_scales[head] if self.config.keep_scalings else None,
            tolerance=self.config.tolerance,
            max_iterations=_MOST_ITERATIONS,
            keep=_kept(len(embeddings) * self.n_groups),
            exponent=exponent,
        )
        self.log_scales[head] = found.log_scale
        self.labels[head] = balanced_labels(scores, found.log_scale)
        return found.iterations

    # ------------------------------------------------------------------------------------------------------ learning

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Request random images; `items` are the images whose labels they stand for."""
        rows = torch.randint(self.problem.n_images, (self.config.batch_size,), generator=generator)
        near = one_near(rows, self._host("neighbours", self.neighbours), generator)
        return {"images": Request(near, self.view, items=rows)}

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the mean over heads of the cross-entropy with their labels, and what the last relabelling was like."""
        part = parts["images"]
        assert part.items is not None
        logits = self._logits(varied(part.images, dropout=self.config.dropout))
        labels = self.labels[:, part.items].T  # (batch, heads)
        per_head = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none").mean(0)
        with torch.no_grad():
            self.running_loss.lerp_(per_head, 1 / min(step + 1, 100))
        return {"total": per_head.mean(), **self._relabellings.logged(self.history)}

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Choose the head with the lowest loss, or find the clusters by k-means on what the features have become."""
        if self._heads_are_clusters:
            self.head = self.running_loss.argmin()
        else:
            embeddings = embed.on_device(self.encode)
            self.clusters.finish(lambda: [embeddings], generator)

    def pseudo_labels(self) -> PseudoLabels:
        """Return the labels of all heads; other images get theirs by the scalings of the last relabelling."""
        best = int(self.head if self._heads_are_clusters else self.running_loss.argmin())
        return PseudoLabels(self.n_groups, self._logits, self._label_others, self.labels, best)

    def _logits(self, images: Tensor) -> Tensor:
        """Return (batch, heads, groups) in float32."""
        return self.heads(self.encoder(images)).float()

    def _label_others(self, images: Tensor) -> Tensor:
        return (self.config.strength * self._logits(images).log_softmax(-1) + self.log_scales).argmax(-1)

    # ------------------------------------------------------------------------------------------------------- results

    def _layer(self, head: int) -> tuple[Tensor, Tensor]:
        rows = slice(head * self.n_groups, (head + 1) * self.n_groups)
        return self.heads.linear.weight[rows], self.heads.linear.bias[rows]

    @property
    def starting_point(self) -> StartingPoint:
        """The encoder, and the layer of the head that decides where k-means does not."""
        head = self._layer(int(self.head)) if self._heads_are_clusters else None
        return StartingPoint(self.config.encoder, self.encoder, head)

    def encode(self, images: Tensor) -> Tensor:
        """Return the encoder's embeddings (batch, features)."""
        return self.encoder(images)

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments, of the head that decides or by the distance to k-means' centroids, and embeddings."""
        embeddings = self.encode(images)
        if not self._heads_are_clusters:
            return self.clusters(embeddings), embeddings
        return self.heads(embeddings).float().softmax(-1)[:, self.head], embeddings

    def tables(self, embed: Embed) -> dict[str, dict[str, np.ndarray]]:
        """Return what each relabelling changed."""
        return {"relabellings": self._relabellings.table(self.history)}
