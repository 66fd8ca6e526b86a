"""The encoders by name: images in [0, 1] in, embeddings out; each carries its own normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from smidgen.errors import InputError
from smidgen.nets.encoder import Encoder, Normalise


class ConvEncoder(Encoder):
    """A small net for small images: 3×3 stride-2 convolutions until at most 4×4 pixels are left, then one linear layer.

    Widths double from 32 to at most 256. For 28×28 digits that is 32, 64, 128 channels and 2,048 → `features` numbers.
    """

    def __init__(
        self, image_shape: tuple[int, int, int], *, features: int = 128, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        layers: list[nn.Module] = [Normalise(mean, std)]
        out = 32
        while max(height, width) > 4 or len(layers) == 1:
            layers += [nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels, out = out, min(2 * out, 256)
            height, width = (height + 1) // 2, (width + 1) // 2
        layers += [nn.Flatten(), nn.Linear(channels * height * width, features), nn.BatchNorm1d(features), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of images (batch, channels, height, width) in [0, 1]."""
        return self.layers(images)


class VectorEncoder(Encoder):
    """Ready embeddings (batch, d, 1, 1) in, standardised and through two linear layers; (batch, `features`) out.

    The layers are worth having: on the 64 pixels of `digits` taken as embeddings, `fusion` reaches .86–.94 with two,
    .79–.94 with one and .76–.79 with none (300 steps, 3 seeds).
    """

    def __init__(
        self, image_shape: tuple[int, int, int], *, features: int = 128, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__()
        inputs = image_shape[0]
        self.normalise = Normalise(mean, std)
        # A multiple of 16 inputs: with others, BLAS gives a row another last bit wherever it lies in the batch.
        self.padding = -inputs % 16
        self.layers = nn.Sequential(
            *(nn.Linear(inputs + self.padding, 2 * features, bias=False), nn.BatchNorm1d(2 * features), nn.ReLU()),
            *(nn.Linear(2 * features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU()),
        )
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of vectors (batch, d, 1, 1)."""
        vectors = self.normalise(images).flatten(1)
        return self.layers(nn.functional.pad(vectors, (0, self.padding)))


def _pretrained(name: str) -> Callable[..., Encoder]:
    """Return what makes a pretrained encoder: it takes images of any size and brings its own normalisation."""

    def make(image_shape: tuple[int, int, int], *, mean: Sequence[float], std: Sequence[float]) -> Encoder:
        if image_shape[1:] == (1, 1):
            raise InputError(f"The encoder {name!r} wants images, and these are embeddings: use 'vectors'.")
        from smidgen.nets.pretrained import pretrained_encoder  # builds on this module

        return pretrained_encoder(name)

    return make


def _wide_residual(image_shape: tuple[int, int, int], *, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """The net of the UCC paper: wide residual blocks without batch norm, images standardised one by one."""
    from smidgen.nets.wide_residual import WideResidualEncoder  # builds on this module

    return WideResidualEncoder(image_shape, mean=mean, std=std)


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "conv": ConvEncoder,
    "wide-residual": _wide_residual,
    "vectors": VectorEncoder,
    "lite0": _pretrained("lite0"),
    "lite2": _pretrained("lite2"),
}

TRAINED_HERE = ("conv", "wide-residual", "vectors")
"""The encoders that start from random weights; all others come pretrained."""


def make_encoder(
    name: str, image_shape: tuple[int, int, int], *, mean: Sequence[float], std: Sequence[float]
) -> Encoder:
    """Return a new encoder, random or pretrained as its name says.

    name: one of ENCODERS, or a net of timm's, see `pretrained.pretrained_encoder`. "conv" is "vectors" for ready
        embeddings.
    image_shape: (channels, height, width). mean, std: per channel, over the training images in [0, 1]; pretrained
        encoders take any shape and have a mean and deviation of their own.
    Raises InputError for a name that is neither in ENCODERS nor timm's.
    """
    if name == "conv" and image_shape[1:] == (1, 1):
        name = "vectors"
    if name == "vectors" and image_shape[1:] != (1, 1):
        raise InputError("The encoder 'vectors' wants ready embeddings, and these are images: use 'conv' or another.")
    return ENCODERS.get(name, _pretrained(name))(image_shape, mean=mean, std=std)
