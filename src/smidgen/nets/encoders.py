"""The encoders by name: images in [0, 1] in, embeddings out; each carries its own normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn

from smidgen.data.shapes import ImageShape, Shape, is_vector
from smidgen.errors import InputError
from smidgen.nets.alexnet import AlexNetEncoder
from smidgen.nets.composed import Chain, ChainedEncoder, EncoderOption, Gradients, Projected
from smidgen.nets.encoder import Encoder, Normalise, numbered
from smidgen.nets.halving import HalvingEncoder
from smidgen.nets.pretrained import pretrained_encoder
from smidgen.nets.projection import projected_encoder
from smidgen.nets.sobel import SOBEL, SobelEncoder
from smidgen.nets.timm_encoder import SCRATCH
from smidgen.nets.unet import UNetEncoder
from smidgen.nets.wide_residual import WideResidualEncoder
from smidgen.nets.wide_resnet import WideResNetEncoder


class ConvEncoder(Encoder):
    """A small net for small images: 3×3 stride-2 convolutions until at most 4×4 pixels are left, then one linear layer.

    Widths double from 32 to at most 256. For 28×28 digits that is 32, 64, 128 channels and 2,048 → `features` numbers.
    """

    def __init__(
        self, image_shape: ImageShape, *, features: int = 128, mean: Sequence[float], std: Sequence[float]
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

    def stages(self) -> dict[str, nn.Module]:
        """Return the convolutions, each after its ReLU."""
        return numbered("conv", [layer for layer in self.layers if isinstance(layer, nn.ReLU)][:-1])

    def preactivations(self, images: Tensor) -> Tensor:
        """Return the embeddings before their ReLU."""
        return self.layers[:-1](images)


class VectorEncoder(Encoder):
    """Ready embeddings (batch, inputs) in, standardised and through two linear layers; (batch, `features`) out.

    The layers are worth having: on the 64 pixels of `digits` taken as embeddings, `fusion` reaches .86–.94 with two,
    .79–.94 with one and .76–.79 with none (300 steps, 3 seeds).
    """

    def __init__(self, inputs: int, *, features: int = 128, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.normalise = Normalise(mean, std, of_vectors=True)
        # A multiple of 16 inputs: with others, BLAS gives a row another last bit wherever it lies in the batch.
        self.padding = -inputs % 16
        self.layers = nn.Sequential(
            *(nn.Linear(inputs + self.padding, 2 * features, bias=False), nn.BatchNorm1d(2 * features), nn.ReLU()),
            *(nn.Linear(2 * features, features, bias=False), nn.BatchNorm1d(features), nn.ReLU()),
        )
        self.features = features

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of vectors (batch, inputs)."""
        return self.of_standardised(self.normalise(images))

    def of_standardised(self, vectors: Tensor) -> Tensor:
        """Return embeddings (batch, features) of vectors (batch, inputs) that have been standardised."""
        return self.layers(nn.functional.pad(vectors, (0, self.padding)))

    def preactivations(self, images: Tensor) -> Tensor:
        """Return the embeddings before their ReLU."""
        return self.layers[:-1](nn.functional.pad(self.normalise(images), (0, self.padding)))


def _pretrained(name: str) -> Callable[..., Encoder]:
    """Return what makes a pretrained encoder: it takes images of any size and brings its own normalisation."""

    def make(image_shape: ImageShape, *, mean: Sequence[float], std: Sequence[float]) -> Encoder:
        if is_trained_from_scratch(name):  # batch norm has to learn its statistics
            return pretrained_encoder(name)
        return pretrained_encoder(name, flip=True).fold()

    return make


def _wide_residual(image_shape: ImageShape, *, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """The net of the UCC paper: wide residual blocks without batch norm, images standardised one by one."""
    return WideResidualEncoder(image_shape, mean=mean, std=std)


def _unet(*, skips: bool) -> Callable[..., Encoder]:
    """Return what makes the way down of a U-Net, whose decoder copies its maps or does not."""

    def make(image_shape: ImageShape, *, mean: Sequence[float], std: Sequence[float]) -> Encoder:
        return UNetEncoder(image_shape, skips=skips, mean=mean, std=std)

    return make


ENCODERS: dict[str, Callable[..., Encoder]] = {
    "conv": ConvEncoder,
    "alexnet": AlexNetEncoder,
    "alexnet-small": partial(AlexNetEncoder, small=True),
    "wide-residual": _wide_residual,
    "wrn-28-2": WideResNetEncoder,
    "conv-2x2": HalvingEncoder,
    "unet": _unet(skips=True),
    "unet-no-skips": _unet(skips=False),
    "lite0": _pretrained("lite0"),
    "lite2": _pretrained("lite2"),
}

VECTORS = "vectors"
"""The encoder of ready embeddings, `VectorEncoder`; all others are of images."""

FOR_IMAGES = ("conv", "conv-2x2", "alexnet", "alexnet-small", "wrn-28-2")
"""The encoders that `VECTORS` stands in for where they are named and the data are ready embeddings."""

TRAINED_HERE = (*FOR_IMAGES, "wide-residual", "unet", "unet-no-skips", VECTORS)
"""The encoders that start from random weights; all others come pretrained."""


def is_trained_from_scratch(encoder: EncoderOption) -> bool:
    """Return whether an encoder is trained by the run that uses it, and not frozen as pretrained ones are by default.

    >>> [is_trained_from_scratch(name) for name in ("conv", "scratch:resnet18", "sobel:lite0")]
    [True, True, False]
    """
    encoder = as_parts(encoder)
    if isinstance(encoder, Gradients):
        return is_trained_from_scratch(encoder.net)
    return not isinstance(encoder, str) or encoder in TRAINED_HERE or encoder.startswith(SCRATCH)


def as_parts(encoder: EncoderOption) -> EncoderOption:
    """Return an encoder whose name has `sobel:` before it as the parts that it has, any other as it is.

    >>> as_parts("sobel:conv"), as_parts("conv")
    (Gradients(net='conv'), 'conv')
    """
    if isinstance(encoder, str) and encoder.startswith(SOBEL):
        return Gradients(encoder.removeprefix(SOBEL))
    return encoder


def make_encoder(encoder: EncoderOption, shape: Shape, *, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    """Return a new encoder, random or pretrained as its name says.

    encoder: one of ENCODERS, or VECTORS, or a net of timm's, see `pretrained.pretrained_encoder`, with random weights
        if `scratch:` stands before it; or an encoder of several parts. Those in FOR_IMAGES are VECTORS for ready
        embeddings. With `sobel:` before it a net of ours is shown the gradients of images by a fixed filter.
    shape: (channels, height, width), or (features,) of ready embeddings. mean, std: per channel or feature, over the
        training images in [0, 1]; pretrained encoders take any images and have a mean and deviation of their own.
    Raises InputError for a name that is none of these, or not for such data.
    """
    encoder = as_parts(encoder)
    if is_vector(shape):
        return _of_vectors(encoder, shape[0], mean=mean, std=std)
    if isinstance(encoder, Gradients):
        return _of_gradients(encoder.net, shape, mean=mean, std=std)
    if isinstance(encoder, Chain):
        first = _pretrained(encoder.first)(shape, mean=mean, std=std)
        unknown = (0.0,) * first.features, (1.0,) * first.features  # they are loaded from the run that it comes from
        return ChainedEncoder(first, _of_vectors(encoder.then, first.features, mean=unknown[0], std=unknown[1]))
    if encoder == VECTORS or isinstance(encoder, Projected):
        raise InputError(
            f"The encoder {str(encoder)!r} wants ready embeddings, and these are images: use 'conv' or another."
        )
    return ENCODERS.get(encoder, _pretrained(encoder))(shape, mean=mean, std=std)


def _of_vectors(encoder: EncoderOption, inputs: int, *, mean: Sequence[float], std: Sequence[float]) -> Encoder:
    if isinstance(encoder, Projected):
        return projected_encoder(inputs, encoder.components, encoder.hidden)
    if encoder not in (VECTORS, *FOR_IMAGES):
        raise InputError(f"The encoder {str(encoder)!r} wants images, and these are embeddings: use '{VECTORS}'.")
    return VectorEncoder(inputs, mean=mean, std=std)


def _of_gradients(name: str, image_shape: ImageShape, *, mean: Sequence[float], std: Sequence[float]) -> SobelEncoder:
    channels, *sides = image_shape
    if not is_trained_from_scratch(name) or name.startswith(SCRATCH):
        raise InputError(f"A net of timm's takes colours, not gradients: leave '{SOBEL}' before {name!r} out.")
    inner = make_encoder(name, (2, sides[0], sides[1]), mean=(0.0, 0.0), std=(1.0, 1.0))
    return SobelEncoder(inner, channels, mean=mean, std=std)
