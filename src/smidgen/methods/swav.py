"""SwAV: one view of an image predicts the prototype assignment of another view.

Idea. Comparing images pairwise needs large batches; comparing each view's soft assignment to a set of prototypes does
not. The assignment (code) of a view is balanced over the batch, so that prototypes are used equally, and is what the
other views of the same image have to predict. Small crops only predict: they are cheap, and their codes would be poor.
A queue of earlier embeddings makes codes meaningful where a batch holds fewer images than there are prototypes.

Source. Caron, Misra, Mairal, Goyal, Bojanowski and Joulin, "Unsupervised learning of visual features by contrasting
cluster assignments", NeurIPS 2020 (docs/methods.md §5), written from the equations.

Equation → function
    z = unit(MLP(encoder(view))), scores = z · unit prototypes           SwAV.scores
    Q = Sinkhorn(exp(scores / ε)), 3 iterations, with the queue          SwAV.codes, maths.sinkhorn.sinkhorn
    −Σ_k q_k log softmax(scores of another view / T)_k                   swapped_loss

Deviations. Colours change half as much, and nothing is blurred. With plain SGD, which the preset "small" has, the norm
of the gradient is clipped at 1; the paper's LARS (timm's) scales each layer's step to its weights. Codes are kept in
log domain and end with their rows scaled, so that each sums to one. Clusters are found by k-means on the encoder's
embeddings. Small crops are enlarged to the size of images, because most nets here end in a layer that depends on it:
they are views of a part, and no cheaper. On ready embeddings dropout stands in for views. With `neighbours` the second
view is that of a near image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import View
from smidgen.maths.schedules import between, warmed_up
from smidgen.maths.sinkhorn import sinkhorn
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, PseudoLabels, Stage, StartingPoint
from smidgen.methods.feature_clusters import Blocks, FeatureClusters, features_of_all
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.relabelling import find_neighbours, one_near, relabelling_steps, varied
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoders import make_encoder
from smidgen.options import Count, CountOrZero, Options, Positive, Several, Share, ShareBelowOne, Weight, option

LOOKS = 10
"""Number of times that k-means is run during training, to monitor the clusters."""

_SMALL_CROPS = (0.05, 0.14)  # shares of the area that small crops show
_SMALL_SIDE = 96 / 224  # of the image's, in pixels


@dataclass(frozen=True, eq=False)
class SwAVConfig(Options):
    """Settings of `swav`; the defaults are the paper's for batches of 256, and 200 passes over 50,000 images."""

    encoder: EncoderOption = option("scratch:resnet50", "the trained encoder, see `smidgen list encoders`")
    prototypes: Several = option(3000, "K, number of prototypes")
    features: Count = option(128, "dimensions of the projection")
    hidden: CountOrZero = option(2048, "units of the projection's hidden layer, 0 for none")
    steps: Count = option(39_000, "optimiser steps")
    batch_size: Several = option(256, "images per step")
    small_crops: CountOrZero = option(6, "number of small crops per image, in addition to two large ones")
    crop: Share = option(0.14, "smallest fraction of a photograph's area in a large crop")
    temperature: Positive = option(0.1, "T, temperature of predictions")
    epsilon: Positive = option(0.05, "ε, temperature of codes")
    iterations: Count = option(3, "Sinkhorn iterations")
    queue: CountOrZero = option(3840, "earlier embeddings that are used in computing codes, 0 for none")
    queue_from: Share = option(0.075, "fraction of training after which the queue is used")
    frozen: Share = option(0.005, "fraction of training during which prototypes are frozen")
    dropout: ShareBelowOne = option(0.2, "dropout rate of ready embeddings in a view")
    neighbours: CountOrZero = option(0, "number of nearest neighbours from which the second view is drawn, 0 for none")
    optimiser: Literal["lars", "sgd"] = option(
        "lars", "LARS (You et al. 2017): the step of each layer is scaled to the size of its weights; or plain SGD"
    )
    learning_rate: Weight = option(0.6, "of the optimiser, at its peak")
    momentum: ShareBelowOne = option(0.9, "of the optimiser")
    weight_decay: Weight = option(1e-6, "of the optimiser")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "small": {
            "encoder": "conv",
            "prototypes": 60,
            "hidden": 256,
            "steps": 600,
            "small_crops": 0,
            "queue": 0,
            "temperature": 0.2,
            "optimiser": "sgd",
            "learning_rate": 0.05,
            "weight_decay": 1e-5,
        },
        "embeddings": {
            "prototypes": 60,
            "hidden": 256,
            "steps": 600,
            "small_crops": 0,
            "queue": 0,
            "temperature": 0.2,
            "optimiser": "sgd",
            "learning_rate": 0.05,
            "weight_decay": 1e-5,
            "neighbours": 10,
        },
    }
    """Options by name: "paper" is the defaults; "small" trains a small net on small images in minutes, with few
    prototypes and a batch that is large beside their number; "embeddings" does so on ready embeddings, with neighbours
    for the second view."""


def swapped_loss(codes: Sequence[Tensor], scores: Sequence[Tensor], *, temperature: float) -> Tensor:
    """Return the mean cross-entropy of each code with the predictions of all views but its own, ().

    codes: of the first views, (batch, prototypes), rows sum to one. scores: of all views, the first ones' first.
    With predictions that are even it is ln(prototypes).

    >>> swapped_loss([torch.tensor([[1.0, 0.0]])] * 2, [torch.zeros(1, 2)] * 3, temperature=0.1)
    tensor(0.6931)
    """
    predictions = [(each / temperature).log_softmax(1) for each in scores]
    losses = [
        -(code * prediction).sum(1).mean()
        for own, code in enumerate(codes)
        for other, prediction in enumerate(predictions)
        if other != own
    ]
    return torch.stack(losses).mean()


def make_optimiser(parameters: Sequence[nn.Parameter], config: SwAVConfig) -> torch.optim.Optimizer:
    """Return the optimiser of a configuration: timm's LARS or torch's SGD."""
    settings: dict[str, Any] = {
        "lr": config.learning_rate,
        "momentum": config.momentum,
        "weight_decay": config.weight_decay,
    }
    if config.optimiser == "sgd":
        return torch.optim.SGD(parameters, **settings)
    from timm.optim import Lars  # takes seconds to import

    return Lars(parameters, **settings, trust_coeff=0.001, always_adapt=True)


class SwAV(Method):
    """See the module's docstring."""

    name = "swav"
    training_only = ("queue", "neighbours", "projector.", "prototypes.")

    queue: Tensor
    neighbours: Tensor

    def __init__(self, config: SwAVConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        self.encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
        self.projector = _projector(self.encoder.features, config.hidden, config.features)
        self.prototypes = nn.Linear(config.features, config.prototypes, bias=False)
        self.clusters = FeatureClusters(self.encoder.features, problem.n_clusters)
        # Of a net that gives every view the same scores: ln K, where SwAV gets stuck.
        self.evidence_use = EvidenceUse(chance_losses={"codes": math.log(config.prototypes)})
        self.register_buffer("queue", torch.zeros(2, config.queue, config.features))
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self._normalise_prototypes()

    def stages(self) -> list[Stage]:
        """Return the one stage, "train"; `begin` is called wherever k-means is run."""
        config = self.config
        looks = relabelling_steps(config.steps, LOOKS, schedule="linear")
        schedule = warmed_up(between(1, 0.001), share=0.05)
        clip = 1.0 if config.optimiser == "sgd" else None  # LARS scales the gradient anyhow
        return [Stage("train", config.steps, begins=looks, schedule=schedule, clip=clip)]

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return LARS, or SGD."""
        parts = (self.encoder, self.projector, self.prototypes)
        learning = [p for part in parts for p in part.parameters() if p.requires_grad]
        return [make_optimiser(learning, self.config)]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Find the clusters that the embeddings have now, to look at; the first time neighbours, too."""
        if self.config.neighbours and not len(self.neighbours):
            self.neighbours = find_neighbours(embed, self.config.neighbours, problem=self.problem)
        blocks = self._features_of_all(embed)
        self.clusters.fit(blocks)
        self.clusters.find(torch.cat([self.clusters.project(block) for block in blocks()]), generator)

    def _features_of_all(self, embed: Embed) -> Blocks:
        return features_of_all(embed, self.encode, n_images=self.problem.n_images, features=self.encoder.features)

    # ------------------------------------------------------------------------------------------------------ learning

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Request all crops of random images at once, and a neighbour of each where that is the second view."""
        rows = torch.randint(self.problem.n_images, (self.config.batch_size,), generator=generator)
        requests = {"crops": Request(rows, self._views())}
        if len(self.neighbours):
            near = one_near(rows, self._host("neighbours", self.neighbours), generator)
            requests["near"] = Request(near, requests["crops"].views[0])
        return requests

    def _views(self) -> tuple[View | None, ...]:
        """Return the views of an image: two large crops, then the small ones."""
        n_small = self.config.small_crops
        if self.problem.holds_vectors:
            return (None,) * (2 + n_small)
        channels, height, _ = self.problem.image_shape
        photograph = View(flip=True, padding="reflection")
        if channels == 3:
            photograph = replace(photograph, brightness=0.4, contrast=0.4, saturation=0.4, grey=0.2)
        large = replace(photograph, crop=max(self.config.crop, 1e-3))
        if channels == 1:  # they may be writing
            large = View(rotate=15, scale=0.2, shear=0.25, shift=0.1, thickness=0.5)
        least, most = _SMALL_CROPS
        small = replace(
            photograph, crop=least, crop_most=most, flip=channels == 3, size=max(1, round(_SMALL_SIDE * height))
        )
        return (large, large) + (small,) * n_small

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the swapped cross-entropy, as `total` and as `codes`, which `Diagnostics` compares with ln K."""
        views = list(parts["crops"].views)
        if "near" in parts:
            views[1] = parts["near"].images
        views = [varied(view, dropout=self.config.dropout) for view in views]
        z = [*self.project(torch.cat(views[:2])).chunk(2)]
        if len(views) > 2:
            z += self.project(torch.cat(views[2:])).chunk(len(views) - 2)
        scores = [self.scores(each) for each in z]
        with torch.no_grad():
            codes = [self.codes(scores[i], self.queue[i] if self._queue_is_full(step) else None) for i in (0, 1)]
            self._push(z, step)
        total = swapped_loss(codes, scores, temperature=self.config.temperature)
        return {"total": total, "codes": total}

    def project(self, images: Tensor) -> Tensor:
        """Return z (batch, features), of length one, of images or crops in [0, 1]."""
        sides = self.problem.shape[1:]
        if images.shape[2:] != sides:
            images = F.interpolate(images, size=sides, mode="bilinear", align_corners=False)
        return F.normalize(self.projector(self.encoder(images)).float(), dim=1)

    def scores(self, z: Tensor) -> Tensor:
        """Return cosines (batch, prototypes), in float32 also under autocast: divided by ε, roundings would show."""
        with torch.autocast(z.device.type, enabled=False):
            return self.prototypes(z)

    def codes(self, scores: Tensor, queue: Tensor | None = None) -> Tensor:
        """Return the balanced assignments (batch, prototypes) of views, among earlier ones where there is a queue."""
        whole = scores if queue is None else torch.cat([self.scores(queue), scores])
        balanced = sinkhorn(whole / self.config.epsilon, iterations=self.config.iterations)
        return balanced[len(whole) - len(scores) :]

    @property
    def _queue_begins(self) -> int:
        return round(self.config.queue_from * self.config.steps)

    def _queue_is_full(self, step: int) -> bool:
        pushed = (step - self._queue_begins) * self.config.batch_size
        return self.config.queue > 0 and pushed >= self.config.queue

    def _push(self, z: Sequence[Tensor], step: int) -> None:
        if self.config.queue and step >= self._queue_begins:
            newest = torch.stack([each.detach() for each in z[:2]])
            self.queue = torch.cat([newest, self.queue], 1)[:, : self.config.queue]

    def _is_frozen(self, step: int) -> bool:
        return step < round(self.config.frozen * self.config.steps)

    def before_step(self, stage: str, step: int) -> None:
        """Freeze the prototypes at first."""
        if self._is_frozen(step):
            self.prototypes.weight.grad = None

    def after_step(self, stage: str, step: int) -> None:
        """Normalise the prototypes to unit length."""
        if not self._is_frozen(step):
            self._normalise_prototypes()

    @torch.no_grad()
    def _normalise_prototypes(self) -> None:
        self.prototypes.weight.copy_(F.normalize(self.prototypes.weight, dim=1))

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Find the clusters by k-means on what the embeddings have become."""
        self.clusters.finish(self._features_of_all(embed), generator)

    def pseudo_labels(self) -> PseudoLabels:
        """Return the nearest prototypes: codes are made for a batch and are not kept."""

        def predict(images: Tensor) -> Tensor:
            return self.scores(self.project(images))[:, None] / self.config.temperature

        return PseudoLabels(self.config.prototypes, predict, lambda images: predict(images).argmax(-1))

    # ------------------------------------------------------------------------------------------------------- results

    @property
    def starting_point(self) -> StartingPoint:
        """The encoder."""
        return StartingPoint(self.config.encoder, self.encoder)

    def encode(self, images: Tensor) -> Tensor:
        """Return the encoder's embeddings (batch, features)."""
        return self.encoder(images)

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and the embeddings that they are made of."""
        embeddings = self.encode(images)
        return self.clusters(embeddings), embeddings


def _projector(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    if not hidden:
        return nn.Sequential(nn.Linear(inputs, outputs))
    layers = (nn.Linear(inputs, hidden), nn.BatchNorm1d(hidden), nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(hidden, outputs))
