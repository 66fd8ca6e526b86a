"""`--fine-tune` with `fusion`: the two fits that it stands for, and which options go to which of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from smidgen.config import Config
from smidgen.errors import InputError, unknown
from smidgen.methods import FUSION, option_types
from smidgen.setup.encoder import PREFERRED
from smidgen.setup.method import EMBEDDINGS, TUNING, is_fine_tuned

FROZEN = "frozen"
"""Before the name of an option of the frozen fit that the fine-tuning has, too: `frozen.steps`."""

ABOUT_EVIDENCE = ("evidence", "wrong")
"""Options that say how far evidence is believed, which is the same for both fits."""


def has_two_fits(config: Config) -> bool:
    """Return whether a configuration stands for a fit on a frozen encoder and the fine-tuning of it after that."""
    return config.init_from is None and is_fine_tuned(config)


def frozen_fit(config: Config) -> Config:
    """Return the configuration of the first of the two fits; InputError for an option that neither has."""
    encoder = config.encoder or config.options.get("encoder") or PREFERRED
    seconds = None if config.max_seconds is None else config.max_seconds / 2
    options = _routed(config.options)[0]
    return dataclasses.replace(config, fine_tune=False, encoder=encoder, max_seconds=seconds, options=options)


def tuning_fit(config: Config) -> Config:
    """Return the configuration of the second fit, which is the only one where a run to start from is given.

    Raises InputError for an option that it lacks.
    """
    frozen, tuned = _routed(config.options)
    others = [name for name in frozen if name not in ABOUT_EVIDENCE]
    if config.init_from is not None and others:
        raise InputError(
            f"{others[0]!r} is an option of a fit on a frozen encoder, and the run {config.init_from!r} is that fit:"
            " leave it out."
        )
    if config.init_from is None and isinstance(tuned.get("encoder"), str):
        del tuned["encoder"]  # the first fit has it, and hands it on
    return dataclasses.replace(config, options=tuned)


def _routed(options: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the options of the frozen fit and of the fine-tuning: those that both have are the fine-tuning's.

    >>> _routed({"heads": 9, "steps": 50, "frozen.steps": 20, "wrong": 0})
    ({'heads': 9, 'wrong': 0, 'steps': 20}, {'steps': 50, 'wrong': 0})
    """
    first, second = option_types(EMBEDDINGS), option_types(TUNING)
    frozen: dict[str, Any] = {}
    tuned: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for name, value in options.items():
        if name == FROZEN and isinstance(value, Mapping):  # as TOML has it
            own |= value
        elif name.startswith(f"{FROZEN}."):
            own[name.removeprefix(f"{FROZEN}.")] = value
        elif name not in first and name not in second:
            raise unknown(f"option of {FUSION} with `fine_tune`", name, sorted({*first, *second}))
        else:
            if name in second:
                tuned[name] = value
            if name not in second or name in ABOUT_EVIDENCE:
                frozen[name] = value
    return frozen | own, tuned
