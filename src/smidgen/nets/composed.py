"""Encoders made of several parts, described as data: options and saved models hold these, and runs hand them on."""

from __future__ import annotations

from msgspec import Struct
from torch import Tensor, nn

from smidgen.nets.encoder import Encoder
from smidgen.options import Count


class Gradients(Struct, frozen=True, tag="gradients", forbid_unknown_fields=True):
    """A net of ours, by its name, that sees the gradients of images: `sobel:NET` on the command line."""

    net: str

    def __str__(self) -> str:
        return f"sobel:{self.net}"


class Projected(Struct, frozen=True, tag="projected", forbid_unknown_fields=True, omit_defaults=True):
    """Vectors on their principal components, and a layer of hidden units on these where there is one.

    Only runs that start from another one have it: new, it knows no components and gives zeros.
    """

    components: Count
    hidden: Count | None = None

    def __str__(self) -> str:
        layer = "" if self.hidden is None else f" and a layer of {self.hidden} units"
        return f"{self.components} principal components{layer}"


class Chain(Struct, frozen=True, tag="chain", forbid_unknown_fields=True):
    """A pretrained net, by its name, and an encoder of the vectors that it gives: two runs' nets trained as one."""

    first: str
    then: str | Projected

    def __str__(self) -> str:
        return f"{self.first}, then {self.then}"


EncoderOption = str | Gradients | Projected | Chain
"""The name of a net, see `encoders.make_encoder`, or an encoder of several parts."""


class ChainedEncoder(Encoder):
    """An encoder of images, and another one of the vectors that it gives."""

    def __init__(self, first: Encoder, then: Encoder) -> None:
        super().__init__()
        self.first, self.then, self.features = first, then, then.features
        self.is_pretrained = first.is_pretrained

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of images (batch, channels, height, width) in [0, 1]."""
        return self.then(self.first(images))

    def preactivations(self, images: Tensor) -> Tensor:
        """Return those of the second encoder."""
        return self.then.preactivations(self.first(images))

    def stages(self) -> dict[str, nn.Module]:
        """Return those of the net."""
        return self.first.stages()

    def first_filters(self) -> Tensor | None:
        """Return those of the net."""
        return self.first.first_filters()

    @property
    def freezable(self) -> int:
        """That of the net."""
        return self.first.freezable

    def freeze(self, stages: int | None) -> None:
        """Leave the first stages of the net as they are when it is trained; see there."""
        self.first.freeze(stages)
