"""A small U-Net for UCC and RCC: its way down gives the embeddings, its way up the image, with skips or without."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.shapes import ImageShape
from smidgen.nets.encoder import Encoder, numbered
from smidgen.nets.wide_residual import WIDTHS, StandardiseEach, small_sides


class UNetEncoder(Encoder):
    """The way down: two 3×3 convolutions with ReLU at each of three sizes, 32, 64 and 128 maps, max pooling between.

    Images are standardised one by one and there is no batch norm, as in the UCC paper's net, and the embeddings have as
    many numbers: 128 · 7 · 7 = 6,272 of 28×28 digits. Sides may be odd: halves are rounded up. `mean` and `std` of the
    training images are not used.
    Source: Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015; half its widths, three of its five sizes, and padding.

    skips: whether the decoder is given copies of the first two sizes' maps. They hold the whole image, so it can be
    rebuilt without the features: this is offered to show that failure, and False to show what the skips do to it.
    """

    def __init__(self, image_shape: ImageShape, *, skips: bool, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.skips = skips
        self.standardise = StandardiseEach()
        self.sizes = nn.ModuleList(_double_conv(before, after) for before, after in pairwise((channels, *WIDTHS)))
        _start(self)
        height, width = small_sides(height, width)
        self.features = WIDTHS[-1] * height * width

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of images (batch, channels, height, width) in [0, 1]."""
        return self._down(images, sizes=len(WIDTHS))[-1].flatten(1)

    def stages(self) -> dict[str, nn.Module]:
        """Return the pairs of convolutions, the largest sides first."""
        return numbered("size", self.sizes)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the decoder copies, the smaller sides first; nothing without skips.

        (batch, 64, ⌈height / 2⌉, ⌈width / 2⌉) and (batch, 32, height, width) of images (batch, channels, height,
        width).
        """
        return tuple(reversed(self._down(images, sizes=len(WIDTHS) - 1))) if self.skips else ()

    def _down(self, images: Tensor, *, sizes: int) -> list[Tensor]:
        """Return the maps of the first sizes, the largest sides first."""
        x, found = self.standardise(images), []
        for i in range(sizes):
            x = self.sizes[i](F.max_pool2d(x, 2, ceil_mode=True) if i else x)
            found.append(x)
        return found


class UNetDecoder(nn.Module):
    """The way up: linear → 128 small maps; twice doubled sides, the skip's maps beside, two convolutions; the image.

    linear → (128, ⌈height / 4⌉, ⌈width / 4⌉) → ×2, beside 64 maps → 64 → ×2, beside 32 maps → 32 → conv to the image's
    channels; linear at the end. Sides are doubled by nearest neighbour and cut to size. skips: as in `UNetEncoder`;
    without them nothing lies beside. batch_norm: after each convolution but the last.
    """

    def __init__(self, features: int, image_shape: ImageShape, *, skips: bool, batch_norm: bool = False) -> None:
        super().__init__()
        channels, height, width = image_shape
        small = small_sides(height, width)
        third, second, first = WIDTHS
        self.sides = ((-(-height // 2), -(-width // 2)), (height, width))
        self.start = nn.Sequential(nn.Linear(features, first * small[0] * small[1]), nn.Unflatten(1, (first, *small)))
        self.sizes = nn.ModuleList(
            _double_conv(before + skips * after, after, batch_norm=batch_norm)
            for before, after in ((first, second), (second, third))
        )
        self.image = nn.Conv2d(third, channels, 3, padding=1)
        _start(self)

    def forward(self, features: Tensor, *maps: Tensor) -> Tensor:
        """Return (batch, channels, height, width) of features (batch, features) and what `UNetEncoder.maps` gives."""
        x = self.start(features)
        for i, (height, width) in enumerate(self.sides):
            x = F.interpolate(x, scale_factor=2, mode="nearest")[:, :, :height, :width]
            x = self.sizes[i](torch.cat([x, *maps[i : i + 1]], 1))
        return self.image(x)


def _double_conv(inputs: int, outputs: int, *, batch_norm: bool = False) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before in (inputs, outputs):
        norm = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        layers += [nn.Conv2d(before, outputs, 3, padding=1), norm, nn.ReLU()]
    return nn.Sequential(*layers)


def _start(net: nn.Module) -> None:
    """Draw convolutions as the U-Net paper does, Gaussian with deviation √(2 / inputs), and linear layers by Glorot.

    Without shortcuts Glorot's smaller kernels would let an image fade on its way.
    """
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
