"""Which encoder a fit uses: the frozen one that embeds the images, or the net that the method trains."""

from __future__ import annotations

import dataclasses

import numpy as np

from smidgen.config import Config
from smidgen.data.datasets import Dataset
from smidgen.data.decoding import NATIVE_LIMIT
from smidgen.errors import InputError
from smidgen.listener import Listener
from smidgen.methods import ON_EMBEDDINGS, make_config
from smidgen.model import Model, embed
from smidgen.nets.encoders import is_projected, is_trained_here
from smidgen.nets.pretrained import SCRATCH, encoder_size, pretrained_encoder
from smidgen.nets.timm_encoder import PretrainedEncoder
from smidgen.setup.start import net_to_start_from, refuse_other_embeddings, starting_run

PREFERRED = "lite2"
"""The encoder for photographs, see `choose_encoder`."""

IMAGE_DEFAULTS = ("conv", "wide-residual", "alexnet", "alexnet-small")
"""The encoders that methods have by default: nets for images, for which "vectors" stands in on embeddings."""

SMALL = 64
"""Pixels a side up to which grey images may be writing."""


def with_encoder(config: Config, other: Model | None) -> Config:
    """Return the configuration with the encoder where it belongs: `encoder` is frozen, `options` has what is trained.

    Another run's encoder is taken for what it was there.
    """
    encoder, options = config.encoder, dict(config.options)
    if other is not None:
        refuse_other_embeddings(config, other)
        if other.extractor is not None:
            encoder = encoder or other.extractor.name
        if (trained_there := net_to_start_from(other, config)) is not None:
            options.setdefault("encoder", trained_there)
    wanted = encoder or options.get("encoder")
    if other is None and is_projected(wanted):
        raise InputError(f"The encoder {wanted!r} comes from another run: name that one, `--init-from RUN`.")
    trained = encoder is not None and (config.fine_tune or is_trained_here(encoder))
    if config.fine_tune and encoder is None and options.get("encoder") is None:
        raise InputError("Which encoder is to be trained further? Name it: `--encoder lite0 --fine-tune`.")
    if config.weights is not None and (encoder is None or trained):
        raise InputError("`--weights` go with a frozen encoder: name the net they belong to, `--encoder NAME`.")
    if trained:
        options.setdefault("encoder", encoder)
        encoder = None
    return dataclasses.replace(config, encoder=encoder, options=options)


def choose_encoder(
    config: Config, train: Dataset, listener: Listener, *, start: Model | None = None
) -> tuple[Config, PretrainedEncoder | None]:
    """Return the configuration with every choice made that depends on the images, and the encoder to embed them with.

    start: what `starting_run` returns, where it is at hand.

    Where none is named, `PREFERRED` is for methods that have a form for embeddings, unless images are small and grey:
    those may be writing, which nets trained on photographs know little of, and a small net learns it in a minute.
    """
    name = config.encoder
    small_and_grey = train.images.shape[1] == 1 and max(train.images.shape[2:]) <= SMALL
    if name is not None and train.holds_vectors:
        raise InputError(f"The encoder {name!r} wants images, and these are embeddings: leave `--encoder` out.")
    undecided = name is None and config.method in ON_EMBEDDINGS and "encoder" not in config.options
    if undecided and not train.holds_vectors and not small_and_grey:
        name = PREFERRED
        listener.say(f"Images are embedded by {name!r}, a net trained on ImageNet's labels (`--encoder` changes it).")
    extractor = None
    if name is not None:
        extractor = _extractor(name, config, start or starting_run(config))
    method = config.method
    if extractor is not None or (train.holds_vectors and "encoder" not in config.options):
        method = ON_EMBEDDINGS.get(method, method)
    options = dataclasses.asdict(make_config(method, config.options))
    if (extractor is not None or train.holds_vectors) and options.get("encoder") in IMAGE_DEFAULTS:
        options["encoder"] = "vectors"
    return dataclasses.replace(config, encoder=name, method=method, options=options), extractor


def _extractor(name: str, config: Config, start: Model | None) -> PretrainedEncoder:
    """Return the encoder to embed images with: another run's own where that is what is asked for, weights and all."""
    other = None if start is None else start.extractor
    if other is not None and other.name == name and config.weights is None:
        return other
    return pretrained_encoder(name, weights=config.weights, flip=True)


def embedded(
    datasets: list[Dataset], extractor: PretrainedEncoder | None, *, device: str, listener: Listener
) -> list[Dataset]:
    """Return datasets with embeddings for images, the same rows and ids; as they are where there is no extractor."""
    if extractor is None:
        return datasets
    return [
        dataclasses.replace(
            dataset,
            images=embed(
                dataset.images,
                extractor,
                device=device,
                progress=lambda done, total: listener.progress("embed images", done, total),
                say=listener.say,
            ),
            items=None,
        )
        for dataset in datasets
    ]


def as_if_embedded(dataset: Dataset, extractor: PretrainedEncoder | None) -> Dataset:
    """Return a dataset of embeddings that are all zero: enough to say what would run."""
    if extractor is None:
        return dataset
    zero = np.zeros((1, extractor.features, 1, 1), dtype=np.float32)
    return dataclasses.replace(dataset, images=np.broadcast_to(zero, (len(dataset), *zero.shape[1:])), items=None)


def other_size(config: Config) -> int:
    """Return the side of images that are not of one small size: what the encoder reads best, where one may be used."""
    name = config.encoder or config.options.get("encoder")
    if name is not None and (not is_trained_here(name) or name.startswith(SCRATCH)):
        return encoder_size(name)
    on_embeddings = config.method in ON_EMBEDDINGS and "encoder" not in config.options
    return encoder_size(PREFERRED) if on_embeddings else NATIVE_LIMIT
