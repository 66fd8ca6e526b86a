"""One file per method: its config, its objective as pure functions, its class; methods never import each other."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from smidgen.errors import InputError, unknown
from smidgen.options import convert, field_types

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
    `PRESETS`; fields given beside it win. Raises InputError for an unknown method, preset or field, or a value that is
    of the wrong type or out of its range.

    >>> make_config("kmeans", {"n_init": "3"}).n_init
    3
    """
    config_class = _member(name, 1)
    kinds = field_types(config_class)
    presets = getattr(config_class, "PRESETS", {})
    options = dict(options or {})
    if presets and "preset" in options:
        preset = str(options.pop("preset"))
        if preset not in presets:
            raise unknown(f"preset of {name}", preset, presets)
        options = {**presets[preset], **options}
    values = {}
    for key, value in options.items():
        if key not in kinds:
            raise unknown(f"option of {name}", key, [*kinds, *(["preset"] if presets else [])])
        values[key] = convert(key, value, kinds[key])
    return config_class(**values)


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Raise InputError for options that neither a method nor the one that stands in for it on embeddings takes."""
    refusals = {}
    for form in filter(None, (name, ON_EMBEDDINGS.get(name))):
        try:
            make_config(form, options)
        except InputError as error:
            refusals[form] = error
        else:
            return
    has_all = [form for form in refusals if options.keys() <= {*field_types(_member(form, 1)), "preset"}]
    raise refusals[(*has_all, name)[0]]


def method_class(name: str) -> type[Method]:
    """Return the class of a registered method; raises InputError for an unknown one."""
    return _member(name, 0)


def make_method(name: str, config: Any, problem: Problem) -> Method:
    """Return a new method of the registered name; raises InputError for an unknown one."""
    return _member(name, 0)(config, problem)
