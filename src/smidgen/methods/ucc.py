"""UCC: clustering from only the number of different classes in each bag.

Idea. Of a bag of images only its unique class count (ucc) is known. Features are bounded, each is pooled into its
density over the bag, and a small head predicts the count from the densities; a decoder regularises the features. A head
that never errs on pure bags and on bags of two must have separated all classes in feature space, so k-means on the
features finds the classes.

Source. Oner, Lee and Sung, "Weakly supervised clustering by exploiting unique class count", ICLR 2020 (docs/methods.md
§1), written from the equations; initial weights and what the optimiser does are those of the authors' released Keras
code. The log-space form of the density, the other activations, log densities, annealing, warm starts and ranges of
counts are ours.

Equation → function
    h_jm = Σ_i N(x_m; f_ij, σ) / Σ_m' Σ_i N(x_m'; f_ij, σ)       maths.kde.log_densities
    P(u | bag) = softmax over the admissible counts of MLP(h)    nets.bag_net.CountHead
    CE(u) = −log P(u | bag)                                      nets.bag_net.count_cross_entropy
    MSE(image, decoder(f))                                       maths.reconstruction.mse, .ssim
    α CE + (1 − α) MSE                                           ucc_objective

Deviations from the paper. The nets compute in bfloat16 where the machine does (`--precision float32` for not): their
gradients have a cosine of .98 or more with those of float32. Adam's ε is 1e-8 instead of Keras' 1e-7. Images are
assigned to the k-means centroids of the training images; the paper's clustering accuracy, k-means of the test images
alone, is `test_kmeans_accuracy`.

The four variants: `UCC` is the default; `UCC2+` never sees a pure bag (`ucc = "2-4"`, or evidence without any);
`UCC α=1` has no decoder (`alpha = 1`); and both. The bags are those of the evidence, whatever their sizes and counts;
where there is no bag but labels, sampled bags are drawn from them at each step, as the paper does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from smidgen.data.batches import Part
from smidgen.errors import InputError
from smidgen.methods.bag_method import BagMethod
from smidgen.methods.bag_options import BagConfig
from smidgen.methods.base import EvidenceUse, Problem, Stage
from smidgen.options import Count, Share, option

_OURS: Mapping[str, Any] = {"clip": 1.0, "head_start": "pytorch"}
"""What the presets have in common that are not the paper's."""


@dataclass(frozen=True, eq=False)
class UCCConfig(BagConfig):
    """Settings of `ucc`, those of `BagConfig` among them; the defaults are the paper's but for `steps`."""

    steps: Count = option(
        2000,
        "optimiser steps after the warm-up; the paper trained for up to a million, its released code for 128,000",
    )
    alpha: Share = option(0.5, "α, weight of the count's cross-entropy; 1 for no decoder, 0 for an autoencoder")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "paper-short": {"schedule": "one-cycle", "learning_rate": 1e-3},
        "report": {
            **_OURS,
            "encoder": "resnext50_32x4d",
            "bag_size": "24",
            "decoder_norm": True,
            "head_activation": "leaky-relu",
            "augment": True,
            "schedule": "one-cycle",
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
        },
        "fast": {
            **_OURS,
            "encoder": "conv",
            "features": 128,
            "alpha": 1.0,
            "log_output": True,
            "schedule": "one-cycle",
            "learning_rate": 3e-3,
            "feature_bias": True,
            "augment": True,
            "augment_until": 0.8,
            "bag_size": "4-12",
            "bags": 60,
        },
        "warm": {
            **_OURS,
            "encoder": "conv",
            "alpha": 1.0,
            "activation": "softmax",
            "schedule": "one-cycle",
            "learning_rate": 1e-3,
            "feature_bias": True,
            "augment": True,
            "bag_size": "6-16",
            "bags": 40,
            "steps": 600,
        },
        "warm-embeddings": {
            **_OURS,
            "alpha": 1.0,
            "activation": "softmax",
            "schedule": "one-cycle",
            "learning_rate": 3e-3,
            "encoder_rate": 0.01,
            "feature_bias": True,
            "steps": 800,
        },
    }
    """Options by name: "paper" is the defaults; "paper-short" the same with a learning rate for 2,000 steps instead of
    the paper's 128,000 and more; "report" is the base model of the RCC report, whose rates and decay are
    ours where it states none; "fast" learns from scratch in minutes; "warm" goes on from another run
    (`--init-from`), whose softmax head becomes the features where there are as many as clusters. Its sampled bags are
    small: in a bag of 32 single images that lie wrong do not change the count, and nothing puts them right.
    "warm-embeddings" does so on a frozen encoder's embeddings: a fast head on features that hardly move, because where
    a fifth of the images look like another class, densities know less of them than the run they come from."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha == 0 and self.reconstruction == "none":
            raise InputError("With `alpha` 0 only the decoder learns: it needs `reconstruction` to be mse or ssim.")
        if self.warmup_steps and self.alpha == 1:
            raise InputError("`warmup_steps` trains the decoder, and with `alpha` 1 there is none: lower `alpha`.")


def ucc_objective(ucc: Tensor, reconstruction: Tensor | None, *, alpha: float) -> Tensor:
    """Return α · cross-entropy + (1 − α) · reconstruction, (); without a decoder the first term alone.

    >>> import torch
    >>> ucc_objective(torch.tensor(1.0), torch.tensor(3.0), alpha=0.75)
    tensor(1.5000)
    """
    return alpha * ucc if reconstruction is None else alpha * ucc + (1 - alpha) * reconstruction


class UCC(BagMethod):
    """See the module's docstring."""

    name = "ucc"
    evidence_use = EvidenceUse(kinds=("counts",), needs_labels=True)

    config: UCCConfig

    def __init__(self, config: UCCConfig, problem: Problem) -> None:
        super().__init__(config, problem, with_classes=False, decodes=config.alpha < 1)

    def stages(self) -> list[Stage]:
        """Return "warmup", if there is any, and "train"."""
        self.source.validate(self.name, what="unique class counts of bags")
        return super().stages()

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the objective, its terms, and the share of right counts; reconstruction alone in the warm-up."""
        part = parts["bags"]
        assert part.offsets is not None
        features = self.features(self.embeddings(part.images, stage=stage))
        rebuilt = self.reconstruction_loss(features, part.images)
        if stage == "warmup":
            assert rebuilt is not None
            return {"total": rebuilt, "reconstruction": rebuilt}
        losses, _ = self.count_losses(self.densities(features, part.offsets, progress=progress), part)
        total = ucc_objective(losses["ucc"], rebuilt, alpha=self.config.alpha)
        return {"total": total, **losses} | ({} if rebuilt is None else {"reconstruction": rebuilt})
