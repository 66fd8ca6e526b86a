"""Hints for each alarm of the diagnostics: what to do, naming only options that the method has."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from smidgen.methods.base import Method
from smidgen.options import Options

_MOST = 4  # hints given at once

Hint = tuple[str | None, str]
"""An option, and what to do about it if the method has it; None for what can always be done."""

_HINTS: dict[str, Sequence[Hint]] = {
    "even": (
        ("steps", "train longer"),
        ("learning_rate", "raise `learning_rate`"),
        (None, "look at the images with `smidgen check`"),
    ),
    "one": (
        ("balance", "raise `balance`"),
        ("refine_balance", "raise `refine_balance`"),
        ("learning_rate", "lower `learning_rate`"),
        (None, "ask for more clusters"),
    ),
    "large": (
        ("prior", "take `prior=uniform` if the classes are of equal size"),
        ("balance", "raise `balance` for clusters of more equal size"),
        (None, "ask for more clusters"),
    ),
    "small": (
        (None, "ask for fewer clusters"),
        (None, "label an image or two of the class that it should be"),
        ("prior", "take `prior=uniform` if the classes are of equal size"),
    ),
    "empty": ((None, "ask for fewer clusters"), ("steps", "train longer")),
    "stuck": (
        ("prototypes", "take fewer `prototypes` (30 to 100 for ten classes)"),
        ("temperature", "raise `temperature` (up to 0.5)"),
        ("learning_rate", "change `learning_rate`"),
        ("steps", "train longer"),
    ),
    "flat": (("learning_rate", "raise `learning_rate`"), (None, "look at the images with `smidgen check`")),
    "diverging": (("learning_rate", "lower `learning_rate`"), (None, "look at the images with `smidgen check`")),
    "halved": (("learning_rate", "lower `learning_rate`"), (None, "look at the images with `smidgen check`")),
    "evidence": (
        ("evidence", "raise `evidence`"),
        ("log_output", "take the preset fast (`--set preset=fast`)"),
        ("bag_size", "take smaller bags (`bag_size`)"),
        (None, "start from a run without evidence (`--init-from RUN`)"),
        (None, "see what `smidgen check` says of the evidence"),
    ),
}


def hint(kind: str, options: Collection[str] | None, *, longer: bool = False) -> str:
    """Return what to try, the most promising first; longer: to train longer before all else."""
    possible = [text for option, text in _HINTS[kind] if option is None or options is None or option in options]
    possible = ["train longer", *possible][not longer :][:_MOST]
    return f"{', '.join(possible[:-1])} or {possible[-1]}" if len(possible) > 1 else possible[0]


def used_options(options: Collection[str] | None, method: Method) -> Collection[str] | None:
    """Return the options that this fit uses: none of a refinement where it has none."""
    if options is None or any(stage.name == "refine" for stage in method.stages()):
        return options
    return {option for option in options if not option.startswith("refine_")}


def useful_options(options: Collection[str] | None, method: Method) -> Collection[str] | None:
    """Return the options worth naming for evidence: no preset already in use, no size of given bags."""
    if options is None:
        return None
    config = method.config
    fast = config.PRESETS.get("fast", {}) if isinstance(config, Options) else {}
    is_fast = 2 * sum(config[name] == value for name, value in fast.items()) > len(fast)
    draws_bags = bool(method.evidence_use.bags_drawn_from)
    return {*options} - ({"log_output"} if is_fast else set()) - (set() if draws_bags else {"bag_size"})
