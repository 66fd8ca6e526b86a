"""Base class of UCC and RCC: sampling of bags, the network, the count head and its loss, and clusters."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from smidgen.data.batches import Part, Request, seeded
from smidgen.data.shapes import Shape
from smidgen.errors import InputError
from smidgen.maths.kde import annealed_bandwidth
from smidgen.methods.bag_options import BagConfig
from smidgen.methods.bag_source import BagSource, bag_view
from smidgen.methods.bag_tables import bag_tables
from smidgen.methods.base import BagHeads, Embed, Method, Problem, Stage, StartingPoint
from smidgen.nets.bag_net import (
    BagNet,
    CountHead,
    Decoder,
    count_accuracy,
    count_cross_entropy,
    frozen,
    try_copy_weights,
)
from smidgen.nets.centroids import Centroids
from smidgen.nets.composed import ChainedEncoder
from smidgen.nets.encoder import Encoder
from smidgen.nets.encoders import make_encoder
from smidgen.nets.timm_encoder import PretrainedEncoder

_RECENT = 2048  # features kept for the clusters shown during training
_EVERY = 100  # steps between them, as often as `OnlineEval` evaluates

PRETRAINED_RATE = 0.15
"""Factor on the learning rate of a pretrained encoder, unless it is given."""


@dataclass(frozen=True, eq=False, kw_only=True)
class BagStart(StartingPoint):
    """What UCC and RCC offer each other in addition to the encoder.

    classifier: RCC's head for classes; None of UCC. class_names: of its outputs.
    """

    config: BagConfig
    bag_net: BagNet
    count_head: CountHead
    classifier: nn.Module | None = None
    class_names: tuple[str, ...] = ()


class BagMethod(Method):
    """Base class of UCC and RCC: network, head for unique class counts, bags, and clusters; they add objectives.

    with_classes: whether proportions are used. decodes: whether the method wants a decoder.
    """

    training_only = ("source.", "recent")

    config: BagConfig
    recent: Tensor
    bag_sizes: Tensor

    def __init__(self, config: BagConfig, problem: Problem, *, with_classes: bool, decodes: bool) -> None:
        super().__init__()
        self.config, self.problem = config, problem
        self.source = _source(config, problem, with_classes=with_classes)
        decoder = _decoder(config, problem) if decodes else "none"
        self.net = _net(config, problem, decoder)
        self.view = bag_view(
            problem.shape,
            config.augment,
            size=_enlarged(problem.shape, self.net.encoder) if decoder == "none" else None,  # it decodes what is shown
        )
        self.head = CountHead(
            self.net.bag_features,
            self.source.admissible,
            activation=config.head_activation,
            start=config.head_start,
        )
        self.clusters = Centroids(problem.n_clusters, config.features)
        self.features_taken = False  # from another run
        self.evidence_use = dataclasses.replace(
            self.evidence_use,
            bags_drawn_from=("labels",) if self.source.samples_bags else (),
            chance_losses={"ucc": self.source.chance_loss},  # ln 4 in the paper
            notes=tuple(filter(None, [self.source.repetition_note])),
        )
        self.register_buffer("recent", torch.zeros(0, config.features))
        self.register_buffer("bag_sizes", torch.tensor(self.source.typical_sizes))  # a saved model knows them by this

    # ---------------------------------------------------------------------------------------------------- training

    def stages(self) -> list[Stage]:
        """Return "warmup" (reconstruction only), if there is any, and "train"."""
        config = self.config
        plan = [("warmup", config.warmup_steps)] if config.warmup_steps else []
        return [
            Stage(name, steps, schedule=config.schedule, clip=config.clip or None)
            for name, steps in [*plan, ("train", config.steps)]
        ]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Shuffle the walk through tuples of classes."""
        self.source.begin(generator)

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Request the bags of a step, with augmented images or, after `augment_until`, without augmentation."""
        turned = stage == "warmup" or progress < self.config.augment_until * self.config.steps
        return {"bags": self.source.request(step, generator, view=self.view if turned else None)}

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return Adam; the encoder has a rate of its own, or is left out where frozen.

        Features that another run has made learn as slowly as the encoder: a new head's first gradients would undo them.
        """
        rate, decay = self.config.learning_rate, self.config.weight_decay
        encoder, features = list(self.net.encoder.parameters()), list(self.net.code.parameters())
        slow = [] if self._is_frozen(stage) else [p for p in encoder if p.requires_grad]
        slow += features if self.features_taken else []
        apart = {id(p) for p in (*encoder, *slow)}
        rest = [p for p in self.parameters() if id(p) not in apart]
        factor = self.config.encoder_rate
        if factor is None:
            factor = PRETRAINED_RATE if self.net.encoder.is_pretrained else 1.0
        groups = [(rest, rate), (slow, rate * factor)]
        return [torch.optim.Adam([{"params": p, "lr": lr} for p, lr in groups if p], weight_decay=decay)]

    def _is_frozen(self, stage: str) -> bool:
        return self.config.freeze_encoder and stage != "warmup"

    def embeddings(self, images: Tensor, *, stage: str) -> Tensor:
        """Return the encoder's embeddings (batch, d), without gradients where it is frozen."""
        return frozen(self.net.encoder, images) if self._is_frozen(stage) else self.net.encoder(images)

    def features(self, embeddings: Tensor) -> Tensor:
        """Return the features (batch, J) of a training batch, and remember the latest ones for `after_step`."""
        features = self.net.features(embeddings)
        self.recent = torch.cat([features.detach(), self.recent])[:_RECENT]
        return features

    def densities(self, features: Tensor, offsets: Tensor, *, progress: int) -> Tensor:
        """Return the densities of each bag, (bags, J · points), with the bandwidth of this place in training."""
        config, bandwidth = self.config, self.config.bandwidth
        if config.start_bandwidth:
            bandwidth = annealed_bandwidth(progress / config.steps, start=config.start_bandwidth, end=bandwidth)
        return self.net.describe(features, offsets, bandwidth=bandwidth)

    def count_losses(self, densities: Tensor, part: Part) -> tuple[dict[str, Tensor], Tensor]:
        """Return the cross-entropy and accuracy of the bags' counts, and log P(count)."""
        log_counts = self.head(densities)
        least, most, _ = self.source.known(part)
        known = log_counts, least, most
        return {"ucc": count_cross_entropy(*known).mean(), "ucc_accuracy": count_accuracy(*known)}, log_counts

    def reconstruction_loss(self, features: Tensor, images: Tensor) -> Tensor | None:
        """Return the reconstruction loss of the configured kind, (); None without a decoder."""
        kind = self.config.reconstruction
        if self.net.decoder is None or kind == "none":
            return None
        return self.net.reconstruction_loss(features, images, kind=kind)

    @torch.no_grad()
    def after_step(self, stage: str, step: int) -> None:
        """Cluster the latest features every hundred steps, for monitoring; `finish` uses all features."""
        steps = self.config.warmup_steps if stage == "warmup" else self.config.steps
        wanted = (step + 1) % _EVERY == 0 or step + 1 == steps
        if wanted and len(self.recent) >= self.problem.n_clusters and bool(self.recent.isfinite().all()):
            self.clusters.find(self.recent, generator=seeded(step), n_init=3)

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Find the clusters by k-means (k-means++, best of 10) on the features of all training images."""
        self.clusters.find(embed(self.net), generator=generator)

    # ------------------------------------------------------------------------------------ evidence and other runs

    @property
    def starting_point(self) -> BagStart:
        """The encoder before the feature layer, and the other parts that UCC and RCC share."""
        return BagStart(
            self.config.encoder, self.net.encoder, config=self.config, bag_net=self.net, count_head=self.head
        )

    def start_from(self, start: StartingPoint) -> None:
        """Load another method's encoder, and whatever else of it fits.

        Of another run of UCC or RCC the layer of the features, the attention, the decoder, and the head if it counted
        among the same numbers by the same densities; of other runs a softmax head of the same width, as the features.
        """
        super().start_from(start)
        if not isinstance(start, BagStart):
            if self.config.activation == "softmax" and start.head is not None:
                self.features_taken = self.net.take_features(*start.head)
            return
        self.features_taken = try_copy_weights(self.net.code, start.bag_net.code)
        if self.features_taken:
            try_copy_weights(self.net.attention, start.bag_net.attention)
            try_copy_weights(self.net.decoder, start.bag_net.decoder)
        admissible = start.count_head.admissible.to(self.recent.device)
        if self.has_densities_of(start) and self.head.admissible.equal(admissible):
            try_copy_weights(self.head, start.count_head)

    def has_densities_of(self, start: BagStart) -> bool:
        """Return whether features come from another run, and heads and densities are of the same kind as there."""
        same = ("activation", "points", "bandwidth", "log_output", "attention", "head_activation")
        return self.features_taken and all(self.config[name] == start.config[name] for name in same)

    # ----------------------------------------------------------------------------------------------------- results

    def encode(self, images: Tensor) -> Tensor:
        """Return the J features (batch, J)."""
        return self.net(images)

    def assign(self, images: Tensor) -> Tensor:
        """Return assignments (batch, clusters) by distance from the centroids; the nearest is the likeliest."""
        return self.clusters(self.encode(images))

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and features."""
        features = self.encode(images)
        return self.clusters(features), features

    @torch.no_grad()
    def count_probabilities(self, features: Tensor, offsets: Tensor) -> Tensor:
        """Return P(count = 1 … clusters) of bags, (bags, clusters), from the features of their images (images, J)."""
        return self.head(self.net.describe(features, offsets, bandwidth=self.config.bandwidth)).exp()

    def bag_heads(self) -> BagHeads:
        """Return the head for unique counts, its densities, and the reconstruction error."""
        least, most = self.bag_sizes.tolist()
        return BagHeads(
            counts=tuple((self.head.admissible.nonzero().flatten() + 1).tolist()),
            sizes=(least, most),
            count_probabilities=self.count_probabilities,
            points=self.net.points,
            bandwidth=self.config.bandwidth,
            reconstruction_error=None if self.net.decoder is None else self.net.reconstruction_error,
        )

    def tables(self, embed: Embed) -> dict[str, dict[str, np.ndarray]]:
        """Return densities of features, divergences between clusters, counts of bags, and decoded images."""
        return bag_tables(self.net, self.source, self.bag_heads(), embed, embed(self.assign).argmax(1))


def _source(config: BagConfig, problem: Problem, *, with_classes: bool) -> BagSource:
    return BagSource(
        problem.evidence,
        problem.n_clusters,
        bags=config.bags,
        images=config.images,
        ucc=config.ucc,
        bag_size=config.bag_size,
        random_shares=config.random_shares,
        with_classes=with_classes,
    )


def _decoder(config: BagConfig, problem: Problem) -> Decoder:
    """Return which decoder a method has that wants one; InputError for a loss that its data have none of."""
    if config.reconstruction == "ssim" and problem.holds_vectors:
        raise InputError("`reconstruction=ssim` compares images, and these are ready embeddings: take mse or none.")
    if config.reconstruction == "none":
        return "none"
    return "batch-norm" if config.decoder_norm else "plain"


def _net(config: BagConfig, problem: Problem, decoder: Decoder) -> BagNet:
    encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
    encoder.freeze(config.frozen_stages)
    return BagNet(
        encoder,
        problem.shape,
        features=config.features,
        activation=config.activation,
        feature_bias=config.feature_bias,
        points=config.points,
        log_output=config.log_output,
        attention=config.attention,
        decoder=decoder,
    )


def _enlarged(shape: Shape, encoder: Encoder) -> int | None:
    """Return the side in pixels that an encoder enlarges images to, None where it does not."""
    first = encoder.first if isinstance(encoder, ChainedEncoder) else encoder
    size = first.preprocess.size if isinstance(first, PretrainedEncoder) else 0
    return size if size > max(shape[1:], default=0) else None
