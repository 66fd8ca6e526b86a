"""`model.json`: the description of a saved model, validated against a schema before the model is built."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from smidgen.checksums import check_seal, sealed
from smidgen.data.values import OPEN, ValueRange
from smidgen.errors import Damaged, RunError
from smidgen.files import read_json, write_json
from smidgen.nets.composed import Chain, Gradients, Projected
from smidgen.options import Count, Positive, Share
from smidgen.schemas import convert

FORMAT = 10

_LARGEST_IMAGE = 2**27  # numbers in one image: beyond them a description is not believed


@dataclass(frozen=True)
class Preprocessing:
    """How images were made into arrays: the side in pixels, 1 or 3 channels, and how other shapes are resized.

    size, channels: None where ready embeddings were given, not images.
    value_range: the values that were black and white, for new images to be read alike.
    """

    size: Count | None
    channels: Count | None
    resize: Literal["crop", "pad", "squash"] = "crop"
    value_range: ValueRange = OPEN


class ExtractorTable(msgspec.Struct, forbid_unknown_fields=True):
    """The description of a model's frozen encoder."""

    name: str
    preprocess: dict[str, Any]


class BagCalibrationTable(msgspec.Struct, forbid_unknown_fields=True):
    """The fields of `evaluation.bag_predictions.Calibration`."""

    sharpness: Positive
    leak: Share
    gathering: Share
    wrong: Share


class ModelFile(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True):
    """The content of `model.json`; a field that came later has a default, so that older models can be read.

    shape: (channels, height, width) of an image, or (features,) of a vector, as the method receives them.
    temperature: of the assignments, see `maths.temperature`.
    weights: the checksum of each file of tensors beside it. checksum: of all other fields, see `checksums.sealed`.
    """

    format: int
    method: str
    options: dict[str, bool | int | float | str | Gradients | Projected | Chain | None]
    n_clusters: Annotated[int, Meta(ge=1, le=10**6)]
    shape: tuple[Count, ...]
    mean: tuple[float, ...]
    std: tuple[Annotated[float, Meta(ge=0)], ...]
    preprocessing: Preprocessing
    cluster_names: tuple[str, ...]
    class_names: tuple[str, ...]
    extractor: ExtractorTable | None = None
    bag_calibration: BagCalibrationTable | None = None
    temperature: Positive = 1.0
    weights: dict[str, str] = {}
    checksum: str = ""

    def __post_init__(self) -> None:
        if len(self.shape) not in (1, 3):
            raise ValueError(f"shape {self.shape} is neither of an image nor of a vector")
        if math.prod(self.shape) > _LARGEST_IMAGE:
            raise ValueError(f"shape {self.shape} is beyond all measure")
        if not len(self.mean) == len(self.std) == self.shape[0]:
            raise ValueError(f"mean and std must have one number for each of {self.shape[0]} channels or features")
        if self.extractor is not None and None in (self.preprocessing.size, self.preprocessing.channels):
            raise ValueError("preprocessing must say size and channels of the images that the extractor embeds")
        if len(self.cluster_names) != self.n_clusters:
            raise ValueError(f"{len(self.cluster_names)} cluster_names are given for {self.n_clusters} clusters")


def write_model_file(folder: Path, description: ModelFile) -> None:
    """Write `model.json`, with its checksum."""
    write_json(folder / "model.json", sealed(msgspec.to_builtins(description)))


def read_model_file(folder: Path) -> ModelFile:
    """Return what `model.json` says; raises RunError if there is none, or it is damaged or of another format."""
    path = folder / "model.json"
    if not path.is_file():
        raise RunError(f"{str(folder)!r} holds no trained model: is it a run folder that has finished?")
    table = read_json(path)
    found = table.get("format") if isinstance(table, dict) else None
    if isinstance(found, int) and found != FORMAT:
        remedy = "fit it again" if found < FORMAT else "update smidgen"
        raise RunError(f"{str(folder)!r} is a model of format {found}; this smidgen reads format {FORMAT}: {remedy}.")
    try:
        description = convert(table, ModelFile)
        check_seal(table)
        return description
    except Damaged as error:
        raise RunError(f"{str(path)!r} is damaged or is not smidgen's ({error}): save the model again.") from None
