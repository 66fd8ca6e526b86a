"""What a fit loads from another run (`--init-from`), and what of that conflicts with its configuration."""

from __future__ import annotations

from smidgen.config import Config
from smidgen.errors import InputError
from smidgen.methods import FUSION, option_types
from smidgen.methods.base import Method
from smidgen.model import Model
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
    if named is None or config.fine_tune or named == own or (own is None and is_trained_from_scratch(named)):
        return
    works = "trained a net on images or ready embeddings" if own is None else f"works on the embeddings of {own!r}"
    raise InputError(
        f"The run {config.init_from!r} {works}, and none of that goes with `--encoder {named}`: leave out one of"
        " `--encoder` and `--init-from`."
    )


def net_to_start_from(other: Model, config: Config) -> str | None:
    """Return the name of the net that another run offers, None where the method has no place for one.

    `fusion` has none for what `fusion-embeddings` learned: it clusters embeddings anew.
    """
    if "encoder" not in option_types(config.method):
        return None
    starts_anew = config.method == FUSION and other.name == EMBEDDINGS
    trains_the_extractor = other.extractor is not None and (config.fine_tune or config.method == FUSION)
    start = other.method.starting_point
    return None if starts_anew or trains_the_extractor or start is None else start.encoder


def start_from(method: Method, other: Model) -> None:
    """Let a new method take what another run's offers; but for an extractor, that may be nothing."""
    start = other.method.starting_point
    if start is not None:
        method.start_from(start)
