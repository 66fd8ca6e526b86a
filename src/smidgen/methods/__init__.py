"""One file per method: its config, its objective as pure functions, its class; methods never import each other."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import types
import typing
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smidgen.errors import InputError, unknown

if TYPE_CHECKING:
    from smidgen.methods.base import Method, Problem

METHODS: dict[str, tuple[str, str, str]] = {
    "fusion": ("Fusion", "FusionConfig", "neighbours agree, clusters are used equally, every evidence adds its term"),
    "fusion-embeddings": (
        "FusionEmbeddings",
        "FusionEmbeddingsConfig",
        "`fusion` where images come as embeddings: soft linear heads vote, a small net learns from evidence",
    ),
    "kmeans": ("KMeans", "KMeansConfig", "k-means on pixels, principal components or embeddings"),
    "rcc": ("RCC", "RCCConfig", "densities of features tell how many images of each class a bag holds; or DLLP"),
    "supervised": ("Supervised", "SupervisedConfig", "cross-entropy on the labels: the upper bound"),
    "ucc": ("UCC", "UCCConfig", "densities of features tell how many classes a bag holds, as published"),
}
"""Name → (class, its config, one line), in the module of the same name; nothing is imported before it is asked for."""

ON_EMBEDDINGS = {"fusion": "fusion-embeddings"}
"""Name → the method that stands in for it where images come as embeddings."""


def _member(name: str, index: int) -> Any:
    if name not in METHODS:
        raise unknown("method", name, METHODS)
    return getattr(importlib.import_module(f"smidgen.methods.{name.replace('-', '_')}"), METHODS[name][index])


def make_config(name: str, options: Mapping[str, Any] | None = None) -> Any:
    """Return a method's config dataclass with the given fields changed.

    Values may be texts, as the command line has them. `preset` names some of them at once, where the config has
    `PRESETS`; fields given beside it win. Raises InputError for an unknown method, preset or field, or a value of the
    wrong type.

    >>> make_config("kmeans", {"n_init": "3"}).n_init
    3
    """
    config_class = _member(name, 1)
    types_of = typing.get_type_hints(config_class)
    fields = [field.name for field in dataclasses.fields(config_class)]
    presets = getattr(config_class, "PRESETS", {})
    options = dict(options or {})
    if presets and "preset" in options:
        preset = str(options.pop("preset"))
        if preset not in presets:
            raise unknown(f"preset of {name}", preset, presets)
        options = {**presets[preset], **options}
    values = {}
    for key, value in options.items():
        if key not in fields:
            raise unknown(f"option of {name}", key, [*fields, *(["preset"] if presets else [])])
        values[key] = _convert(key, value, types_of[key])
    return config_class(**values)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise InputError for options that neither a method nor the one that stands in for it on embeddings has."""
    try:
        make_config(name, options)
    except InputError:
        if name not in ON_EMBEDDINGS:
            raise
        with contextlib.suppress(InputError):
            make_config(ON_EMBEDDINGS[name], options)
            return
        raise


def method_class(name: str) -> type[Method]:
    """Return the class of a registered method; raises InputError for an unknown one."""
    return _member(name, 0)


def make_method(name: str, config: Any, problem: Problem) -> Method:
    """Return a new method of the registered name; raises InputError for an unknown one."""
    return _member(name, 0)(config, problem)


def _convert(name: str, value: Any, wanted: Any) -> Any:
    """Return `value` as the annotated type of a field: int, float, bool, str, Literal[…], or one of these or None."""
    options = typing.get_args(wanted) if typing.get_origin(wanted) in (typing.Union, types.UnionType) else (wanted,)
    if type(None) in options and (value is None or value == "none"):
        return None
    kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        if value not in typing.get_args(kind):
            raise unknown(f"value for `{name}`", str(value), typing.get_args(kind))
        return value
    try:
        if kind is bool:
            return {"true": True, "false": False, "1": True, "0": False}[str(value).lower()]
        if kind is int and float(value) != int(float(value)):
            raise ValueError(value)
        return int(float(value)) if kind is int else kind(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise InputError(f"`{name}` must be of type {kind.__name__}, got {value!r}.") from None
