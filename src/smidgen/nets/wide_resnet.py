"""The wide residual network of semi-supervised learning: three stages of pre-activation blocks, "WRN-28-2"."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.shapes import ImageShape
from smidgen.nets.encoder import Encoder, Normalise, numbered

_BLOCKS = 4  # in each stage: 28 = 6 · 4 + 4 layers
_WIDTHS = (16, 32, 64)
_SLOPE = 0.1  # of the leaky ReLU, as in Oliver et al. 2018 and all that follow them


class _Block(nn.Module):
    """Batch norm and leaky ReLU before each of two 3×3 convolutions; a 1×1 convolution beside them where sizes change.

    first: whether the activated input is what the 1×1 convolution sees, as in the first block of a net.
    """

    def __init__(self, inputs: int, outputs: int, *, stride: int, first: bool) -> None:
        super().__init__()
        self.first = first
        self.norm_in, self.norm_out = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv_in = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.conv_out = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = F.leaky_relu(self.norm_in(x), _SLOPE)
        changed = self.conv_out(F.leaky_relu(self.norm_out(self.conv_in(activated)), _SLOPE))
        if self.shortcut is None:
            return x + changed
        return self.shortcut(activated if self.first else x) + changed


class WideResNetEncoder(Encoder):
    """WRN-28-`widen` (Zagoruyko & Komodakis 2016): 3×3 convolution to 16, three stages of four blocks, then the mean.

    The stages have 16, 32 and 64 times `widen` channels, the second and the third halve the sides. With `widen` 2 it is
    the net of FixMatch for CIFAR-10, of 1.47 million parameters with its head.
    """

    def __init__(self, image_shape: ImageShape, *, widen: int = 2, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        inputs, blocks = 16, list[nn.Module]()
        for stage, width in enumerate(_WIDTHS):
            for number in range(_BLOCKS):
                stride = 2 if stage and number == 0 else 1
                blocks.append(_Block(inputs, width * widen, stride=stride, first=not blocks))
                inputs = width * widen
        self.normalise = Normalise(mean, std)
        self.stem = nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False)
        self.blocks, self.norm = nn.Sequential(*blocks), nn.BatchNorm2d(inputs)
        self.features = inputs
        self._initialise()

    def _initialise(self) -> None:
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="leaky_relu")

    def stages(self) -> dict[str, nn.Module]:
        """Return the first convolution and the blocks."""
        return {"conv1": self.stem, **numbered("block", self.blocks)}

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of images (batch, channels, height, width) in [0, 1]."""
        maps = self.norm(self.blocks(self.stem(self.normalise(images))))
        return F.leaky_relu(maps, _SLOPE).mean((2, 3))
