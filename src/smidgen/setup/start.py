"""What a fit loads from another run (`--init-from`), and what of that conflicts with its configuration."""

from __future__ import annotations

import copy
import dataclasses

from smidgen.config import Config
from smidgen.errors import InputError
from smidgen.methods import FUSION, option_types
from smidgen.methods.base import Method, StartingPoint
from smidgen.model import Model
from smidgen.nets.composed import Chain, ChainedEncoder, EncoderOption
from smidgen.nets.encoder import Encoder
from smidgen.nets.encoders import is_trained_from_scratch
from smidgen.setup.method import EMBEDDINGS


def starting_run(config: Config) -> Model | None:
    """Return the model of the run that `config.init_from` names, None where it names none.

    Raises RunError if there is no model, InputError if it has no net to start from.
    """
    if config.init_from is None:
        return None
    other = Model.load(config.init_from)
    if other.extractor is None and other.method.starting_point is None:
        raise InputError(f"The run {config.init_from!r} has no net to start from: leave out `--init-from`.")
    return other


def refuse_other_embeddings(config: Config, other: Model) -> None:
    """Raise InputError where `--encoder` names other embeddings than those that the other run's nets work on."""
    named, own = config.encoder, None if other.extractor is None else other.extractor.name
    if named in (None, own) or (own is None and (config.fine_tune or is_trained_from_scratch(str(named)))):
        return
    works = "trained a net on images or ready embeddings" if own is None else f"works on the embeddings of {own!r}"
    raise InputError(
        f"The run {config.init_from!r} {works}, and none of that goes with `--encoder {named}`: leave out one of"
        " `--encoder` and `--init-from`."
    )


def net_to_start_from(other: Model, config: Config) -> EncoderOption | None:
    """Return the encoder that another run offers, None where the method has no place for one.

    `fusion` has none for what clustered embeddings: it clusters them anew, unless what embeds them is to be trained.
    """
    if "encoder" not in option_types(config.method):
        return None
    is_trained = config.fine_tune and other.extractor is not None
    starts_anew = config.method == FUSION and (other.name == EMBEDDINGS or other.extractor is not None)
    return None if starts_anew and not is_trained else _encoder(other, fine_tune=config.fine_tune)


def _encoder(other: Model, *, fine_tune: bool) -> EncoderOption | None:
    start, extractor = other.method.starting_point, other.extractor
    own = None if start is None else start.encoder
    if extractor is None or not fine_tune:
        return own
    return extractor.name if own is None else Chain(extractor.name, own)  # type: ignore[arg-type]  # own: of vectors


def start_from(method: Method, other: Model, *, fine_tune: bool) -> None:
    """Let a new method take what another run offers; but for an extractor, that may be nothing.

    fine_tune: whether an extractor is trained, too, as the first part of the method's encoder.
    """
    start, encoder = other.method.starting_point, _encoder(other, fine_tune=fine_tune)
    if fine_tune and other.extractor is not None and encoder is not None:
        net: Encoder = copy.deepcopy(other.extractor).fold()
        if start is None:
            start = StartingPoint(encoder, net)
        else:
            start = dataclasses.replace(start, encoder=encoder, net=ChainedEncoder(net, start.net))
    if start is not None:
        method.start_from(start)
