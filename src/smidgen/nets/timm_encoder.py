"""A net of timm's as an encoder: the preprocessing it was trained with, averages of layers, folding and freezing."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.errors import Damaged, InputError, unknown
from smidgen.nets.encoder import Encoder
from smidgen.nets.fast import FAST_BATCH, accelerate, fold_batch_norm
from smidgen.schemas import convert

SCRATCH = "scratch:"
"""Before a name: that net with random weights, to be trained."""

TRAINED_STAGES = 2
"""The last stages of a pretrained net that are trained by default: the first ones cost most and change least."""


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image between its pixels and its features; stored as JSON with a model.

    size: side in pixels that images are brought to. mean, std: per channel, of pixels in [0, 1].
    interpolation: "bilinear", antialiased when images shrink; bicubic costs 1–2 points (docs/methods.md §9).
    layers: whose averages over the picture make the features, side by side: "head", or a stage, "block4".
    flip: whether the features are the mean of the image's and its mirror image's.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: str = "bilinear"
    layers: tuple[str, ...] = ("head",)
    flip: bool = False

    def __post_init__(self) -> None:
        check_size(self.size)
        if self.interpolation != "bilinear":
            raise unknown("interpolation", self.interpolation, ["bilinear"])
        if not self.layers or len({*self.layers}) < len(self.layers):
            raise InputError(f"`layers` must name at least one layer, each once, got {list(self.layers)}.")

    def as_table(self) -> dict[str, Any]:
        """Return the description as JSON and TOML hold it."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @staticmethod
    def from_table(table: Mapping[str, Any]) -> Preprocess:
        """Return the description that `as_table` made a table of.

        >>> Preprocess.from_table(Preprocess(160, layers=("block4", "head")).as_table()).layers
        ('block4', 'head')
        """
        known = [field.name for field in dataclasses.fields(Preprocess)]
        for name in table:
            if name not in known:
                raise unknown("setting of the preprocessing", name, known)
        try:
            return convert(dict(table), Preprocess)
        except Damaged as error:
            raise InputError(f"The encoder's preprocessing is damaged ({error}).") from None


def check_size(size: int) -> int:
    """Return the side in pixels of an encoder's images; raises InputError if no encoder can have it.

    >>> check_size(160)
    160
    """
    if not 16 <= size <= 4096:
        raise InputError(f"An encoder's `size` must be between 16 and 4096 pixels, got {size}.")
    return size


class Trunk(nn.Module):
    """A timm net without its classifier: normalised images in, the averages of the chosen layers out, in float32."""

    net: Any  # timm's nets share methods, not a class

    def __init__(self, net: nn.Module, layers: Sequence[str]) -> None:
        super().__init__()
        self.net, self.layers, self.frozen_stages = net, tuple(layers), 0
        known = [*(f"block{i}" for i in range(len(self.net.blocks))), "head"] if _has_stages(net) else ["head"]
        for layer in self.layers:
            if layer not in known:
                raise unknown("layer of the encoder", layer, known)

    def forward(self, x: Tensor) -> Tensor:
        """Return features (batch, features) of normalised images (batch, 3, height, width)."""
        learns = torch.is_grad_enabled()
        if not _has_stages(self.net):
            return _through(self._whole, x, learns=learns) if _is_depthwise(self.net) else self._whole(x)
        pooled = {}
        x = _through(self._stem, x, learns=learns and not self.frozen_stages)
        for i, stage in enumerate(self.net.blocks):
            x = _through(stage, x, learns=learns and i >= self.frozen_stages)
            if f"block{i}" in self.layers:
                pooled[f"block{i}"] = _average(x)
        if "head" in self.layers:
            pooled["head"] = _average(_through(self._head, x, learns=learns))
        return torch.cat([pooled[layer] for layer in self.layers], dim=1)

    def _stem(self, x: Tensor) -> Tensor:
        return self.net.bn1(self.net.conv_stem(x))

    def _head(self, x: Tensor) -> Tensor:
        return self.net.bn2(self.net.conv_head(x))

    def _whole(self, x: Tensor) -> Tensor:
        return self.net.forward_head(self.net.forward_features(x), pre_logits=True).float()


def _through(part: Callable[[Tensor], Tensor], x: Tensor, *, learns: bool) -> Tensor:
    """Return what a part of a net with depthwise convolutions makes of `x`; under autocast on a CPU in its own type.

    That is float32 where the part learns: there the gradients of depthwise convolutions take twice as long in bfloat16.
    What does not learn runs in the kernels of `fast.FoldedConv`, which know nothing of autocast: in bfloat16 half as
    long (LAB.md).
    """
    is_mixed = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    with torch.set_grad_enabled(learns):
        if not is_mixed:
            return part(x)
        with torch.autocast("cpu", enabled=not learns):
            return part(x.float() if learns else x.to(torch.get_autocast_dtype("cpu")))


def _is_depthwise(net: nn.Module) -> bool:
    return any(getattr(module, "groups", 1) > 1 for module in net.modules())


def _has_stages(net: nn.Module) -> bool:
    """Return whether a net is one of timm's EfficientNets, whose stages can be read out."""
    return all(hasattr(net, name) for name in ("conv_stem", "bn1", "blocks", "conv_head", "bn2"))


def _average(x: Tensor) -> Tensor:
    return x.mean((2, 3), dtype=torch.float32)


class PretrainedEncoder(Encoder):
    """A pretrained net with its preprocessing: images of any size and one or three channels in, features out.

    name: as the user gave it. features: the length of an embedding. It can be trained further; `frozen` returns the
    fast copy for inference.
    """

    def __init__(self, name: str, net: nn.Module, preprocess: Preprocess) -> None:
        super().__init__()
        self.name, self.preprocess = name, preprocess
        self.trunk = Trunk(net, preprocess.layers)
        self.register_buffer("_mean", torch.tensor(preprocess.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(preprocess.std).view(3, 1, 1), persistent=False)
        self.features = _n_features(self.trunk, preprocess.size)
        self.mirrors = preprocess.flip
        self.is_pretrained = not name.startswith(SCRATCH)

    _mean: Tensor
    _std: Tensor

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) float32 of images (batch, 1 or 3, height, width).

        images: uint8, or floats in [0, 1]; brought to the encoder's size (a picture that is not square is squashed).
        In evaluation mode the features of the mirror image are averaged in, if the preprocessing says so.
        """
        at_once = self.training or torch.is_grad_enabled() or torch.compiler.is_exporting()
        if at_once or images.device.type != "cpu":
            return self._embed(images)
        return torch.cat([self._embed(some) for some in images.split(FAST_BATCH)])

    def _embed(self, images: Tensor) -> Tensor:
        x = self.prepare(images)
        embeddings = self.trunk(x)
        if self.mirrors and not self.training:
            embeddings = (embeddings + self.trunk(x.flip(3))) / 2
        return embeddings

    def prepare(self, images: Tensor) -> Tensor:
        """Return normalised images (batch, 3, size, size) of the trunk's type, channels last."""
        x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
        x = (x - self._mean) / self._std  # a grey image becomes three channels here; then few pixels are normalised
        height, width, size = *x.shape[2:], self.preprocess.size
        if (height, width) != (size, size):
            shrinks = height > size or width > size
            x = F.interpolate(x, (size, size), mode="bilinear", align_corners=False, antialias=shrinks)
        dtype = next(self.trunk.parameters()).dtype
        return x.to(dtype=dtype, memory_format=torch.channels_last)

    def frozen(self, *, device: torch.device | str = "cpu", dtype: torch.dtype | None = None) -> PretrainedEncoder:
        """Return a fast copy for inference, in evaluation mode, see `fast.accelerate`; its weights take no gradients.

        dtype: None is bfloat16 where the device has it in hardware, otherwise float32.
        """
        copy = PretrainedEncoder.__new__(PretrainedEncoder)
        nn.Module.__init__(copy)
        copy.name, copy.preprocess, copy.features = self.name, self.preprocess, self.features
        copy.mirrors, copy.is_pretrained = self.mirrors, self.is_pretrained
        copy.trunk = accelerate(self.trunk, example=self._example, device=device, dtype=dtype)
        copy.register_buffer("_mean", self._mean.to(device), persistent=False)
        copy.register_buffer("_std", self._std.to(device), persistent=False)
        return copy.eval()

    def fold(self) -> PretrainedEncoder:
        """Fold batch norm into the convolutions, in place, to train the net further; return the encoder.

        The statistics stay those that the net was trained with, so an image's embedding does not depend on its batch,
        and a step takes a fraction of the time on a CPU.
        """
        self.trunk = fold_batch_norm(self.trunk, example=self._example).to(memory_format=torch.channels_last)
        self.trunk.requires_grad_(True)
        return self

    def stages(self) -> dict[str, nn.Module]:
        """Return the stages of the net as timm names them."""
        net = self.trunk.net
        if _has_stages(net):
            blocks = {f"block{i}": stage for i, stage in enumerate(net.blocks)}
            return {"stem": net.bn1, **blocks, "head": net.bn2}
        if getattr(net, "output_fmt", "NCHW") != "NCHW":  # channels come last
            return {}
        names = [info["module"] for info in getattr(net, "feature_info", ()) if info.get("module")]
        return {name: net.get_submodule(name) for name in names}

    @property
    def freezable(self) -> int:
        """The number of timm's blocks, where they can be told apart."""
        return len(self.trunk.net.blocks) if _has_stages(self.trunk.net) else 0

    def freeze(self, stages: int | None) -> None:
        """Leave the first stages of the net as they are when it is trained further, None for all but the last two.

        The first ones see the largest maps and know edges and colours: most of a step's time goes there, and little is
        learned. Raises InputError if it has none, or fewer.
        """
        has_stages = _has_stages(self.trunk.net)
        if stages is None:
            stages = max(0, self.freezable - TRAINED_STAGES) if self.is_pretrained else 0
        if stages and not (has_stages and stages <= len(self.trunk.net.blocks)):
            most = f"{len(self.trunk.net.blocks)} stages" if has_stages else "no stages that can be told apart"
            raise InputError(f"{stages} stages of {self.name!r} were to be frozen, and it has {most}: freeze fewer.")
        self.trunk.frozen_stages = stages
        frozen = [self.trunk.net.conv_stem, self.trunk.net.bn1, *self.trunk.net.blocks[:stages]] if stages else []
        for module in frozen:
            module.requires_grad_(False)

    @property
    def _example(self) -> Tensor:
        """Some images that `fold_batch_norm` can compare nets on."""
        size = self.preprocess.size
        return torch.linspace(-1, 1, 2 * 3 * size**2).view(2, 3, size, size).sin_()

    def fingerprint(self) -> str:
        """Return the sha256, as hex, over the preprocessing and the weights: the same embeddings have the same."""
        hasher = hashlib.sha256(json.dumps(self.preprocess.as_table(), sort_keys=True).encode())
        for name, value in sorted(self.state_dict().items()):
            hasher.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            hasher.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return hasher.hexdigest()


@contextlib.contextmanager
def unmirrored(net: nn.Module) -> Iterator[None]:
    """Let the pretrained encoders in a net see images alone in the body, not their mirror images: in half the time."""
    encoders = [module for module in net.modules() if isinstance(module, PretrainedEncoder)]
    before = [encoder.mirrors for encoder in encoders]
    for encoder in encoders:
        encoder.mirrors = False
    try:
        yield
    finally:
        for encoder, mirrors in zip(encoders, before, strict=True):
            encoder.mirrors = mirrors


def _n_features(trunk: Trunk, size: int) -> int:
    training = trunk.training
    with torch.no_grad():
        length = trunk.eval()(torch.zeros(1, 3, size, size)).shape[1]
    trunk.train(training)
    return length
