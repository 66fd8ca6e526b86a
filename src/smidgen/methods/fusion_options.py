"""The options that both methods of `fusion` have; they mean the same in both, and have a default in each."""

from __future__ import annotations

from dataclasses import MISSING, dataclass

from smidgen.options import Count, CountOrZero, Options, Several, Share, Weight, option


@dataclass(frozen=True, eq=False)
class FusionConfig(Options):
    """Settings of `fusion-images` and of `fusion-embeddings`.

    Both train linear heads in a first stage and then refine what these say.
    """

    heads: Count = option(MISSING, "linear heads that are trained side by side in the first stage")
    steps: Count = option(MISSING, "optimiser steps of the first stage")
    batch_size: Several = option(MISSING, "images per step, besides those of evidence")
    learning_rate: Weight = option(MISSING, "of AdamW, at its peak")
    refine_steps: CountOrZero = option(MISSING, "optimiser steps of the refinement")
    refine_batch_size: Several | None = option(MISSING, "images per step of the refinement; none for `batch_size`")
    refine_learning_rate: Weight | None = option(MISSING, "of AdamW in the refinement; none for `learning_rate`")
    weight_decay: Weight = option(MISSING, "of AdamW")
    components: Count = option(MISSING, "principal components, of the pixels or embeddings, by which images are near")
    neighbours: Count = option(MISSING, "how many nearest images count as neighbours")
    refine_balance: Weight = option(MISSING, "weight of the entropy of the mean assignment in the refinement")
    threshold: Share = option(MISSING, "the confidence above which the net's slow average labels an image")
    decay: Share = option(MISSING, "of the net's slow average")
    evidence: Weight = option(MISSING, "weight of every kind of evidence")
    wrong: Share = option(MISSING, "the share of the evidence that may be wrong")
    bag_images: Count = option(MISSING, "the most images that the bags of a step may have together, one bag at least")

    def images_per_step(self, stage: str) -> int:
        """Return the batch size of a stage."""
        return self.batch_size if stage != "refine" or self.refine_batch_size is None else self.refine_batch_size

    def peak_rate(self, stage: str) -> float:
        """Return the learning rate of a stage, at its peak."""
        is_own = stage == "refine" and self.refine_learning_rate is not None
        return self.refine_learning_rate if is_own else self.learning_rate  # type: ignore[return-value]
