"""AlexNet with batch norm, as DeepCluster trains it (docs/methods.md §3), and a narrower one for small images.

Source: Krizhevsky, Sutskever and Hinton (NIPS 2012) with the batch norm of Caron et al. (ECCV 2018), whose layers
seed 002 prints; the small one has the convolutions of SeLa's AlexNet for CIFAR (Asano et al., ICLR 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.shapes import ImageShape
from smidgen.nets.encoder import Encoder, Normalise, numbered

SIZE = 224
"""Side in pixels that images of the full net have: the first linear layer then has 256 · 6 · 6 = 9216 inputs."""


class AlexNet(nn.Module):
    """Convolutions and two hidden layers; the layer on top of them is the method's."""

    def __init__(self, features: nn.Sequential, flat: int, *, hidden: int) -> None:
        super().__init__()
        self.features = features
        self.classifier = nn.Sequential(
            *(nn.Dropout(0.5), nn.Linear(flat, hidden), nn.ReLU(inplace=True)),
            *(nn.Dropout(0.5), nn.Linear(hidden, hidden), nn.ReLU(inplace=True)),
        )
        self._start()

    def _start(self) -> None:
        """Draw the weights as published: normal, of variance 2 / outputs for convolutions, .01² for linear layers."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / (math.prod(layer.kernel_size) * layer.out_channels)))
            elif isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, 0, 0.01)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Return (batch, hidden), before the last ReLU."""
        return self.classifier[:-1](self.features(images).flatten(1))


class AlexNetEncoder(Encoder):
    """AlexNet with its normalisation, small or full; the full one has images of any size brought to 224 × 224."""

    def __init__(
        self,
        image_shape: ImageShape,
        *,
        small: bool = False,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.normalise, self.size = Normalise(mean, std), None if small else SIZE
        self.features = 1024 if small else 4096
        if small:
            layers, flat = _small_layers(image_shape)
        else:
            layers, flat = _layers(image_shape[0]), 256 * 6 * 6
        self.net = AlexNet(nn.Sequential(*layers), flat, hidden=self.features)

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features), none below 0, of images (batch, channels, height, width) in [0, 1]."""
        return F.relu(self.preactivations(images))

    def stages(self) -> dict[str, nn.Module]:
        """Return conv1 to conv5, each after its ReLU, as published probes have them."""
        return numbered("conv", (layer for layer in self.net.features if isinstance(layer, nn.ReLU)))

    def preactivations(self, images: Tensor) -> Tensor:
        """Return the embeddings before their ReLU."""
        images = self.normalise(images)
        if self.size is not None and images.shape[2:] != (self.size, self.size):
            side = (self.size, self.size)
            images = F.interpolate(images, size=side, mode="bilinear", antialias=True, align_corners=False)
        return self.net(images)


def _layers(channels: int) -> list[nn.Module]:
    return [
        *_block(channels, 96, kernel_size=11, stride=4, padding=2),
        nn.MaxPool2d(kernel_size=3, stride=2),
        *_block(96, 256, kernel_size=5, padding=2),
        nn.MaxPool2d(kernel_size=3, stride=2),
        *_block(256, 384),
        *_block(384, 384),
        *_block(384, 256),
        nn.MaxPool2d(kernel_size=3, stride=2),
    ]


def _small_layers(image_shape: ImageShape) -> tuple[list[nn.Module], int]:
    """Return the layers for images of 28 to 64 pixels, and how many numbers they give.

    They halve the side four times, or as long as there is anything to halve.
    """
    channels, *sides = image_shape
    layers = _block(channels, 64, stride=2)
    sides = [(side + 1) // 2 for side in sides]
    for blocks in ([(64, 192)], [(192, 384), (384, 256), (256, 256)], []):
        if min(sides) > 1:
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            sides = [side // 2 for side in sides]
        for inputs, outputs in blocks:
            layers += _block(inputs, outputs)
    return layers, 256 * math.prod(sides)


def _block(inputs: int, outputs: int, *, kernel_size: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel_size=kernel_size, stride=stride, padding=padding)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
