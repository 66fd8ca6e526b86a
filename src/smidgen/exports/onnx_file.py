"""Export to ONNX: the model with its preprocessing as metadata, verified against PyTorch."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from smidgen import __version__
from smidgen.data.images import load_image
from smidgen.data.shapes import is_vector
from smidgen.errors import InputError
from smidgen.files import atomic_write
from smidgen.listener import Listener
from smidgen.maths.temperature import tempered
from smidgen.model import Model, Preprocessing
from smidgen.run_folder import RunFolder

LARGEST_DIFFERENCE = 1e-4
"""Between torch and ONNX Runtime, above which an export is refused; see `largest_difference`."""

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_LARGEST_FILE = 2**31 - 1  # bytes that protobuf can hold
_SAMPLES = 64


class _Both(nn.Module):
    """Images in, assignments and embeddings out."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.method, self.extractor, self.temperature = model.method, model.extractor, model.temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if self.extractor is not None:
            images = self.extractor(images)
        assignments, embeddings = self.method.assign_and_encode(images)
        return tempered(assignments, self.temperature), embeddings


def require_onnx() -> None:
    """Raise InputError if the packages of the extra are not installed."""
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise InputError(f"An export to ONNX needs {' and '.join(missing)}: `pip install 'smidgen[onnx]'` brings it.")


def export_onnx(run: RunFolder, out: Path, *, listener: Listener | None = None) -> str:
    """Write the model of a run, and return how far it is from torch at most, in words; raises what `to_onnx` does."""
    listener = listener or Listener()
    require_onnx()
    listener.progress("translate", 0, 1)
    model = Model.load(run.path)
    content, difference = to_onnx(model, images=_pictures(run, model.preprocessing))
    with atomic_write(out) as file:
        file.write(content)
    listener.progress("translate", 1, 1)
    return f"{len(content) / 1e6:.1f} MB, at most {difference:.1g} from torch"


def _pictures(run: RunFolder, preprocessing: Preprocessing) -> np.ndarray | None:
    """Return some of the run's thumbnails as its method sees images; the collection itself may be gone."""
    stored = [*run.thumbnails().values()][:_SAMPLES]
    if preprocessing.channels is None:
        return None  # of ready embeddings
    # They were made by the range of values, and are of 8 bits now.
    how = preprocessing.size, preprocessing.channels, preprocessing.resize
    pictures = [load_image(data, size=how[0], channels=how[1], resize=how[2]) for data in stored]
    return np.stack(pictures) if pictures else None


def to_onnx(model: Model, *, images: np.ndarray | None = None) -> tuple[bytes, float]:
    """Return the model as the bytes of an .onnx file, and the largest difference found between torch and ONNX Runtime.

    The file takes `images` (batch, channels, height, width) float32 in [0, 1], or ready embeddings (batch, features),
    any batch, and gives `assignments` (batch, clusters), rows sum to one, and `embeddings` (batch, features). Its
    metadata `smidgen` hold, as JSON, how images are made into such arrays, the clusters' names and the method;
    `describe` returns the same.

    images: (n, channels, height, width) uint8, to compare the two on, in batches of one and of all; besides them noise,
        ramps, black and white are looked at.

    Raises InputError if the extra `onnx` is not installed, the model cannot be translated, or the two differ by more
    than `LARGEST_DIFFERENCE`.
    """
    require_onnx()
    both = copy.deepcopy(_Both(model)).to("cpu").eval()  # the model stays where it is
    samples = _samples(model, images)
    content = _translated(both, samples[:2], describe(model))
    difference = _compared(both, content, samples)
    if not difference <= LARGEST_DIFFERENCE:  # NaN too
        raise InputError(
            f"The ONNX model differs from the run's by {difference:.2g}, more than {LARGEST_DIFFERENCE:g}: it is not"
            " written; tell us which method and encoder this is."
        )
    return content, difference


def describe(model: Model) -> dict[str, Any]:
    """Return the metadata needed to use the model elsewhere."""
    pixels: dict[str, Any] = {}
    if not is_vector(model.shape):  # otherwise ready embeddings, as they are
        pixels = {
            "colour": "grey (ITU-R 601-2 luma)" if model.shape[0] == 1 else "RGB",
            "range": "0 to 1: 8-bit values divided by 255",
            "value_range": model.preprocessing.value_range.as_table(),
            "orientation": "upright: EXIF orientation applied, transparency laid on white",
            "resize": model.preprocessing.resize,
            "interpolation": "bilinear, antialiased",
        }
    return {
        "smidgen": __version__,
        "method": model.name,
        "cluster_names": list(model.cluster_names),
        "input": {"shape": ["batch", *model.shape]} | pixels,
        "outputs": {
            "assignments": "soft, rows sum to one, columns in the order of cluster_names",
            "embeddings": "features of the encoder",
        },
    }


def _samples(model: Model, images: np.ndarray | None) -> Tensor:
    """Return rows (n, …) float32 such as the model takes: noise, ramps, black, white, and the images given."""
    shape = model.shape
    noise = np.random.default_rng(0).random((_SAMPLES // 2, *shape), dtype=np.float32)
    strengths = np.linspace(0, 1, _SAMPLES // 2, dtype=np.float32).reshape(-1, *(1 for _ in shape))
    ramps = strengths * np.linspace(0, 1, shape[-1])
    samples: list[np.ndarray] = [
        noise,
        np.broadcast_to(ramps, noise.shape).astype(np.float32),
        np.zeros((1, *shape), np.float32),
    ]
    samples.append(np.ones((1, *shape), np.float32))
    if images is not None and len(images):
        samples.append(images[: 4 * _SAMPLES].astype(np.float32) / 255)
    return torch.from_numpy(np.concatenate(samples))


@torch.no_grad()
def _translated(both: nn.Module, example: Tensor, about: dict[str, Any]) -> bytes:
    batch = torch.export.Dim("batch", min=1)
    try:
        with _quiet():
            with _PlainDistances():
                program = torch.export.export(both, (example,), dynamic_shapes=({0: batch},))
            exported = torch.onnx.export(
                program,
                dynamo=True,
                input_names=["images"],
                output_names=["assignments", "embeddings"],
                dynamic_shapes=({0: batch},),
                verbose=False,
            )
            assert exported is not None
            proto = exported.model_proto
            entry = proto.metadata_props.add()
            entry.key, entry.value = "smidgen", json.dumps(about)
            if proto.ByteSize() > _LARGEST_FILE:
                raise InputError("The model is larger than the 2 GB that one ONNX file can hold.")
            return proto.SerializeToString()
    except InputError:
        raise
    except Exception as error:  # of torch.export's and the translator's many kinds
        while error.__cause__ is not None:  # the outermost is about steps and reports
            error = error.__cause__  # type: ignore[assignment]
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"This model cannot be translated to ONNX ({reason[:200]}).") from error


class _PlainDistances(TorchFunctionMode):
    """While it is entered, Euclidean `torch.cdist` is done by plain differences: the translator knows no cdist."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if function is torch.cdist:
            x, y = args[:2]
            return (x.unsqueeze(-2) - y.unsqueeze(-3)).square().sum(-1).sqrt()
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's warnings and log: the check that follows is what matters."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


@torch.no_grad()
def _compared(both: nn.Module, content: bytes, samples: Tensor) -> float:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = []
    for batch in (samples[:1], samples):
        expected = [output.numpy() for output in both(batch)]
        given = session.run(["assignments", "embeddings"], {"images": batch.numpy()})
        for ours, theirs in zip(expected, given, strict=True):
            if ours.shape != theirs.shape:
                raise InputError(f"The ONNX model gives {theirs.shape} where the run's gives {ours.shape}.")
            found.append(largest_difference(ours, theirs))
    return float(np.max(found))  # NaN if any is


def largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference between two arrays as a share of the largest number in the first.

    What float32 rounds away grows with the numbers: embeddings may reach to hundreds, assignments end at one.

    >>> largest_difference(np.array([0.0, -200.0]), np.array([0.1, -200.0]))
    0.0005
    """
    scale = float(np.abs(ours).max(initial=0.0))
    return float(np.abs(ours - theirs).max(initial=0.0)) / (scale or 1.0)
