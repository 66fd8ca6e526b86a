"""Seeded autoencoder: k-means on an autoencoder's codes, started from the labelled images, cluster i being class i.

Idea. An autoencoder needs no labels, and its code is shorter than an image; in it the means of the labelled images of
each class start k-means, which all images then take part in. That is the report of seed 001, and `preset=report`: its
autoencoder saw the labelled images only, and knew nothing but pixel errors. What the report says it should have done
are options, each on its own: all images train the autoencoder, which learns to undo what views do to images; codes are
drawn to the centroids that k-means last found (as in DCN); labels also train a linear layer on the code; labelled
images keep their cluster; several starts; outliers left out.

Source. A. Wei and K. Nanji, "Semi-supervised image classification", CS 484 project report (docs/methods.md §6); the
k-means loss: DCN, Yang, Fu, Sidiropoulos and Hong, "Towards k-means-friendly spaces", ICML 2017; seeded and constrained
k-means: Basu, Banerjee and Mooney, ICML 2002; trimming: Cuesta-Albertos, Gordaliza and Matrán 1997. Written from the
equations.

Equation → function
    mean (decoder(z of a view of x) − x)²                      maths.reconstruction.mse
    λ mean |z − c(x)|² / mean_k |c_k − c̄|²                     centroid_loss
    CE(W z + b, label)                                         SeededAutoencoder.loss
    c_k = mean z of the images labelled k, then k-means        SeededAutoencoder._cluster, maths.trimmed_kmeans

Deviations. Images of a batch are drawn with replacement, and the norm of the gradient is clipped at 1, as in every
method here; a loss that is not finite sends the training back to the last good state with half the rate. The k-means
loss is divided by the spread of the centroids, or shrinking all codes would lower it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import View
from smidgen.maths.matching import in_order_of_classes
from smidgen.maths.reconstruction import mse
from smidgen.maths.scaling import unit_rows
from smidgen.maths.soft_clusters import assignments_by_distance, calibrated_spread
from smidgen.maths.trimmed_kmeans import trimmed_kmeans
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.relabelling import varied
from smidgen.nets.composed import EncoderOption
from smidgen.nets.decoders import make_decoder
from smidgen.nets.encoder import Normalise
from smidgen.nets.encoders import make_encoder
from smidgen.nets.heads import LinearHeads
from smidgen.options import Count, CountOrZero, Options, Several, Share, ShareBelowOne, Weight, option

NOTHING_LABELLED = (
    "No training image has a label: the autoencoder learns from all images, and k-means starts at random."
)


_TOGETHER = {
    "encoder": "conv",
    "trained_on": "all",
    "steps": 6000,
    "batch_size": 256,
    "learning_rate": 2e-3,
    "weight_decay": 1e-2,
    "schedule": "one-cycle",
    "reconstruction_weight": 0.1,
    "blur": 0.5,
    "contrast": 0.3,
    "impulse": 0.02,
    "affine": 1.0,
    "dropout": 0.2,
    "kmeans_weight": 1.0,
    "kmeans_from": 0.2,
    "kmeans_rise": 0.2,
    "kmeans_updates": 20,
    "label_weight": 1.0,
    "constrained": True,
    "trim": 0.02,
}


@dataclass(frozen=True, eq=False)
class SeededAutoencoderConfig(Options):
    """Settings of `seeded-autoencoder`; the defaults are the report's, for 80 % of MNIST labelled."""

    encoder: EncoderOption = option(
        "conv-2x2", "the trained encoder, see `smidgen list encoders`; its embeddings are the code"
    )
    trained_on: Literal["labelled", "all"] = option("labelled", "images that the autoencoder learns from")
    steps: Count = option(7200, "optimiser steps; 15 passes over 48,000 images")
    batch_size: Several = option(100, "images per step")
    learning_rate: Weight = option(1e-4, "of AdamW, at its peak")
    weight_decay: Weight = option(0.0, "of AdamW")
    schedule: Literal["constant", "one-cycle"] = option("constant", "the learning rate over the training")
    reconstruction_weight: Weight = option(1.0, "of the pixel error")
    blur: Weight = option(0.0, "largest blur that the autoencoder undoes, in pixels")
    contrast: Share = option(0.0, "largest change of contrast that it undoes")
    impulse: Share = option(0.0, "largest fraction of black and white pixels that it undoes")
    affine: Share = option(0.0, "strength of the affine maps that it undoes; 1 is up to 20 degrees")
    dropout: ShareBelowOne = option(0.0, "fraction of the numbers of ready embeddings that it restores")
    kmeans_weight: Weight = option(0.0, "λ, of the distance of codes to their centroids")
    kmeans_from: Share = option(0.5, "fraction of training after which codes are drawn to centroids")
    kmeans_rise: Share = option(0.0, "fraction of training over which that weight rises from 0")
    kmeans_updates: Count = option(10, "times that centroids are found anew in the rest of the training")
    label_weight: Weight = option(0.0, "of the cross-entropy on labels")
    start: Literal["labels", "random"] = option(
        "labels", "where k-means starts: at the mean codes of labelled images, or by k-means++"
    )
    constrained: bool = option(False, "labelled images keep their cluster in k-means, which starts at their means")
    restarts: CountOrZero = option(0, "further runs of k-means, of which the best is kept, where a start is random")
    trim: ShareBelowOne = option(0.0, "fraction of images, the farthest from their centroids, left out of k-means")
    spherical: bool = option(False, "normalise codes to unit length for k-means")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "report": {},
        "together": _TOGETHER,
        "small": {**_TOGETHER, "steps": 1500},
    }
    """Options by name: "report" is the defaults; "together" everything that the report says it should have done;
    "small" the same, shorter."""


def centroid_loss(codes: Tensor, centroids: Tensor, clusters: Tensor) -> Tensor:
    """Return mean |z − c|² / mean_k |c_k − c̄|², (): how far codes lie from their centroids, beside these's spread.

    codes: (batch, features). centroids: (clusters, features), without gradient. clusters: (batch,) int64.

    >>> centroid_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [4.0]]), torch.tensor([0, 1]))
    tensor(0.2500)
    """
    spread = (centroids - centroids.mean(0)).square().sum(1).mean()
    return (codes - centroids[clusters]).square().sum(1).mean() / spread.clamp_min(1e-12)


class SeededAutoencoder(Method):
    """See the module's docstring; where there are labels, clusters are the classes of the evidence, in its order."""

    name = "seeded-autoencoder"
    training_only = ("labels", "labelled", "clusters", "drawn_to", "decoder.", "classifier.")
    evidence_use = EvidenceUse(kinds=("labels",))

    labels: Tensor
    labelled: Tensor
    clusters: Tensor
    drawn_to: Tensor
    centroids: Tensor
    spread: Tensor

    def __init__(self, config: SeededAutoencoderConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        self.view = self._view()
        self.encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
        features = self.encoder.features
        self.decoder = make_decoder(features, problem.shape, encoder=self.encoder)
        self.classifier = LinearHeads(features, problem.n_clusters)
        self.standardise = Normalise(problem.mean, problem.std, of_vectors=problem.holds_vectors)
        labels = problem.evidence.labels
        self.register_buffer("labels", labels.clone())
        self.register_buffer("labelled", (labels >= 0).nonzero().flatten())
        self.register_buffer("clusters", torch.zeros(0, dtype=torch.int64))  # of all images, once k-means has run
        self.register_buffer("drawn_to", torch.zeros(problem.n_clusters, features))
        self.register_buffer("centroids", torch.zeros(problem.n_clusters, features))
        self.register_buffer("spread", torch.ones(()))
        if not len(self.labelled):
            self.evidence_use = EvidenceUse(kinds=("labels",), notes=(NOTHING_LABELLED,))

    def _view(self) -> View | None:
        config = self.config
        damage = {"blur": config.blur, "contrast": config.contrast, "impulse": config.impulse}
        if self.problem.holds_vectors or not (config.affine or any(damage.values())):
            return None
        turns = {"rotate": 20.0, "scale": 0.25, "shear": 0.35, "shift": 0.1}
        return View(**damage, **{name: config.affine * most for name, most in turns.items()})

    def stages(self) -> list[Stage]:
        """Return the one stage, "train"; `begin` is called where k-means finds the centroids anew."""
        return [Stage("train", self.config.steps, begins=self._updates, schedule=self.config.schedule, assigns=False)]

    @property
    def _updates(self) -> tuple[int, ...]:
        config = self.config
        if not config.kmeans_weight:
            return ()
        places = (config.kmeans_from + (1 - config.kmeans_from) * j / config.kmeans_updates
                  for j in range(config.kmeans_updates))  # fmt: skip
        return tuple(sorted({step for place in places if (step := round(place * config.steps)) < config.steps}))

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW; without weight decay, as by default, that is Adam."""
        learning = [p for p in self.parameters() if p.requires_grad]
        return [torch.optim.AdamW(learning, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Find the centroids that codes are drawn to, from where the last ones have moved."""
        codes = embed.on_device(self.encode)
        seeds = self.clusters if len(self.clusters) else None
        self.drawn_to, self.clusters = self._cluster(codes, generator, seeds=seeds)

    def _cluster(
        self, codes: Tensor, generator: torch.Generator, *, seeds: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return centroids (clusters, features) and the cluster of each image (n,), clusters in the order of classes.

        seeds: the clusters that images had before, from whose means k-means goes on; None to start it.
        """
        config, has_labels = self.config, bool(len(self.labelled))
        from_labels = has_labels and config.start == "labels"
        found = trimmed_kmeans(
            codes,
            self.problem.n_clusters,
            trim=config.trim,
            generator=generator,
            n_init=1 + config.restarts,
            spherical=config.spherical,
            seeds=seeds if seeds is not None else self.labels if from_labels else None,
            fixed=self.labels if has_labels and config.constrained else None,
        )
        if not has_labels or from_labels or config.constrained or seeds is not None:
            return found.centroids, found.labels
        together = torch.zeros(self.problem.n_clusters, len(self.problem.evidence.class_names), dtype=torch.float64)
        pairs = found.labels[self.labelled].cpu(), self.labels[self.labelled].cpu()
        order = torch.tensor(
            in_order_of_classes(together.index_put_(pairs, torch.ones(()).double(), accumulate=True).numpy())
        ).to(found.labels.device)
        return found.centroids[order], order.argsort()[found.labels]

    # ------------------------------------------------------------------------------------------------------ learning

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Request images as they are and as views, and labelled ones where a layer learns their labels."""
        labelled, n = self._host("labelled", self.labelled), self.config.batch_size
        some = torch.randint(max(1, len(labelled)), (n,), generator=generator)
        if self.config.trained_on == "labelled" and len(labelled):
            rows = labelled[some]
        else:
            rows = torch.randint(self.problem.n_images, (n,), generator=generator)
        requests = {"images": Request(rows, None if self.view is None else (None, self.view))}
        if self.config.label_weight and len(labelled):
            requests["labelled"] = Request(labelled[some], self.view)
        return requests

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the weighted sum of the pixel error, the distance to centroids and the cross-entropy, and each."""
        part, labelled, config = parts["images"], parts.get("labelled"), self.config
        shown = varied(part.views[-1], dropout=config.dropout)
        codes = self.encoder(torch.cat([shown] + ([] if labelled is None else [labelled.images])))
        z = codes[: len(shown)]
        losses = {"reconstruction": mse(self.decoder(z).float(), self.standardise(part.images)).mean()}
        total = config.reconstruction_weight * losses["reconstruction"]
        if len(self.clusters):
            losses["kmeans"] = centroid_loss(self._point(z), self.drawn_to, self.clusters[part.indices])
            total = total + self._kmeans_weight(progress) * losses["kmeans"]
        if labelled is not None:
            logits = self.classifier(codes[len(shown) :])[:, 0].float()
            losses["labels"] = F.cross_entropy(logits, self.labels[labelled.indices])
            total = total + config.label_weight * losses["labels"]
        return {"total": total, **losses}

    def _kmeans_weight(self, progress: int) -> float:
        config = self.config
        since = progress / config.steps - config.kmeans_from
        return config.kmeans_weight * min(1.0, since / config.kmeans_rise if config.kmeans_rise else 1.0)

    def _point(self, codes: Tensor) -> Tensor:
        """Return what k-means sees of codes, (batch, features)."""
        return F.normalize(codes.float(), dim=1) if self.config.spherical else codes.float()

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Cluster the codes of all images."""
        codes = embed.on_device(self.encode)
        self.centroids, clusters = self._cluster(codes, generator)
        points = (unit_rows(codes) if self.config.spherical else codes).cpu()
        self.spread = calibrated_spread(
            points, self.centroids.cpu(), clusters.cpu(), generator=generator, spherical=self.config.spherical
        ).to(self.spread)

    # ------------------------------------------------------------------------------------------------------- results

    @property
    def starting_point(self) -> StartingPoint:
        """The encoder."""
        return StartingPoint(self.config.encoder, self.encoder)

    def encode(self, images: Tensor) -> Tensor:
        """Return codes (batch, features)."""
        return self.encoder(images)

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and codes."""
        codes = self.encode(images)
        return assignments_by_distance(self._point(codes), self.centroids, self.spread), codes
