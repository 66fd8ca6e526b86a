"""Options that both methods of `fusion` share, with the same meaning and defaults of their own; those on embeddings."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from typing import Literal

from smidgen.methods.priors import prior_option, read_shares
from smidgen.options import Count, CountOrZero, Options, Several, Share, ShareBelowOne, Weight, option

LEAST_WRONG = 1e-3
"""The assumed fraction of wrong labels at least, where the teacher has a say: it may contradict one firmly."""


@dataclass(frozen=True, eq=False)
class FusionConfig(Options):
    """Settings of `fusion-images` and of `fusion-embeddings`.

    Both train linear heads in a first stage and then refine their assignments. Both have one default of `prior`.
    """

    heads: Count = option(MISSING, "linear heads trained in parallel in the first stage")
    steps: Count = option(MISSING, "optimiser steps of the first stage")
    batch_size: Several = option(MISSING, "images per step, besides those of evidence")
    learning_rate: Weight = option(MISSING, "of AdamW, at its peak")
    refine_steps: CountOrZero = option(MISSING, "optimiser steps of the refinement")
    refine_batch_size: Several | None = option(MISSING, "images per step of the refinement; none for `batch_size`")
    refine_learning_rate: Weight | None = option(MISSING, "of AdamW in the refinement; none for `learning_rate`")
    weight_decay: Weight = option(MISSING, "of AdamW")
    components: Count = option(MISSING, "principal components of pixels or embeddings in which neighbours are found")
    neighbours: Count = option(MISSING, "number of nearest neighbours per image")
    refine_balance: Weight = option(
        MISSING, "weight of the divergence of clusters' shares from `prior` in the refinement"
    )
    threshold: Share = option(MISSING, "confidence above which the EMA teacher's prediction is used as a pseudo-label")
    decay: Share = option(MISSING, "of the EMA teacher")
    evidence: Weight = option(MISSING, "loss weight of each kind of evidence")
    wrong: Share = option(
        MISSING, "assumed fraction of wrong evidence; that of counts is learned, beginning here, unless it is 0"
    )
    bag_images: Count = option(MISSING, "most images in the bags of one step, but at least one bag")
    prior: str = prior_option("learned", of="clusters")

    def __post_init__(self) -> None:
        super().__post_init__()
        read_shares(self.prior)

    def images_per_step(self, stage: str) -> int:
        """Return the batch size of a stage."""
        return self.batch_size if stage != "refine" or self.refine_batch_size is None else self.refine_batch_size

    def peak_rate(self, stage: str) -> float:
        """Return the learning rate of a stage, at its peak."""
        is_own = stage == "refine" and self.refine_learning_rate is not None
        return self.refine_learning_rate if is_own else self.learning_rate  # type: ignore[return-value]


@dataclass(frozen=True, eq=False)
class FusionEmbeddingsConfig(FusionConfig):
    """Settings of `fusion-embeddings`; the defaults were measured on CIFAR-10 and on small collections (LAB.md)."""

    heads: Count = 32
    steps: Count = 720
    batch_size: Several = 2048
    learning_rate: Weight = 3e-3
    refine_steps: CountOrZero = option(1500, "optimiser steps of the refinement, where there is evidence")
    refine_batch_size: Several | None = 1024
    refine_learning_rate: Weight | None = 1e-3
    weight_decay: Weight = 1e-2
    components: Count = 256
    neighbours: Count = option(30, "number of nearest neighbours per image, at most half of the mean cluster size")
    rounds: Count = option(8, "rounds of moving features towards their neighbours")
    refine_balance: Weight = 0.5
    threshold: Share = 0.8
    decay: Share = 0.99
    evidence: Weight = 1.0
    wrong: Share = 0.1
    bag_images: Count = 1536
    kept: Count = option(8, "number of heads trained beyond the first half of their stage")
    votes: Count = option(5, "number of heads in the ensemble")
    softness: Share = option(0.7, "target of the heads' loss / ln(clusters): 0 is confident, 1 uniform")
    final_softness: Share = option(0.5, "`softness` at the end of the stage")
    gain: Weight = option(0.02, "step size of the temperature towards `softness`")
    sees: Literal["auto", "components", "embeddings"] = option(
        "auto",
        "whether the network that learns from evidence is shown principal components, or all numbers of an embedding,"
        " which is for labels alone; auto is all for labels alone of many images",
    )
    hidden: Count = option(512, "hidden units of the network that learns from evidence, where it sees components")
    dropout: ShareBelowOne = option(0.5, "of that layer")
    warm: Share = option(0.3, "fraction of the refinement over which distillation of the ensemble fades out")
    small: CountOrZero = option(600, "images per cluster below which one layer learns from heads, k-means and labels")
    leak: Share = option(0.1, "probability that an image looks like a class that its bag does not hold")
