"""One file per method: its config, its objective as pure functions, its class; methods never import each other."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from smidgen.errors import ContractError, InputError, unknown
from smidgen.options import Options, convert, field_types

if TYPE_CHECKING:
    from smidgen.methods.base import Method, Problem

METHODS: dict[str, tuple[str, str, str]] = {
    "fusion-images": (
        "FusionImages",
        "FusionImagesConfig",
        "trains a network on the images: neighbours agree, clusters are balanced, each kind of evidence adds a loss",
    ),
    "fusion-embeddings": (
        "FusionEmbeddings",
        "FusionEmbeddingsConfig",
        "for embeddings of a frozen encoder: an ensemble of linear heads; a small network learns from evidence",
    ),
    "consistency": (
        "Consistency",
        "ConsistencyConfig",
        "for few labels: sure predictions on weak views must hold on strong ones (FixMatch, FreeMatch)",
    ),
    "deepcluster": ("DeepCluster", "DeepClusterConfig", "alternates k-means on features and training on its labels"),
    "kmeans": ("KMeans", "KMeansConfig", "k-means on pixels, principal components or embeddings"),
    "label-spreading": ("LabelSpreading", "LabelSpreadingConfig", "labels spread to nearest neighbours (a baseline)"),
    "logistic-regression": (
        "LogisticRegression",
        "LogisticRegressionConfig",
        "logistic regression on pixels or embeddings (a baseline)",
    ),
    "mutual-information": (
        "MutualInformation",
        "MutualInformationConfig",
        "assigns images firmly, uses clusters fairly, and the same for two views of an image",
    ),
    "rcc": ("RCC", "RCCConfig", "predicts the class counts of bags from densities of features; or DLLP"),
    "seeded-autoencoder": (
        "SeededAutoencoder",
        "SeededAutoencoderConfig",
        "k-means on an autoencoder's codes, started from the labelled images",
    ),
    "sela": ("SeLa", "SeLaConfig", "alternates balanced labels by optimal transport and training on them"),
    "self-training": (
        "SelfTraining",
        "SelfTrainingConfig",
        "fine-tunes an encoder on a run's own assignments, under strong views, and on all evidence",
    ),
    "supervised": ("Supervised", "SupervisedConfig", "cross-entropy on the labels: the upper bound"),
    "swav": ("SwAV", "SwAVConfig", "one view of an image predicts the balanced prototype assignment of another"),
    "ucc": ("UCC", "UCCConfig", "predicts the unique class count of bags from densities of features, as published"),
}
"""Name → (class, its configuration, one line for `smidgen list`); nothing is imported before it is asked for.

Both are names in the module of the method's name, with `_` for `-`; the class has the method's name as its `name`.
"""

FUSION = "fusion"
"""The name that stands for one of two methods, chosen to suit the data."""

FUSION_METHODS = ("fusion-images", "fusion-embeddings")

NAMES = (FUSION, *METHODS)
"""The values of `--method`."""

SMALL = 64
"""Pixels a side up to which grey images may be writing."""

FUSION_RULE = f"""\
`fusion` is the one of two methods that suits the data; a run says which, and why. It is

  fusion-images      where an encoder of ours is trained (`--encoder conv`), or an option is given that only this
                     method has;
  fusion-embeddings  where an encoder is frozen (`--encoder lite0`), or an option is given that only this method has.

Where nothing of this is given, the data decide:

  fusion-images      of grey images of up to {SMALL} pixels a side, where half of their nearest neighbours by pixels
                     are mutual: they may be writing, which nets trained on photographs know little of;
  fusion-embeddings  of ready embeddings, and of all other images, which the encoder lite2 makes embeddings of.

Options that both have mean the same in both.

With `--fine-tune` it is two fits: fusion-embeddings on the frozen encoder, a run of its own in the folder `frozen` of
the run folder, and then self-training, which trains the last stages of the encoder from there. Options go to the one
that has them, those that both have to self-training, `evidence` and `wrong` to both; `frozen.steps` is the `steps` of
the first fit. Of `--max-seconds` the first fit has half at most, and the second what is left. With `--init-from RUN`
that run is the first fit."""


def _member(name: str, index: int) -> Any:
    if name == FUSION:
        raise InputError(f"`{FUSION}` stands for one of {' and '.join(FUSION_METHODS)}: name one of these.")
    if name not in METHODS:
        raise unknown("method", name, NAMES)
    return getattr(importlib.import_module(f"smidgen.methods.{name.replace('-', '_')}"), METHODS[name][index])


def _config_class(name: str) -> type[Options]:
    found: type[Options] = _member(name, 1)
    if not issubclass(found, Options) or "__dataclass_fields__" not in vars(found):
        wanted = "a subclass of `Options` under `@dataclass(frozen=True, eq=False)`"
        raise ContractError(f"The configuration of method {name!r}, {found.__name__}, must be {wanted}.")
    return found


def option_types(name: str) -> Mapping[str, Any]:
    """Return name → annotated type of a method's options; of `fusion`, those of either of its methods."""
    methods = reversed(FUSION_METHODS) if name == FUSION else (name,)
    return {option: kind for method in methods for option, kind in field_types(_config_class(method)).items()}


def presets(name: str) -> Mapping[str, Mapping[str, Any]]:
    """Return a method's presets by their names, and the options that each sets; none of `fusion`."""
    return {} if name == FUSION else _config_class(name).PRESETS


def has_option(name: str, option: str, value: Any) -> bool:
    """Return whether a method has an option, or, where the option is "preset", a preset of that name.

    >>> has_option("consistency", "preset", "small"), has_option("supervised", "preset", "small")
    (True, False)
    """
    return str(value) in presets(name) if option == "preset" else option in option_types(name)


def only_in(method: str, options: Iterable[str]) -> list[str]:
    """Return the options that only this one of the methods of `fusion` has."""
    others = [option_types(other) for other in FUSION_METHODS if other != method]
    return [name for name in options if name in option_types(method) and not any(name in other for other in others)]


def read_options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that are given, of the types and in the ranges that they have in a method, or in `fusion`.

    Values may be texts, as the command line has them. `preset` names some of them at once, where the method's config
    has `PRESETS`; options given beside it win. Raises InputError for an unknown method, preset or option, or a value
    that is of the wrong type or out of its range.

    >>> read_options("kmeans", {"n_init": "3"})
    {'n_init': 3}
    """
    kinds = option_types(name)
    named = presets(name)
    options = dict(options)
    if named and "preset" in options:
        preset = str(options.pop("preset"))
        if preset not in named:
            raise unknown(f"preset of {name}", preset, named)
        options = {**named[preset], **options}
    for option in options:
        if option not in kinds:
            raise _unknown_option(name, option, [*kinds, *(["preset"] if named else [])])
    return {option: convert(option, value, kinds[option]) for option, value in options.items()}


def _unknown_option(method: str, option: str, known: Iterable[str]) -> InputError:
    has_it = [other for other in FUSION_METHODS if method in FUSION_METHODS and option in option_types(other)]
    if has_it:
        remedy = f"leave it out, or take `--method {has_it[0]}`"
        return InputError(f"`{option}` is an option of {has_it[0]}, not of {method}: {remedy}.")
    return unknown(f"option of {method}", option, known)


def make_config(name: str, options: Mapping[str, Any] | None = None) -> Options:
    """Return a method's own configuration, with the given options, see `read_options`; others have their defaults.

    >>> make_config("kmeans", {"n_init": "3"}).n_init
    3
    """
    made: Options = _config_class(name)(**read_options(name, options or {}))
    return made


def method_class(name: str) -> type[Method]:
    """Return the class of a registered method; raises InputError for an unknown one."""
    return _member(name, 0)


def make_method(name: str, config: Any, problem: Problem) -> Method:
    """Return a new method of the registered name: its class, called with its configuration and the problem.

    Raises InputError for an unknown one, ContractError if it does not keep what it was given.
    """
    from smidgen.methods.base import Method  # imports torch

    method: Method = _member(name, 0)(config, problem)
    for attribute in ("config", "problem", "name"):
        if not hasattr(method, attribute):
            raise ContractError(f"The class of method {name!r} must set `{attribute}`, as `methods.base.Method` says.")
    if method.name != name:
        raise ContractError(f"The class of method {name!r} must have this as its `name`, got {method.name!r}.")
    kind = type(method)
    if kind.assign is Method.assign and kind.assign_and_encode is Method.assign_and_encode:
        raise ContractError(f"The class of method {name!r} must define `assign` or `assign_and_encode`.")
    return method
