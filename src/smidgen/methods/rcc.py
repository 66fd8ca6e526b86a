"""RCC: clustering from the class counts of bags, by densities of features or image by image.

Idea. UCC's network with stronger evidence: besides the unique class count, a second head predicts the number of images
of each class ("real class counts") from the same densities, and a decoder regularises the features. Proportions are
much more informative than counts, and they name the classes. The alternative, DLLP, has a softmax per image and trains
its mean over the bag to match the known proportions: `counts = "dllp"`.

Source. The RCC report (docs/methods.md §2), whose settings are the defaults where it states them; DLLP after Ardehaly
and Culotta, "Co-training for demographic classification using deep learning from label proportions", ICDMW 2017. The
loss that ties the two heads, which the report suggests, and the assignment inside bags are ours.

Equation → function
    mean_k (n_k − n̂_k)², n̂ = LeakyReLU net of the densities      raw_count_loss
    −Σ_k π_k log mean_i p_ik                                      dllp_loss
    (Σ_k P(class k is there) − E[u])²                             tie_loss
    best one-to-one labels of a bag's images with known counts    assign_in_bag
    (reconstruction + CE(u) + counts) / 3 + tie                   RCC.loss

Clusters. With "mse" single images are not classified: clusters are k-means on the features, as in UCC, named by the
proportions of the bags that they appear in. With "dllp" the softmax classifies each image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part
from smidgen.errors import InputError
from smidgen.evidence.terms import EvidenceTerms
from smidgen.hardware import to_device
from smidgen.maths.likelihoods import bag_means, bag_sums
from smidgen.maths.matching import in_order_of_classes
from smidgen.methods.bag_method import BagMethod, BagStart
from smidgen.methods.bag_options import BagConfig
from smidgen.methods.base import BagHeads, Embed, EvidenceUse, Problem, Stage, StartingPoint
from smidgen.nets.bag_net import HeadActivation, HeadStart, bag_head, expected_count, try_copy_weights
from smidgen.nets.composed import EncoderOption
from smidgen.options import Count, Share, Weight, option


@dataclass(frozen=True, eq=False)
class RCCConfig(BagConfig):
    """Settings of `rcc`, those of `BagConfig` among them; the defaults are the report's where it states them."""

    encoder: EncoderOption = option(
        "wide-residual",
        "the encoder before the feature layer, see `smidgen list encoders`; the report's was a pretrained ResNeXt, and"
        " any of timm's can be",
    )
    counts: Literal["mse", "dllp"] = option(
        "mse",
        "loss of class counts: mse of raw counts from densities as in the report or dllp from a softmax per image",
    )
    bag_size: str = "36"
    head_activation: HeadActivation = "leaky-relu"
    head_start: HeadStart = "pytorch"
    decoder_norm: bool = True
    augment: bool = True
    steps: Count = option(2000, "optimiser steps after the warm-up; the report's were 100,000")
    schedule: Literal["constant", "cosine", "one-cycle", "warm-cosine"] = option(
        "one-cycle", "of the learning rate, ours"
    )
    learning_rate: Weight = 1e-3
    weight_decay: Weight = option(1e-4, "of Adam, ours")
    clip: Weight = 1.0
    reconstruction_weight: Weight = option(1 / 3, "of the decoder's loss")
    ucc_weight: Weight = option(1 / 3, "of the loss of unique counts")
    count_weight: Weight = option(1 / 3, "of the loss of class counts")
    tie_weight: Weight = option(0.0, "of the loss that ties the class counts to the unique class count")
    assign_in_bags: Share = option(
        1.0,
        "fraction of training after which images in each bag are labelled by its known counts (dllp only); 1 for never",
    )

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "report": {},
        "fast": {
            "encoder": "conv",
            "counts": "dllp",
            "head_activation": "relu",
            "reconstruction": "none",
            "feature_bias": True,
            "ucc_weight": 0.1,
            "count_weight": 1.0,
            "assign_in_bags": 0.6,
            "steps": 1500,
        },
        "fine-tune": {
            "encoder": "lite0@96",
            "counts": "dllp",
            "head_activation": "relu",
            "reconstruction": "none",
            "feature_bias": True,
            "ucc_weight": 0.1,
            "count_weight": 1.0,
            "assign_in_bags": 0.2,
            "bags": 4,
            "steps": 2000,
            "learning_rate": 2e-3,
            "encoder_rate": 0.15,
            "frozen_stages": 3,
            "weight_decay": 0.0,
        },
    }
    """Options by name: "report" is the defaults; "fast" learns image by image, then labels images inside their bags;
    "fine-tune" does the same with a net trained on photographs, all of whose weights go on learning."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.warmup_steps and not self.reconstruction_weight:
            raise InputError("`warmup_steps` trains the decoder: it needs a `reconstruction_weight` above 0.")
        if self.assign_in_bags < 1 and self.counts != "dllp":
            raise InputError("`assign_in_bags` needs a class for each image: set `counts` to dllp.")


def raw_count_loss(predicted: Tensor, counts: Tensor) -> Tensor:
    """Return mean_k (n_k − n̂_k)² of each bag, (bags,), on raw counts as in the report; both (bags, clusters).

    >>> raw_count_loss(torch.tensor([[16.0, 20.0]]), torch.tensor([[18.0, 18.0]]))
    tensor([4.])
    """
    return (predicted - counts).square().mean(1)


def dllp_loss(assignments: Tensor, offsets: Tensor, shares: Tensor) -> Tensor:
    """Return −Σ_k π_k log mean_i p_ik of each bag, (bags,), at least the entropy of π; the mean is clamped at 1e-6.

    assignments: (images, clusters), rows sum to one. offsets: (bags + 1,) int64. shares: π (bags, clusters).

    >>> p = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
    >>> dllp_loss(p, torch.tensor([0, 2]), torch.tensor([[0.0, 1.0]]))  # −log .75
    tensor([0.2877])
    """
    return -(shares * bag_means(assignments, offsets).clamp_min(1e-6).log()).sum(1)


def tie_loss(presence: Tensor, log_counts: Tensor) -> Tensor:
    """Return (Σ_k P(class k is there) − E[u])² of each bag, (bags,): class counts must imply the unique class count.

    presence: (bags, clusters) in [0, 1]. log_counts: log P(u = 1, 2, …), (bags, counts).

    >>> tie_loss(torch.tensor([[1.0, 1.0, 0.0]]), torch.tensor([[0.5, 0.5]]).log())
    tensor([0.2500])
    """
    return (presence.sum(1) - expected_count(log_counts)).square()


def presence_of_counts(predicted: Tensor) -> Tensor:
    """Return 1 − exp(−max(n̂, 0)), (bags, clusters): whether a class is there, from its predicted count.

    >>> presence_of_counts(torch.tensor([[-1.0, 0.0, 18.0]]))
    tensor([[0., 0., 1.]])
    """
    return -torch.expm1(-predicted.clamp_min(0))


def presence_of_images(assignments: Tensor, offsets: Tensor) -> Tensor:
    """Return 1 − Π_i (1 − p_ik), (bags, clusters): whether any image of the bag is of class k."""
    logs = torch.log1p(-assignments.clamp_max(1 - 1e-6))
    return -torch.expm1(bag_sums(logs, offsets))


def assign_in_bag(assignments: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the labels (images,) int64 of a bag's images that are likeliest together, given its classes' shares.

    Each class k is given to shares_k · images of them (rounded so that they sum to the images); among all ways, the one
    of largest Σ_i log p_i,label (Hungarian method). assignments: (images, clusters). shares: (clusters,), sum one.

    >>> assign_in_bag(np.array([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]]), np.array([2 / 3, 1 / 3])).tolist()
    [0, 1, 0]
    """
    slots = np.repeat(np.arange(len(shares)), _whole_counts(shares, len(assignments)))
    gain = np.log(np.maximum(assignments, 1e-12))[:, slots]
    rows, columns = linear_sum_assignment(gain, maximize=True)
    labels = np.empty(len(assignments), dtype=np.int64)
    labels[rows] = slots[columns]
    return labels


def _whole_counts(shares: np.ndarray, n: int) -> np.ndarray:
    """Return whole numbers that sum to n, nearest to shares · n: the largest remainders are rounded up."""
    exact = shares / shares.sum() * n
    counts = np.floor(exact + 1e-6).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: n - counts.sum()]] += 1
    return counts


class RCC(BagMethod):
    """See the module's docstring."""

    name = "rcc"
    evidence_use = EvidenceUse(kinds=("labels", "counts", "proportions"), needs_labels=True)

    config: RCCConfig

    def __init__(self, config: RCCConfig, problem: Problem) -> None:
        super().__init__(config, problem, with_classes=True, decodes=config.reconstruction_weight > 0)
        self.counts_classes = config.counts == "mse"  # of a bag from its densities, or image by image
        self.classifier: nn.Module = (
            bag_head(self.net.bag_features, problem.n_clusters, activation=config.head_activation)
            if self.counts_classes
            else nn.Linear(self.net.encoder.features, problem.n_clusters)
        )

    @property
    def starting_point(self) -> BagStart:
        """UCC's starting point, and the head for classes."""
        names = self.problem.evidence.class_names
        return dataclasses.replace(super().starting_point, classifier=self.classifier, class_names=names)

    def start_from(self, start: StartingPoint) -> None:
        """Load another method's network, as UCC does, and from an RCC of the same classes its class head too."""
        super().start_from(start)
        if not isinstance(start, BagStart) or not isinstance(start.config, RCCConfig):
            return
        if start.class_names != self.problem.evidence.class_names:
            return
        if self.config.counts == start.config.counts == "dllp" or self.has_densities_of(start):
            try_copy_weights(self.classifier, start.classifier)

    def stages(self) -> list[Stage]:
        """Return "warmup", if there is any, and "train"."""
        self.source.validate(self.name, what="proportions or class counts of bags")
        if not self.source.samples_bags and not len(self.problem.evidence.proportion_bags):
            raise InputError("`rcc` needs proportions or class counts of bags; from unique counts alone, `ucc` learns.")
        return super().stages()

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the weighted losses of counts, unique count and reconstruction, and the tie of the first two."""
        part, config = parts["bags"], self.config
        assert part.offsets is not None
        embeddings = self.embeddings(part.images, stage=stage)
        features = self.features(embeddings)
        rebuilt = self.reconstruction_loss(features, part.images)
        losses = {} if rebuilt is None else {"reconstruction": rebuilt}
        if stage == "warmup":
            assert rebuilt is not None
            return {"total": rebuilt, **losses}
        densities = self.densities(features, part.offsets, progress=progress)
        counted, log_counts = self.count_losses(densities, part)
        found, presence = self._class_losses(embeddings, densities, part, progress=progress)
        losses |= counted | found
        if config.tie_weight:
            losses["tie"] = tie_loss(presence, log_counts).mean()
        weights = {"reconstruction": config.reconstruction_weight, "ucc": config.ucc_weight,
                   "class_counts": config.count_weight, "tie": config.tie_weight}  # fmt: skip
        total = sum((weights[name] * losses[name] for name in weights if name in losses), embeddings.new_zeros(()))
        return {"total": total, **losses}

    def _class_losses(
        self, embeddings: Tensor, densities: Tensor, part: Part, *, progress: int
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the loss of class counts over the bags with known ones, and which classes seem to be present."""
        assert part.offsets is not None
        shares, known = self.source.known(part)[2], self.source.with_known_proportions(part)
        told, sizes = shares.nan_to_num(nan=0.0), to_device(part.offsets.diff().unsqueeze(1), shares.device)
        if self.counts_classes:
            predicted = self.classifier(densities).float()
            loss, found = raw_count_loss(predicted, told * sizes), predicted / sizes
            presence = presence_of_counts(predicted)
        else:
            p = self.classifier(embeddings).float().softmax(1)
            loss, found = dllp_loss(p, part.offsets, told), bag_means(p, part.offsets)
            if progress >= self.config.assign_in_bags * self.config.steps:
                loss = self._in_bag_loss(p, part.offsets, told)
            presence = presence_of_images(p, part.offsets)
        errors = found - told
        if known is not None:
            if not len(known):
                return {"class_counts": loss.sum() * 0}, presence
            loss, errors = loss[known], errors[known]
        return {"class_counts": loss.mean(), "proportion_error": errors.detach().abs().sum(1).mean() / 2}, presence

    def _in_bag_loss(self, p: Tensor, offsets: Tensor, shares: Tensor) -> Tensor:
        """Return the mean cross-entropy with the labels that each bag's counts give its images, (bags,)."""
        rows, starts = p.detach().cpu().numpy(), offsets.tolist()
        labels = [
            assign_in_bag(rows[a:b], pi) if pi.any() else np.zeros(b - a, dtype=np.int64)
            for a, b, pi in zip(starts[:-1], starts[1:], shares.cpu().numpy(), strict=True)
        ]
        targets = to_device(torch.from_numpy(np.concatenate(labels)), p.device)
        each = F.nll_loss(p.clamp_min(1e-6).log(), targets, reduction="none")
        return bag_means(each.unsqueeze(1), offsets).squeeze(1)

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Find the clusters by k-means on the features of all training images, and name them by the evidence.

        A softmax for each image needs none of it.
        """
        if not self.counts_classes:
            return
        features = embed(self.net)
        self.clusters.find(features, generator=generator)
        terms = EvidenceTerms(self.problem.evidence, self.problem.n_clusters)
        votes = terms.class_evidence(self.clusters.of_all(features))
        if votes.shape[1]:
            self.clusters.reorder(torch.tensor(in_order_of_classes(votes.numpy())))

    def assign(self, images: Tensor) -> Tensor:
        """Return assignments (batch, clusters): the softmax of each image, or the distance from k-means' centroids."""
        if not self.counts_classes:
            return self.classifier(self.net.encoder(images)).float().softmax(1)
        return super().assign(images)

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and features."""
        if self.counts_classes:
            return super().assign_and_encode(images)
        embeddings = self.net.encoder(images)
        return self.classifier(embeddings).float().softmax(1), self.net.features(embeddings)

    def after_step(self, stage: str, step: int) -> None:
        """Cluster the latest features at intervals, where clusters come from k-means."""
        if self.counts_classes:
            super().after_step(stage, step)

    @torch.no_grad()
    def class_counts(self, features: Tensor, assignments: Tensor, offsets: Tensor) -> Tensor:
        """Return how many images of each class bags hold, (bags, clusters), as predicted: not whole, maybe below 0.

        features, assignments: (images, J) and (images, clusters), of `encode` and `assign`.
        """
        if not self.counts_classes:
            return bag_means(assignments, offsets) * offsets.diff().unsqueeze(1)
        return self.classifier(self.net.describe(features, offsets, bandwidth=self.config.bandwidth)).float()

    def bag_heads(self) -> BagHeads:
        """Return UCC's heads, and the head for class counts."""
        return dataclasses.replace(
            super().bag_heads(), class_counts=self.class_counts, counts_by_head=self.counts_classes
        )
