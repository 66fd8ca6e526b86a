"""Chooses the method: the requested one, or the one that `fusion` stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from smidgen.config import Config
from smidgen.data.datasets import Dataset
from smidgen.errors import InputError
from smidgen.listener import Listener
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.pca import fit_pca
from smidgen.methods import FUSION, FUSION_METHODS, SMALL, make_config, only_in, option_types
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoders import is_trained_from_scratch
from smidgen.options import Options

IMAGES, EMBEDDINGS = FUSION_METHODS
TUNING = "self-training"
"""What `fusion` is where a pretrained encoder is trained further."""

LEAST_JUDGED, MOST_JUDGED = 200, 2000
"""Small grey images among which nearest neighbours are found; of fewer, that says nothing."""

LEAST_MUTUAL = 0.5
"""The share of mutual neighbours from which on a net is trained on small grey images."""


@dataclass(frozen=True)
class Choice:
    """The method that `fusion` is, and why."""

    method: str
    why: str

    def as_table(self) -> dict[str, str]:
        """Return the manifest's entries about this choice."""
        return {"asked": FUSION, "why": self.why}


def choose_method(config: Config, train: Dataset, listener: Listener) -> tuple[Config, Choice | None]:
    """Return the configuration with the method that `fusion` is for these images, and why; as it is for others."""
    if config.method != FUSION:
        return config, None
    choice = by_options(config) or _by_images(train)
    listener.log(f"`{config.method}` is `{choice.method}` here: {choice.why}.")
    options = method_options(choice.method, config.options)
    return dataclasses.replace(config, method=choice.method, options=options), choice


def method_options(method: str, options: Mapping[str, Any]) -> Options:
    """Return a method's own configuration: the options themselves where they are it, otherwise made of them."""
    is_made = isinstance(options, Options) and options.keys() == option_types(method).keys()
    return options if is_made else make_config(method, options)  # type: ignore[return-value]


def is_fine_tuned(config: Config) -> bool:
    """Return whether `fusion` is to train a pretrained encoder further, by no option that only `fusion-images` has."""
    encoder = config.encoder or config.options.get("encoder") or ""
    given = [name for name in config.options if name != "encoder" and name not in option_types(TUNING)]
    is_ours = isinstance(encoder, str) and bool(encoder) and is_trained_from_scratch(encoder)
    return config.fine_tune and config.method == FUSION and not is_ours and not only_in(IMAGES, given)


def by_options(config: Config) -> Choice | None:
    """Return which method `fusion` is whatever the images are, None where they decide.

    Raises InputError where the encoder and the options ask for both.
    """
    if is_fine_tuned(config):
        return Choice(TUNING, "a pretrained encoder is trained further")
    trained, frozen = _encoders(config)
    given = [name for name in config.options if name != "encoder"]
    reasons = {
        method: [f"`{name}` is an option that only it has" for name in only_in(method, given)]
        for method in FUSION_METHODS
    }
    if trained is not None:
        reasons[IMAGES].insert(0, f"the encoder {str(trained)!r} is trained")
    if frozen is not None:
        reasons[EMBEDDINGS].insert(0, f"the encoder {frozen!r} is frozen")
    if all(reasons.values()):
        each = ", and ".join(f"`{method}`, as {why[0]}" for method, why in reasons.items())
        raise InputError(f"`{FUSION}` would be {each}: leave one of the two out, or name one of these methods.")
    return next((Choice(method, why[0]) for method, why in reasons.items() if why), None)


def _encoders(config: Config) -> tuple[EncoderOption | None, str | None]:
    """Return the encoder that is trained and the one that is frozen, where they are named."""
    named, trained = config.encoder, config.options.get("encoder")
    if named is not None and (config.fine_tune or is_trained_from_scratch(named)):
        return trained or named, None
    return trained, named


def _by_images(train: Dataset) -> Choice:
    if train.holds_vectors:
        return Choice(EMBEDDINGS, "the data are ready embeddings")
    grey, largest = train.shape[0] == 1, max(train.shape[1:])
    if grey and largest <= SMALL:
        return _by_pixels(train, f"the images are grey and of at most {SMALL} pixels a side")
    what = f"larger than {SMALL} pixels a side" if grey else "in colour"
    return Choice(EMBEDDINGS, f"the images are {what}, and no encoder is named to be trained on them")


def _by_pixels(train: Dataset, what: str) -> Choice:
    """Return the method for small grey images: those whose pixels say which images are alike train a net of their own.

    what: the images are, in words.
    """
    if len(train) < LEAST_JUDGED:
        return Choice(IMAGES, what)
    share = mutual_share_of_pixels(train.images[:: -(-len(train) // MOST_JUDGED)])
    said = f"{round(100 * share)} % of their nearest neighbours by pixels are mutual"
    if share >= LEAST_MUTUAL:
        return Choice(IMAGES, f"{what}, and {said}, as of writing")
    return Choice(EMBEDDINGS, f"{what}, but only {said}, fewer than of writing: pixels do not say which are alike")


def mutual_share_of_pixels(images: np.ndarray) -> float:
    """Return the share of nearest neighbours by pixels that are mutual, 0 … 1, of images (n, 1, height, width).

    Ten neighbours on the first 50 principal components, as `fusion-images` finds them. Where distances of pixels mean
    little, as between photographs, a few images are near to most others (Radovanović et al., JMLR 2010), and few
    neighbours are mutual. Measured: digits and letters .61 to .73, photographs .21 to .48 (200 to 2,000 images).
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images)).flatten(1).float() / 255
    reduced = fit_pca(pixels, min(50, *pixels.shape)).transform(pixels)
    near = nearest_neighbours(reduced, min(10, len(pixels) - 1))[0]
    own = torch.arange(len(near))[:, None, None]
    return float((near[near] == own).any(2).float().mean())
