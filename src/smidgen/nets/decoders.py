"""Decoders: features in, images out, standardised like the paper's; training and the report need them."""

from __future__ import annotations

from torch import Tensor, nn

from smidgen.data.shapes import ImageShape, Shape, is_vector
from smidgen.nets.encoder import Encoder
from smidgen.nets.encoders import ConvEncoder
from smidgen.nets.halving import HalvingDecoder, HalvingEncoder
from smidgen.nets.unet import UNetDecoder, UNetEncoder
from smidgen.nets.wide_residual import BIAS, WIDTHS, WideResidualBlock, glorot, small_sides


class ResidualDecoder(nn.Module):
    """The decoder of the UCC paper: linear → 128 small maps → wide residual blocks, two of which double the sides.

    linear → (128, ⌈height / 4⌉, ⌈width / 4⌉) → block 128, ×2 → block 64, ×2 → block 32 → ReLU → conv to the image's
    channels; linear at the end. Sides that are no multiple of 4 are cut to size. batch_norm: as in the RCC report.
    """

    def __init__(self, features: int, image_shape: ImageShape, *, batch_norm: bool = False) -> None:
        super().__init__()
        channels, self.height, self.width = image_shape
        small = small_sides(self.height, self.width)
        third, second, first = WIDTHS
        self.layers = nn.Sequential(
            nn.Linear(features, first * small[0] * small[1]),
            nn.Unflatten(1, (first, *small)),
            WideResidualBlock(first, first, enlarge=True, batch_norm=batch_norm),
            WideResidualBlock(first, second, enlarge=True, batch_norm=batch_norm),
            WideResidualBlock(second, third, batch_norm=batch_norm),
            nn.ReLU(),
            nn.Conv2d(third, channels, 3, padding=1),
        )
        glorot(self, bias=BIAS)

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, channels, height, width) of features (batch, features)."""
        return self.layers(features)[:, :, : self.height, : self.width]


class ConvDecoder(nn.Module):
    """The counterpart of `ConvEncoder`, and a tenth of `ResidualDecoder`'s work; always with batch norm.

    linear → (64, ⌈height / 4⌉, ⌈width / 4⌉) → two transposed 4×4 convolutions that double the sides, to 32 and 16
    channels → 3×3 convolution to the image's channels. Sides that are no multiple of 4 are cut to size.
    """

    def __init__(self, features: int, image_shape: ImageShape) -> None:
        super().__init__()
        channels, self.height, self.width = image_shape
        small = small_sides(self.height, self.width)
        self.layers = nn.Sequential(
            *(nn.Linear(features, 64 * small[0] * small[1]), nn.Unflatten(1, (64, *small)), nn.ReLU()),
            *(nn.ConvTranspose2d(64, 32, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            nn.Conv2d(16, channels, 3, padding=1),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, channels, height, width) of features (batch, features)."""
        return self.layers(features)[:, :, : self.height, : self.width]


class VectorDecoder(nn.Module):
    """Features (batch, features) to ready embeddings (batch, outputs) by two linear layers."""

    def __init__(self, features: int, outputs: int, *, batch_norm: bool = False) -> None:
        super().__init__()
        norm = nn.BatchNorm1d(256) if batch_norm else nn.Identity()
        self.layers = nn.Sequential(nn.Linear(features, 256), norm, nn.ReLU(), nn.Linear(256, outputs))

    def forward(self, features: Tensor) -> Tensor:
        """Return (batch, outputs) of features (batch, features)."""
        return self.layers(features)


def make_decoder(features: int, shape: Shape, *, encoder: Encoder | None = None, batch_norm: bool = False) -> nn.Module:
    """Return the decoder for images or ready embeddings of a shape; some encoders have one of their own.

    encoder: what makes the features. Only the decoder of a U-Net takes its `maps` beside them.
    """
    if is_vector(shape):
        return VectorDecoder(features, shape[0], batch_norm=batch_norm)
    if isinstance(encoder, UNetEncoder):
        return UNetDecoder(features, shape, skips=encoder.skips, batch_norm=batch_norm)
    if isinstance(encoder, HalvingEncoder):
        return HalvingDecoder(shape)
    if isinstance(encoder, ConvEncoder):
        return ConvDecoder(features, shape)
    return ResidualDecoder(features, shape, batch_norm=batch_norm)
