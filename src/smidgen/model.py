"""A trained model: a method with its preprocessing and cluster names, as one folder without pickle."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from smidgen.data.resolved import Resolved
from smidgen.embedding import embed_images
from smidgen.errors import RunError
from smidgen.hardware import choose_device
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Method, Problem
from smidgen.nets.pretrained import pretrained_encoder, without_weights
from smidgen.nets.timm_encoder import Preprocess, PretrainedEncoder
from smidgen.runs import atomic_write, read_json, write_json
from smidgen.training.checkpoint import load_state
from smidgen.training.loop import map_images

FORMAT = 3

Groups = Sequence[np.ndarray] | None


@dataclass(frozen=True)
class Preprocessing:
    """How images were made into arrays: the side in pixels, 1 or 3 channels, and how other shapes are resized."""

    size: int
    channels: int
    resize: str = "crop"


@dataclass(frozen=True)
class Model:
    """A trained method that can be saved, loaded and shown new images.

    cluster_names: one per cluster; the number as text where nothing names it.
    extractor: the frozen pretrained encoder whose embeddings of the images the method works on, if there is one.
    bag_calibration: fields of `evaluation.bag_predictions.Calibration`, empty where no count of a bag was known.
    """

    method: Method
    name: str
    preprocessing: Preprocessing
    cluster_names: tuple[str, ...]
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bag_calibration: Mapping[str, float] = field(default_factory=dict)
    extractor: PretrainedEncoder | None = None

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """What an image must be: (channels, height, width), or (features, 1, 1) of ready embeddings."""
        if self.extractor is None:
            return self.method.problem.image_shape
        return self.preprocessing.channels, self.preprocessing.size, self.preprocessing.size

    def assign(
        self, images: np.ndarray, *, groups: Groups = None, progress: Callable[[int, int], None] | None = None
    ) -> np.ndarray:
        """Return assignments (n, clusters) float32, rows sum to one, of images (n, channels, height, width) uint8.

        groups: rows of images whose embeddings are kept together, see `embed`; the result is the same.
        """
        return self._map(self.method.assign, images, progress, groups).numpy()

    def encode(self, images: np.ndarray, *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Return embeddings (n, features) float32 of images (n, channels, height, width) uint8."""
        return self._map(self.method.encode, images, progress).numpy()

    def look(
        self, images: np.ndarray, *, groups: Groups = None, progress: Callable[[int, int], None] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return what `assign` and `encode` do, at once."""

        def both(batch: Tensor) -> Tensor:
            return torch.cat([found.float() for found in self.method.look(batch)], dim=1)

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
            name: value.detach().to("cpu", copy=True).contiguous()  # safetensors refuses tensors that share memory
            for name, value in self.method.state_dict().items()
            if not name.startswith(self.method.training_only)
        }
        with atomic_write(folder / "weights.safetensors") as file:
            file.write(save(state))
        if self.extractor is not None:
            extractor = {name: value.cpu().contiguous() for name, value in self.extractor.state_dict().items()}
            with atomic_write(folder / "extractor.safetensors") as file:
                file.write(save(extractor))
        problem = self.method.problem
        description = {
            "format": FORMAT,
            "method": self.name,
            "options": dataclasses.asdict(self.method.config),
            "n_clusters": problem.n_clusters,
            "image_shape": list(problem.image_shape),
            "mean": list(problem.mean),
            "std": list(problem.std),
            "preprocessing": dataclasses.asdict(self.preprocessing),
            "cluster_names": list(self.cluster_names),
            "class_names": list(problem.evidence.class_names),
            **({"extractor": extractor_table(self.extractor)} if self.extractor is not None else {}),
            **({"bag_calibration": dict(self.bag_calibration)} if self.bag_calibration else {}),
        }
        write_json(folder / "model.json", description)

    @classmethod
    def load(cls, folder: Path | str, *, device: torch.device | str = "cpu") -> Model:
        """Return the model in a folder written by `save`, or in a run folder, on a device.

        Raises RunError if there is none, InputError for a device that is not there.
        """
        device = choose_device(device)
        folder = Path(folder)
        folder = folder / "model" if (folder / "model").is_dir() else folder
        if not (folder / "model.json").is_file():
            raise RunError(f"{str(folder)!r} holds no trained model: is it a run folder that has finished?")
        description = read_json(folder / "model.json")
        if (found := description.get("format")) != FORMAT:
            remedy = "fit it again" if isinstance(found, int) and found < FORMAT else "update smidgen"
            raise RunError(
                f"{str(folder)!r} is a model of format {found}; this smidgen reads format {FORMAT}: {remedy}."
            )
        method = _empty_method(description).to(device)
        load_state(method, _read_weights(folder / "weights.safetensors"), missing=method.training_only)
        return cls(
            method=method.eval(),
            name=description["method"],
            device=torch.device(device),
            preprocessing=Preprocessing(**description["preprocessing"]),
            cluster_names=tuple(description["cluster_names"]),
            bag_calibration=description.get("bag_calibration", {}),
            extractor=_extractor(folder, description.get("extractor")),
        )


def embed(
    images: np.ndarray,
    extractor: PretrainedEncoder,
    *,
    device: torch.device | str = "cpu",
    groups: Groups = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Return embeddings (n, features, 1, 1) float32 of images (n, channels, height, width) uint8, from the cache.

    groups: rows, all of them once, that the cache has or keeps together, such as the splits of a collection; None is
    one group. Embeddings do not depend on it, only what is found in the cache.
    """
    if groups is None or len(groups) < 2:
        return embed_images(images, extractor, device=device, progress=progress)[:, :, None, None]
    embeddings = np.empty((len(images), extractor.features, 1, 1), dtype=np.float32)
    for rows in groups:
        embeddings[rows] = embed(images[rows], extractor, device=device, progress=progress)
    return embeddings


def extractor_table(extractor: PretrainedEncoder) -> dict[str, Any]:
    """Return what `model.json` and manifests say of an extractor."""
    return {"name": extractor.name, "preprocess": extractor.preprocess.as_table()}


def _extractor(folder: Path, table: dict[str, Any] | None) -> PretrainedEncoder | None:
    if table is None:
        return None
    preprocess = Preprocess.from_table(table["preprocess"])
    extractor = pretrained_encoder(table["name"], preprocess=preprocess, pretrained=False)
    extractor.load_state_dict(_read_weights(folder / "extractor.safetensors"))
    return extractor.eval()


def _empty_method(description: dict[str, Any]) -> Method:
    problem = Problem(
        n_images=0,
        image_shape=tuple(description["image_shape"]),
        n_clusters=description["n_clusters"],
        mean=tuple(description["mean"]),
        std=tuple(description["std"]),
        evidence=dataclasses.replace(Resolved.nothing(0), class_names=tuple(description["class_names"])),
    )
    config = make_config(description["method"], description["options"])
    with without_weights():
        return make_method(description["method"], config, problem)


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except Exception as error:
        raise RunError(f"The weights {str(path)!r} cannot be read ({error}).") from None
