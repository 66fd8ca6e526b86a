"""The encoder of the UCC paper: wide residual blocks without batch norm, on images standardised one by one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.shapes import ImageShape
from smidgen.nets.encoder import Encoder, numbered

FIRST = 16
WIDTHS = (32, 64, 128)
STRIDES = (1, 2, 2)
BIAS = 0.1  # at the start, but for shortcuts
_LEAST_STD = 1e-3  # of an image with pixels in [0, 1]; a quarter of one grey level of 255


class StandardiseEach(nn.Module):
    """Subtract each image's own mean and divide by its own standard deviation; a constant image is only centred."""

    def forward(self, images: Tensor) -> Tensor:
        """Return (batch, channels, height, width), each image with mean 0 and deviation 1 over all its numbers."""
        mean, std = image_statistics(images)
        # With one channel the strides of an array do not say in which order its pixels are, and the convolution that is
        # chosen by them rounds differently: the copy has the usual ones.
        return ((images - mean) / std).clone(memory_format=torch.contiguous_format)


def image_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return each image's or vector's mean and standard deviation, (batch, 1, …) both; 1 where it is constant."""
    numbers = tuple(range(1, images.ndim))
    mean = images.mean(numbers, keepdim=True)
    std = (images - mean).square().mean(numbers, keepdim=True).sqrt()
    return mean, torch.where(std > _LEAST_STD, std, 1.0)


class WideResidualBlock(nn.Module):
    """ReLU → conv → ReLU → conv, added to a shortcut from after the first ReLU.

    x₀ = ReLU(x), out = shortcut(x₀) + conv(ReLU(conv(x₀))). Shortcut: a 1×1 convolution where the sides are halved;
    channels are filled up with zeros where there are more, and where there are fewer (decoder only) a 1×1 convolution
    makes them. stride: 2 halves the sides (rounded up), with zeros around as Keras' "same" has them: of an even side
    only after the end. enlarge: first doubles x₀, nearest neighbour.
    batch_norm: after each convolution of the long way.
    """

    def __init__(
        self, inputs: int, outputs: int, *, stride: int = 1, enlarge: bool = False, batch_norm: bool = False
    ) -> None:
        super().__init__()
        self.outputs, self.enlarge = outputs, enlarge
        self.first = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1 if stride == 1 else 0)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.second_norm = nn.BatchNorm2d(outputs) if batch_norm else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or outputs < inputs:
            self.shortcut = nn.Conv2d(inputs, min(inputs, outputs), 1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, outputs, height, width) of (batch, inputs, height, width), sides as the class says."""
        # Channels last: on the CPU convolutions of few channels on large maps take two thirds of the time.
        x = F.relu(x).contiguous(memory_format=torch.channels_last)
        if self.enlarge:
            x = F.interpolate(x, scale_factor=2, mode="nearest")
        padded = x if self.first.padding == (1, 1) else F.pad(x, _zeros_around(x))
        residual = self.second_norm(self.second(F.relu(self.first_norm(self.first(padded)))))
        short = self.shortcut(x)
        return F.pad(short, (0, 0, 0, 0, 0, self.outputs - short.shape[1])) + residual


def _zeros_around(x: Tensor) -> list[int]:
    """Return how many zeros go before and after the width and the height of maps, for a 3×3 kernel of stride 2."""
    return [zeros for side in (x.shape[-1], x.shape[-2]) for zeros in (side % 2, 1)]


class WideResidualEncoder(Encoder):
    """The net of the UCC paper: conv 16, wide residual blocks of 32, 64 and 128, the last two halving the sides.

    Images are standardised one by one. For 28×28 digits the embeddings have 128 · 7 · 7 = 6,272 numbers; the paper's
    ten features are one more layer, of the method. Kernels are Glorot-uniform, biases begin at .1, of shortcuts at 0.
    `mean` and `std` of the training images are not used.
    """

    def __init__(self, image_shape: ImageShape, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        channels, height, width = image_shape
        blocks = [
            WideResidualBlock(before, after, stride=stride)
            for before, after, stride in zip((FIRST, *WIDTHS), WIDTHS, STRIDES, strict=False)
        ]
        self.layers = nn.Sequential(
            StandardiseEach(), nn.Conv2d(channels, FIRST, 3, padding=1), *blocks, nn.ReLU(), nn.Flatten()
        )
        glorot(self, bias=BIAS)
        height, width = small_sides(height, width)
        self.features = WIDTHS[-1] * height * width

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of images (batch, channels, height, width) in [0, 1]."""
        return self.layers(images)

    def stages(self) -> dict[str, nn.Module]:
        """Return the first convolution and the blocks."""
        blocks = (layer for layer in self.layers if isinstance(layer, WideResidualBlock))
        return {"conv1": self.layers[1], **numbered("block", blocks)}


def small_sides(height: int, width: int) -> tuple[int, int]:
    """Return the sides after two halvings, rounded up each time.

    >>> small_sides(28, 30)
    (7, 8)
    """
    return -(-height // 4), -(-width // 4)


def glorot(net: nn.Module, *, bias: float) -> None:
    """Start a net as UCC's code does: Glorot-uniform weights, and biases at `bias`, in shortcuts (1×1) at 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                is_shortcut = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
                nn.init.constant_(layer.bias, 0.0 if is_shortcut else bias)
