"""Chooses the encoder: a frozen one that embeds the images, or the network that the method trains."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from smidgen.config import Config
from smidgen.data.datasets import Dataset
from smidgen.data.decoding import NATIVE_LIMIT
from smidgen.errors import InputError
from smidgen.hardware import forked_rng
from smidgen.listener import Listener
from smidgen.methods import FUSION, SMALL, option_types
from smidgen.model import Model, embed
from smidgen.nets.composed import Chain, EncoderOption, Projected
from smidgen.nets.encoders import FOR_IMAGES, is_trained_from_scratch
from smidgen.nets.pretrained import encoder_size, pretrained_encoder
from smidgen.nets.timm_encoder import SCRATCH, PretrainedEncoder
from smidgen.options import convert
from smidgen.setup.method import EMBEDDINGS, IMAGES, by_options, choose_method, method_options
from smidgen.setup.start import net_to_start_from, refuse_other_embeddings, starting_run

PREFERRED = "lite2"
"""The encoder for photographs, see `choose_encoder`."""

IMAGE_DEFAULTS = (*FOR_IMAGES, "wide-residual", "scratch:resnet50")
"""The encoders that methods have by default: nets for images, for which "vectors" stands in on embeddings."""


def with_encoder(config: Config, other: Model | None) -> Config:
    """Return the configuration with the encoder where it belongs: `encoder` is frozen, `options` has what is trained.

    Another run's encoder is taken for what it was there.
    """
    encoder, options = config.encoder, config.options
    if isinstance(options.get("encoder"), Mapping):  # as `config.toml` has encoders of several parts
        options = {**options, "encoder": convert("encoder", options["encoder"], EncoderOption)}
    if other is not None:
        refuse_other_embeddings(config, other)
        if other.extractor is not None:
            encoder = encoder or other.extractor.name
        options = _trained(options, net_to_start_from(other, config))
    wanted = encoder or options.get("encoder")
    is_known = other is not None or config.init_from is None  # or else that run may name it
    if other is None and is_known and isinstance(wanted, Projected | Chain):
        raise InputError(f"The encoder {str(wanted)!r} comes from another run: name that one, `--init-from RUN`.")
    if is_known and config.fine_tune and wanted is None:
        encoder = PREFERRED
    trained = encoder is not None and (config.fine_tune or is_trained_from_scratch(encoder))
    if is_known and config.weights is not None and (encoder is None or trained):
        raise InputError("`--weights` go with a frozen encoder: name the net they belong to, `--encoder NAME`.")
    if trained:
        if "encoder" not in option_types(config.method):
            raise InputError(
                f"`{config.method}` trains no encoder, and {encoder!r} would be trained: take `--method {IMAGES}`, or a"
                " pretrained encoder without `--fine-tune`."
            )
        options, encoder = _trained(options, encoder), None
    return dataclasses.replace(config, encoder=encoder, options=options)


def _trained(options: Mapping[str, Any], encoder: EncoderOption | None) -> Mapping[str, Any]:
    """Return the options with the encoder to train, unless they name one."""
    return options if encoder is None or "encoder" in options else {**options, "encoder": encoder}


def choose_encoder(
    config: Config, train: Dataset, listener: Listener, *, start: Model | None = None
) -> tuple[Config, PretrainedEncoder | None]:
    """Return the configuration with every choice made that depends on the images, and the encoder to embed them with.

    start: what `starting_run` returns, where it is at hand.

    Where none is named, `fusion-embeddings` has `PREFERRED`.
    """
    name = config.encoder
    if name is not None and train.holds_vectors:
        raise InputError(
            f"The encoder {name!r} wants images, and these are embeddings: leave `--encoder`, and `--fine-tune`, out."
        )
    config, _ = choose_method(config, train, listener)
    if name is None and config.method == EMBEDDINGS and not train.holds_vectors:
        name = PREFERRED
        listener.log(f"Images are embedded by {name!r}, a net trained on ImageNet's labels (`--encoder` changes it).")
    extractor = None if name is None else _extractor(name, config, start or starting_run(config))
    options = method_options(config.method, config.options)
    if (extractor is not None or train.holds_vectors) and options.get("encoder") in IMAGE_DEFAULTS:
        options = dataclasses.replace(options, encoder="vectors")  # type: ignore[type-var]
    return dataclasses.replace(config, encoder=name, options=options), extractor


def _extractor(name: str, config: Config, start: Model | None) -> PretrainedEncoder:
    """Return the encoder to embed images with: another run's own where that is what is asked for, weights and all."""
    other = None if start is None else start.extractor
    if other is not None and other.name == name and config.weights is None:
        return other
    with forked_rng("cpu"):  # the net is drawn before its weights are read
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
                log=listener.log,
            ),
            items=None,
        )
        for dataset in datasets
    ]


def encoder_to_compare(config: Config, train: Dataset) -> str | None:
    """Return the encoder whose embeddings tell kinds of images apart, where the method is given the images themselves.

    None for ready embeddings and for small grey images, whose pixels do; for others `PREFERRED`, or the pretrained
    encoder that the method is going to train.
    """
    if train.holds_vectors or (train.shape[0] == 1 and max(train.shape[1:]) <= SMALL):
        return None
    trained = config.options.get("encoder")
    if isinstance(trained, str) and not is_trained_from_scratch(trained) and not trained.startswith(SCRATCH):
        return trained
    return PREFERRED


def compared(train: Dataset, name: str, *, device: str, listener: Listener) -> Dataset:
    """Return images as the embeddings of an encoder that is not that of the fit."""
    with forked_rng("cpu"):
        encoder = pretrained_encoder(name, flip=True)
    return embedded([train], encoder, device=device, listener=listener)[0]


def as_if_embedded(dataset: Dataset, extractor: PretrainedEncoder | None) -> Dataset:
    """Return a dataset of embeddings that are all zero: enough to say what would run."""
    if extractor is None:
        return dataset
    zero = np.zeros((1, extractor.features), dtype=np.float32)
    return dataclasses.replace(dataset, images=np.broadcast_to(zero, (len(dataset), extractor.features)), items=None)


def encoder_in_words(config: Config) -> str | None:
    """Return what the encoder of a configuration is, frozen or trained; None where none is named."""
    encoder = config.encoder or config.options.get("encoder")
    return None if encoder is None else str(encoder)


def other_size(config: Config) -> int:
    """Return the side of images that are not of one small size: what the encoder reads best, where one may be used."""
    name = config.encoder or config.options.get("encoder")
    if isinstance(name, Chain):
        return encoder_size(name.first)
    if isinstance(name, str) and (not is_trained_from_scratch(name) or name.startswith(SCRATCH)):
        return encoder_size(name)
    choice = by_options(config) if config.method == FUSION else None
    method = config.method if choice is None else choice.method
    return encoder_size(PREFERRED) if method in (FUSION, EMBEDDINGS) else NATIVE_LIMIT  # `fusion` may come to it
