"""A trained model: a method with its preprocessing and cluster names, as one folder without pickle."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
import torch
from torch import Tensor

from smidgen.data.shapes import Shape
from smidgen.embedding.run import embed_images, warn
from smidgen.errors import Damaged, RunError
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import choose_device, forked_rng
from smidgen.maths.temperature import tempered
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Method, Problem
from smidgen.model_file import (
    FORMAT,
    BagCalibrationTable,
    ExtractorTable,
    ModelFile,
    Preprocessing,
    read_model_file,
    write_model_file,
)
from smidgen.nets.pretrained import pretrained_encoder, without_weights
from smidgen.nets.timm_encoder import Preprocess, PretrainedEncoder
from smidgen.tensor_files import read_tensors, write_tensors
from smidgen.training.checkpoint import load_state
from smidgen.training.contract import check_outputs
from smidgen.training.embed import map_images

Groups = Sequence[np.ndarray] | None


@dataclass(frozen=True)
class Model:
    """A trained method that can be saved, loaded and shown new images.

    cluster_names: one per cluster; the number as text where nothing names it.
    extractor: the frozen pretrained encoder whose embeddings of the images the method works on, if there is one.
    temperature: what the method's assignments are brought to, p' ∝ p^(1/T), so that confidence is honest.
    bag_calibration: fields of `evaluation.bag_predictions.Calibration`, empty where no count of a bag was known.
    """

    method: Method
    name: str
    preprocessing: Preprocessing
    cluster_names: tuple[str, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    temperature: float = 1.0
    bag_calibration: Mapping[str, float] = field(default_factory=dict)
    extractor: PretrainedEncoder | None = None

    @property
    def shape(self) -> Shape:
        """What an image must be: (channels, height, width), or (features,) of ready embeddings."""
        if self.extractor is None:
            return self.method.problem.shape
        channels, size = self.preprocessing.channels, self.preprocessing.size
        assert channels is not None
        assert size is not None
        return channels, size, size

    def assign(
        self, images: np.ndarray, *, groups: Groups = None, progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Return assignments (n, clusters) float32, rows sum to one, of images (n, channels, height, width) uint8.

        groups: rows of images whose embeddings are kept together, see `embed`; the result is the same.
        """
        assignments = self._map(self.method.assign, images, progress, groups)
        return tempered(assignments, self.temperature).numpy()

    def encode(self, images: np.ndarray, *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Return embeddings (n, features) float32 of images (n, channels, height, width) uint8."""
        return self._map(self.method.encode, images, progress).numpy()

    def assign_and_encode(
        self, images: np.ndarray, *, groups: Groups = None, progress: Callable[[int, int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the results of `assign` and `encode`, computed in one pass."""

        def both(batch: Tensor) -> Tensor:
            assignments, embeddings = self.method.assign_and_encode(batch)
            check_outputs(self.method, assignments, embeddings)
            return torch.cat([tempered(assignments.float(), self.temperature), embeddings.float()], dim=1)

        found = self._map(both, images, progress, groups).numpy()
        assignments, embeddings = np.split(found, [self.method.problem.n_clusters], axis=1)
        return np.ascontiguousarray(assignments), np.ascontiguousarray(embeddings)

    def _map(
        self,
        function: Callable[[Tensor], Tensor],
        images: np.ndarray,
        progress: Callable[[int, int], None] | None,
        groups: Groups = None,
    ) -> Tensor:
        if self.extractor is not None:
            images = embed(images, self.extractor, device=self.device, groups=groups, progress=progress)
        return map_images(function, images, method=self.method, device=self.device, progress=progress)

    def save(self, folder: Path | str) -> None:
        """Write `weights.safetensors` and `model.json`; what only training needs is left out."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            name: value
            for name, value in self.method.state_dict().items()
            if not name.startswith(self.method.training_only)
        }
        weights = {"weights.safetensors": write_tensors(folder / "weights.safetensors", state)}
        extractor = None
        if self.extractor is not None:
            path, extractor = folder / "extractor.safetensors", ExtractorTable(**extractor_table(self.extractor))
            weights[path.name] = write_tensors(path, self.extractor.state_dict())
        problem, bags = self.method.problem, dict(self.bag_calibration)
        description = ModelFile(
            format=FORMAT,
            method=self.name,
            options=dataclasses.asdict(self.method.saved_config),
            n_clusters=problem.n_clusters,
            shape=problem.shape,
            mean=tuple(problem.mean),
            std=tuple(problem.std),
            preprocessing=self.preprocessing,
            cluster_names=tuple(self.cluster_names),
            class_names=tuple(problem.evidence.class_names),
            extractor=extractor,
            temperature=self.temperature,
            bag_calibration=BagCalibrationTable(**bags) if bags else None,
            weights=weights,
        )
        write_model_file(folder, description)

    @classmethod
    def load(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> Model:
        """Return the model in a folder written by `save`, or in a run folder, on a device.

        Raises RunError if there is none, or if it is damaged: every file has a checksum, the description a schema, and
        the method is tried on one image. Raises InputError for a device that is not there.
        """
        device = choose_device(device)
        folder = Path(folder)
        folder = folder / "model" if (folder / "model").is_dir() else folder
        description = read_model_file(folder)
        with _refusing(folder), forked_rng("cpu"):  # nets are drawn before their weights are read
            method = _empty_method(description).to(device)
            load_state(method, _read_weights(folder / "weights.safetensors", description), missing=method.training_only)
            _try(method.eval())
            extractor = _extractor(folder, description)
        bags = description.bag_calibration
        return cls(
            method=method,
            name=description.method,
            device=torch.device(device),
            preprocessing=description.preprocessing,
            cluster_names=description.cluster_names,
            temperature=description.temperature,
            bag_calibration={} if bags is None else msgspec.structs.asdict(bags),
            extractor=extractor,
        )


def embed(
    images: np.ndarray,
    extractor: PretrainedEncoder,
    *,
    device: torch.device | str = "cpu",
    groups: Groups = None,
    progress: Callable[[int, int], None] | None = None,
    log: Callable[[str], object] = warn,
) -> np.ndarray:
    """Return embeddings (n, features) float32 of images (n, channels, height, width) uint8, from the cache.

    groups: rows, all of them once, that the cache has or keeps together, such as the splits of a collection; None is
    one group. Embeddings do not depend on it, only what is found in the cache.
    """
    if groups is None or len(groups) < 2:
        return embed_images(images, extractor, device=device, progress=progress, log=log)
    embeddings = np.empty((len(images), extractor.features), dtype=np.float32)
    for rows in groups:
        embeddings[rows] = embed(images[rows], extractor, device=device, progress=progress, log=log)
    return embeddings


def extractor_table(extractor: PretrainedEncoder) -> dict[str, Any]:
    """Return the description of an extractor in `model.json` and manifests."""
    return {"name": extractor.name, "preprocess": extractor.preprocess.as_table()}


@contextlib.contextmanager
def _refusing(folder: Path) -> Iterator[None]:
    """Raise RunError for whatever goes wrong while a model is made from a description that has the right form."""
    try:
        yield
    except Exception as error:  # of torch's, timm's, a method's: depends on what the description asks for
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RunError(
            f"The model in {str(folder)!r} is damaged ({reason.removesuffix('.')}): fit it again, or take a copy of it."
        ) from error


def _extractor(folder: Path, description: ModelFile) -> PretrainedEncoder | None:
    table = description.extractor
    if table is None:
        return None
    preprocess = Preprocess.from_table(table.preprocess)
    extractor = pretrained_encoder(table.name, preprocess=preprocess, pretrained=False)
    extractor.load_state_dict(_read_weights(folder / "extractor.safetensors", description))
    if description.shape != (extractor.features,):
        raise RunError(f"the encoder gives {extractor.features} features, and the method wants {description.shape}")
    return extractor.eval()


def _empty_method(description: ModelFile) -> Method:
    problem = Problem(
        n_images=0,
        shape=cast(Shape, description.shape),
        n_clusters=description.n_clusters,
        mean=description.mean,
        std=description.std,
        evidence=Resolved(0, class_names=description.class_names),
    )
    config = make_config(description.method, description.options)
    with without_weights():
        return make_method(description.method, config, problem)


@torch.no_grad()
def _try(method: Method) -> None:
    """Raise RunError if a method does not assign an image to its clusters: its weights do not fit its description."""
    problem = method.problem
    blank = torch.zeros((1, *problem.shape), device=next(iter(method.state_dict().values())).device)
    assignments = method.assign_and_encode(blank)[0]
    if assignments.shape != (1, problem.n_clusters):
        raise RunError(f"its weights give {assignments.shape[-1]} clusters instead of {problem.n_clusters}")
    if not bool(assignments.isfinite().all()):
        raise RunError("its assignments are not finite")


def _read_weights(path: Path, description: ModelFile) -> dict[str, Tensor]:
    try:
        return read_tensors(path, expected=description.weights.get(path.name))[0]
    except Damaged as error:
        raise RunError(f"the weights {path.name!r} cannot be read ({error})") from None
