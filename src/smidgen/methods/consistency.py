"""Consistency: few labels, and predictions on weak views that must hold on strong ones (FixMatch, FreeMatch).

Idea. A net that is sure of an image under a weak view is mostly right, and can then learn to be as sure under a strong
view, where it is not yet. So labels spread from the few images that have them to all that look alike. Which predictions
are sure enough is a fixed threshold, or one that follows the net and is lower for classes it has learned less; and
predictions may be brought to the classes' shares first, so that no class dies. What is used in the end is a slow
average of the weights.

Source. FixMatch: Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and confidence",
NeurIPS 2020; distribution alignment: Berthelot et al., "ReMixMatch", ICLR 2020; FreeMatch: Wang et al., "FreeMatch:
self-adaptive thresholding for semi-supervised learning", ICLR 2023; mixup: Zhang et al., ICLR 2018. Written from the
equations (docs/methods.md §8).

Equation → function
    L = CE(labelled, weak) + λ mean(1[max q ≥ τ] CE(strong, argmax q)), q of weak   Consistency.loss, pseudo_label_loss
    q ← q π / p̃, scaled to sum to one                                               aligned
    τ(c) = p̃(c) / max p̃ · mean max q, each an average over steps                    thresholds
    −H(p̃ / h̃, p̄ / h̄), each scaled to sum to one                                     fairness_loss
    weights for use ← decay · themselves + (1 − decay) · those trained              nets.average.Average

Deviations. The norm of the gradient is clipped at 1, as in every method here. Strong views are random affine maps, with
strokes or colours changed, and a square erased, not RandAugment. On ready embeddings a strong view leaves out some
of the numbers and is mixed with that of another image, as are their targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import weak_and_strong
from smidgen.errors import InputError
from smidgen.maths.schedules import one_cycle, part_of_cosine
from smidgen.maths.thresholds import thresholds
from smidgen.methods.base import EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.relabelling import varied
from smidgen.nets.average import Average
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoders import make_encoder
from smidgen.nets.heads import HeadedNet
from smidgen.options import Count, Options, Several, Share, ShareBelowOne, Weight, option


@dataclass(frozen=True, eq=False)
class ConsistencyConfig(Options):
    """Settings of `consistency`; the defaults are FixMatch's for CIFAR-10."""

    encoder: EncoderOption = option("wrn-28-2", "the trained encoder, see `smidgen list encoders`")
    steps: Count = option(2**20, "optimiser steps")
    batch_size: Several = option(64, "labelled images per step")
    ratio: Count = option(7, "μ, unlabelled images per labelled one")
    unlabelled_weight: Weight = option(1.0, "λ, of the loss on strong views")
    thresholds: Literal["fixed", "adaptive"] = option(
        "fixed", "confidence from which a prediction counts: always `threshold`, or as sure as the net is (FreeMatch)"
    )
    threshold: Share = option(0.95, "τ, where it is fixed")
    alignment: Literal["none", "uniform", "labels"] = option(
        "none", "shares of the classes that predictions are brought to: none, equal ones, or those of the labels"
    )
    fairness: Weight = option(0.0, "weight of FreeMatch's term for classes being used alike; published: 0.01")
    follow: ShareBelowOne = option(0.999, "decay of the averages of predictions over steps")
    decay: Share = option(0.999, "decay of the average of the weights")
    erase: Share = option(0.5, "largest side of the square that a strong view lacks, as a share of the image's")
    dropout: ShareBelowOne = option(0.5, "dropout rate of ready embeddings in a strong view")
    mixup: bool = option(True, "mix strong views of ready embeddings in pairs")
    optimiser: Literal["sgd", "adamw"] = option(
        "sgd", "SGD with momentum .9, along 7/16 of a cosine; or AdamW, in one cycle"
    )
    learning_rate: Weight = option(0.03, "at its peak")
    weight_decay: Weight = option(5e-4, "of the optimiser")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "freematch": {"thresholds": "adaptive", "fairness": 0.01, "alignment": "uniform"},
        "small": {
            "encoder": "conv",
            "steps": 4000,
            "thresholds": "adaptive",
            "alignment": "uniform",
            "follow": 0.99,
            "optimiser": "adamw",
            "learning_rate": 2e-3,
            "weight_decay": 1e-2,
        },
    }
    """Options by name: "paper" is the defaults, "freematch" its successor; "small" trains a small net in minutes."""


def aligned(q: Tensor, seen: Tensor, wanted: Tensor) -> Tensor:
    """Return predictions (batch, classes) ∝ q · wanted / seen, rows sum to one: distribution alignment.

    seen: the mean prediction so far, wanted: what it should be, (classes,) each.

    >>> aligned(torch.tensor([[0.5, 0.5]]), torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5]))
    tensor([[0.2000, 0.8000]])
    """
    scaled = q * wanted / seen.clamp_min(1e-6)
    return scaled / scaled.sum(1, keepdim=True).clamp_min(1e-12)


def pseudo_label_loss(logits: Tensor, labels: Tensor, used: Tensor) -> Tensor:
    """Return the mean over all rows of the cross-entropy, 0 where a row is not used, ().

    logits: (batch, classes) of strong views. labels: (batch,) of the weak ones. used: (batch,) 0 or 1.
    """
    return (F.cross_entropy(logits, labels, reduction="none") * used).mean()


def mixed_pairs(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return vectors (batch, features) mixed in pairs, the partner of each, and its own share from ½ to 1, (batch,).

    Draws from the global generator.
    """
    partner, share = torch.randperm(len(x), device=x.device), torch.rand(len(x), device=x.device)
    share = torch.maximum(share, 1 - share)
    return torch.lerp(x[partner], x, share[:, None]), partner, share


def mixed_loss(logits: Tensor, labels: Tensor, used: Tensor, *, partner: Tensor, share: Tensor) -> Tensor:
    """Return `pseudo_label_loss` of rows mixed in pairs: `share` of their own and the rest of their partner's, ().

    partner: (batch,) the row that each is mixed with. share: (batch,) in [0, 1].
    """
    losses = -logits.log_softmax(1)
    own = losses.gather(1, labels[:, None]).squeeze(1) * used
    other = losses.gather(1, labels[partner][:, None]).squeeze(1) * used[partner]
    return (share * own + (1 - share) * other).mean()


def fairness_loss(p: Tensor, used: Tensor, *, seen: Tensor, histogram: Tensor) -> Tensor:
    """Return FreeMatch's Σ_c a_c log b_c of a = p̃ / h̃ and b = p̄ / h̄, each scaled to sum to one, ().

    p: predictions (batch, classes) of strong views, p̄ their mean and h̄ the shares of their most likely classes, over
    the rows that are used, (batch,) 0 or 1. seen, histogram: p̃ and h̃, the same so far of weak views, (classes,).
    Dividing by the histogram asks for classes to be predicted with equal confidence, not equally often.
    """
    weight = (used / used.sum().clamp_min(1))[:, None]
    mean = (weight * p).sum(0)
    counts = (weight * F.one_hot(p.argmax(1), p.shape[1])).sum(0)
    a, b = (torch.where(h > 0, x / h.clamp_min(1e-6), 0) for x, h in ((seen, histogram), (mean, counts)))
    return (a / a.sum() * (b / b.sum().clamp_min(1e-12)).clamp_min(1e-6).log()).sum()


class Consistency(Method):
    """See the module's docstring; clusters are the classes of the evidence, in its order."""

    name = "consistency"
    training_only = ("labels", "labelled", "net.", "seen", "histogram", "confidence")
    evidence_use = EvidenceUse(kinds=("labels",), needs_labels=True)

    labels: Tensor
    labelled: Tensor
    wanted: Tensor
    seen: Tensor
    histogram: Tensor
    confidence: Tensor

    def __init__(self, config: ConsistencyConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        self.weak, strong = weak_and_strong(problem.shape)
        self.strong = None if strong is None else replace(strong, erase=config.erase)
        encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
        self.net = HeadedNet(encoder, problem.n_clusters)
        self.average = Average(self.net, decay=config.decay)
        n_clusters, labels = problem.n_clusters, problem.evidence.labels
        even = torch.full((n_clusters,), 1 / n_clusters)
        self.register_buffer("labels", labels.clone())
        self.register_buffer("labelled", (labels >= 0).nonzero().flatten())
        self.register_buffer("wanted", self._wanted(even), persistent=False)
        self.register_buffer("seen", even.clone())  # p̃
        self.register_buffer("histogram", even.clone())  # h̃
        self.register_buffer("confidence", torch.tensor(1 / n_clusters))

    def _wanted(self, even: Tensor) -> Tensor:
        labels = self.labels[self.labels >= 0]
        if self.config.alignment != "labels" or not len(labels):
            return even
        return torch.bincount(labels, minlength=len(even)) / len(labels)

    def stages(self) -> list[Stage]:
        """Return the one stage, "train"."""
        if not len(self.labelled):
            raise InputError(
                "`consistency` needs labels, and no training image has one: give --labels, or data with classes and no"
                " evidence (`mutual-information` needs none)."
            )
        schedule = part_of_cosine() if self.config.optimiser == "sgd" else one_cycle
        return [Stage("train", self.config.steps, schedule=schedule)]

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return SGD with Nesterov's momentum, or AdamW."""
        rate, decay = self.config.learning_rate, self.config.weight_decay
        learning = [p for p in self.net.parameters() if p.requires_grad]
        if self.config.optimiser == "adamw":
            return [torch.optim.AdamW(learning, lr=rate, weight_decay=decay)]
        groups = [
            {"params": [p for p in learning if (p.ndim > 1) == is_matrix], "weight_decay": decay if is_matrix else 0.0}
            for is_matrix in (True, False)  # neither batch norm nor biases decay
        ]
        return [torch.optim.SGD(groups, lr=rate, momentum=0.9, nesterov=True)]

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Request labelled images as weak views, and any images as weak and strong ones."""
        config = self.config
        draws = torch.randint(len(self.labelled), (config.batch_size,), generator=generator)
        rows = torch.randint(self.problem.n_images, (config.batch_size * config.ratio,), generator=generator)
        return {
            "labelled": Request(self._host("labelled", self.labelled)[draws], self.weak),
            "unlabelled": Request(rows, (self.weak, self.strong)),
        }

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the cross-entropy on labels, that with the net's own labels, and how many of these were used."""
        labelled, (weak, strong) = parts["labelled"], parts["unlabelled"].views
        strong, mix = self._varied(strong)
        logits = self.net(torch.cat([labelled.images, weak, strong]))[:, 0].float()
        known, weak_logits, strong_logits = logits.split([len(labelled.images), len(weak), len(strong)])
        labels, used = self._pseudo_labels(weak_logits.detach().softmax(1))
        if mix is None:
            unlabelled = pseudo_label_loss(strong_logits, labels, used)
        else:
            unlabelled = mixed_loss(strong_logits, labels, used, partner=mix[0], share=mix[1])
        losses = {"labels": F.cross_entropy(known, self.labels[labelled.indices]), "unlabelled": unlabelled}
        total = losses["labels"] + self.config.unlabelled_weight * unlabelled
        if self.config.fairness:
            losses["unfair"] = fairness_loss(strong_logits.softmax(1), used, seen=self.seen, histogram=self.histogram)
            total = total + self.config.fairness * losses["unfair"]
        return {"total": total, **losses, "used": used.mean()}

    def _varied(self, strong: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """Return strong views; of embeddings with dropout and mixed, with the partner and own share of each."""
        strong = varied(strong, dropout=self.config.dropout)
        if not (self.config.mixup and self.problem.holds_vectors):
            return strong, None
        strong, partner, share = mixed_pairs(strong)
        return strong, (partner, share)

    @torch.no_grad()
    def _pseudo_labels(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return the labels (batch,) that weak views get, and which are used; updates the averages of predictions."""
        weight = 1 - self.config.follow
        self.confidence.lerp_(q.amax(1).mean(), weight)
        self.seen.lerp_(q.mean(0), weight)
        self.histogram.lerp_(F.one_hot(q.argmax(1), q.shape[1]).float().mean(0), weight)
        if self.config.alignment != "none":
            q = aligned(q, self.seen, self.wanted)
        confidence, labels = q.max(1)
        if self.config.thresholds == "adaptive":
            return labels, (confidence >= thresholds(self.confidence, self.seen)[labels]).float()
        return labels, (confidence >= self.config.threshold).float()

    def after_step(self, stage: str, step: int) -> None:
        """Let the average of the weights follow, fast at first."""
        self.average.update(self.net, decay=min(self.config.decay, (1 + step) / (10 + step)))

    # ------------------------------------------------------------------------------------------------------- results

    @property
    def starting_point(self) -> StartingPoint:
        """The encoder and the layer of class logits, both averaged."""
        net = self.average.net
        return StartingPoint(self.config.encoder, net.encoder, (net.heads.linear.weight, net.heads.linear.bias))

    def start_from(self, start: StartingPoint) -> None:
        """Take another method's encoder, for the net that is trained, too."""
        super().start_from(start)
        self.net.load_state_dict(self.average.net.state_dict())

    def encode(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of the averaged net."""
        return self.average.net.encoder(images)

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class probabilities and embeddings."""
        embeddings = self.encode(images)
        return self.average.net.heads(embeddings)[:, 0].float().softmax(1), embeddings
