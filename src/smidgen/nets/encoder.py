"""What every encoder is: images in, embeddings of a known length out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from smidgen.errors import InputError


class Normalise(nn.Module):
    """Subtract the mean and divide by the standard deviation of each channel (a constant channel is only centred).

    of_vectors: whether (batch, features) are standardised, feature by feature, and not images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], *, of_vectors: bool = False) -> None:
        super().__init__()
        axes = (-1,) if of_vectors else (-1, 1, 1)
        self.register_buffer("mean", torch.tensor(mean).view(axes))
        varies = [s > 1e-7 * abs(m) for m, s in zip(mean, std, strict=True)]  # by more than float32 rounds the mean
        self.register_buffer(
            "std", torch.tensor([s if v else 1.0 for s, v in zip(std, varies, strict=True)]).view(axes)
        )

    def forward(self, images: Tensor) -> Tensor:
        """Return (batch, channels, height, width), or vectors (batch, features), standardised."""
        return (images - self.mean) / self.std


def numbered(name: str, modules: Iterable[nn.Module]) -> dict[str, nn.Module]:
    """Return modules by a name and their number, from 1.

    >>> numbered("conv", [nn.ReLU()])
    {'conv1': ReLU()}
    """
    return {f"{name}{number}": module for number, module in enumerate(modules, start=1)}


class Encoder(nn.Module):
    """Images (batch, channels, height, width) in [0, 1] in, embeddings (batch, features) out."""

    features: int

    def preactivations(self, images: Tensor) -> Tensor:
        """Return the embeddings as they are before the last activation; the embeddings where the net has none there."""
        return self(images)

    def stages(self) -> dict[str, nn.Module]:
        """Return the modules whose outputs are the net's stages, by name, first to last; nothing where there are none.

        A stage gives maps (batch, channels, height, width) or tokens (batch, tokens, features). The embedding is no
        stage.
        """
        return {}

    def first_filters(self) -> Tensor | None:
        """Return the weights (filters, channels, height, width) of the first convolution; None where there is none."""
        return next((weights for weights in self.parameters() if weights.ndim == 4), None)

    is_pretrained = False
    """Whether the net comes with weights that it learned elsewhere."""

    @property
    def freezable(self) -> int:
        """How many first stages `freeze` can leave as they are."""
        return 0

    def freeze(self, stages: int | None) -> None:
        """Leave the first stages as they are when the net is trained, None for as many as suit it.

        Raises InputError where it has fewer.
        """
        if stages:
            raise InputError(f"{type(self).__name__} has no stages to freeze: leave `frozen_stages` at 0.")
