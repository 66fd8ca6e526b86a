"""A fixed Sobel filter before a net: it learns from edges, and cannot cluster by colour."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from smidgen.nets.encoder import Encoder, Normalise

SOBEL = "sobel:"
"""Before the name of an encoder: its images are gradients."""


def sobel_filter(channels: int = 3) -> nn.Sequential:
    """Return two convolutions without gradient: the mean of the channels, then its derivatives along x and y.

    (batch, channels, height, width) → (batch, 2, height, width).

    >>> ramp = torch.arange(5.0).expand(1, 1, 5, 5)
    >>> sobel_filter(1)(ramp)[0, :, 2, 2].tolist()
    [-8.0, 0.0]
    """
    grey, derivatives = nn.Conv2d(channels, 1, kernel_size=1), nn.Conv2d(1, 2, kernel_size=3, padding=1)
    along_x = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
    with torch.no_grad():
        grey.weight.fill_(1 / channels)
        derivatives.weight.copy_(torch.stack([along_x, along_x.T])[:, None])
        for layer in (grey, derivatives):
            layer.bias.zero_()  # type: ignore[union-attr]
    return nn.Sequential(grey, derivatives).requires_grad_(False)


class SobelEncoder(Encoder):
    """An encoder of the gradients of images, which it gets as two channels."""

    def __init__(self, encoder: Encoder, channels: int, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalise, self.sobel, self.encoder = Normalise(mean, std), sobel_filter(channels), encoder
        self.features = encoder.features

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of images (batch, channels, height, width) in [0, 1]."""
        return self.encoder(self.sobel(self.normalise(images)))

    def stages(self) -> dict[str, nn.Module]:
        """Return those of the encoder."""
        return self.encoder.stages()

    def first_filters(self) -> Tensor | None:
        """Return those of the encoder: the filter before it is fixed."""
        return self.encoder.first_filters()

    def preactivations(self, images: Tensor) -> Tensor:
        """Return those of the encoder."""
        return self.encoder.preactivations(self.sobel(self.normalise(images)))
