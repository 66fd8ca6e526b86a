"""Options that UCC and RCC share: those of the UCC paper, those that presets change, and those for comparison."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from smidgen.errors import InputError
from smidgen.methods.bag_source import span
from smidgen.nets.bag_net import Activation, HeadActivation, HeadStart
from smidgen.nets.composed import EncoderOption
from smidgen.options import Count, CountOrZero, Options, Positive, Several, Share, Weight, option

FURTHER = "Beyond the UCC paper, as presets use them:"
COMPARED = "For comparison only; no preset uses them:"


@dataclass(frozen=True, eq=False)
class BagConfig(Options):
    """Settings that UCC and RCC share; the values are those of the UCC paper.

    The paper's come first, then those that presets change, and last what was only tried beside it.
    """

    BATCH: ClassVar[str] = "bags"

    encoder: EncoderOption = option(
        "wide-residual", "the encoder before the feature layer, see `smidgen list encoders`"
    )
    features: Count = option(10, "J, numbers per image")
    points: Several = option(
        11,
        "number of points at which each density is evaluated (the authors' later code: 21, and bandwidth .0167, 32"
        " features, bags of 64, attention)",
    )
    bandwidth: Positive = option(0.1, "σ, the kernel bandwidth of each density")
    reconstruction: Literal["mse", "ssim", "none"] = option("mse", "the decoder's loss; none for no decoder")
    ucc: str = option("1-4", "classes per sampled bag, as 4 or 1-4")
    bag_size: str = option("32", "images per sampled bag, as 32 or 8-40")
    bags: Count = option(20, "bags per step")
    images: Count = option(1024, "most images in the evidence bags of one step")
    steps: Count = option(2000, "optimiser steps after the warm-up")
    learning_rate: Weight = option(1e-4, "of Adam, at its peak")

    activation: Activation = option(
        "sigmoid", "activation that bounds the features; tanh and sine are for comparison", group=FURTHER
    )
    feature_bias: bool = option(False, "whether the feature layer has a bias", group=FURTHER)
    log_output: bool = option(
        False, "whether heads receive log densities, whose gradient does not vanish", group=FURTHER
    )
    head_activation: HeadActivation = option("relu", "between the layers of heads for bags", group=FURTHER)
    head_start: HeadStart = option(
        "glorot",
        "the count head's initial weights: Glorot-uniform with zero biases, or PyTorch's smaller default",
        group=FURTHER,
    )
    decoder_norm: bool = option(False, "whether the decoder has batch norm", group=FURTHER)
    augment: bool = option(False, "augment images by random views", group=FURTHER)
    augment_until: Share = option(
        1.0,
        "the fraction of training after which augmentation is switched off, since it widens the densities of features",
        group=FURTHER,
    )
    schedule: Literal["constant", "cosine", "one-cycle", "warm-cosine"] = option(
        "constant", "of the learning rate", group=FURTHER
    )
    encoder_rate: Weight | None = option(
        None,
        "factor on the learning rate of the encoder, and of features loaded from another run; none is 1, and 0.15 where"
        " the encoder is a pretrained one",
        group=FURTHER,
    )
    frozen_stages: CountOrZero | None = option(
        None,
        "number of first stages of a pretrained encoder that are frozen; none is all but the last two",
        group=FURTHER,
    )
    weight_decay: Weight = option(0.0, "of Adam", group=FURTHER)
    clip: Weight = option(
        0.0, "largest norm of the gradient: a longer one is scaled down to it; 0 for no limit", group=FURTHER
    )

    random_shares: bool = option(
        False, "whether classes in sampled bags have random instead of equal proportions", group=COMPARED
    )
    start_bandwidth: Weight = option(
        0.0, "if above 0, the bandwidth falls from here over the first half of training", group=COMPARED
    )
    attention: bool = option(
        False, "whether images of a bag are weighted by gated attention (Ilse et al.)", group=COMPARED
    )
    warmup_steps: CountOrZero = option(0, "steps of reconstruction only, before the others", group=COMPARED)
    freeze_encoder: bool = option(False, "whether the encoder is frozen after the warm-up", group=COMPARED)

    def __post_init__(self) -> None:
        super().__post_init__()
        span(self.ucc, what="ucc")
        span(self.bag_size, what="bag_size")
        if self.warmup_steps and self.reconstruction == "none":
            raise InputError("`warmup_steps` trains the decoder: it needs `reconstruction` to be mse or ssim.")
