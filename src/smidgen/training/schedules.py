"""Learning-rate schedules: the share of the peak rate as a pure function of progress."""

from __future__ import annotations

import math
from collections.abc import Callable

from smidgen.errors import unknown


def constant(progress: float) -> float:
    """Return 1 throughout."""
    return 1.0


def cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine (Loshchilov & Hutter 2017)."""
    return (1 + math.cos(math.pi * progress)) / 2


def one_cycle(progress: float) -> float:
    """Rise from 1/25 to 1 in the first 30 %, then fall to 0, both along half a cosine (Smith & Topin 2019)."""
    if progress < 0.3:
        return 1 - (1 - 1 / 25) * cosine(progress / 0.3)
    return cosine((progress - 0.3) / 0.7)


def warm_cosine(progress: float) -> float:
    """Rise linearly in the first 5 %, then fall to 0 along half a cosine."""
    return progress / 0.05 if progress < 0.05 else cosine((progress - 0.05) / 0.95)


SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "one-cycle": one_cycle,
    "warm-cosine": warm_cosine,
}


def rate(schedule: str, step: int, steps: int) -> float:
    """Return the share of the peak learning rate for step `step` of `steps` (0-based), in [0, 1].

    Progress is taken at the middle of the step, so that no step has rate 0. Raises InputError for an unknown name.

    >>> rate("constant", 0, 10), round(rate("cosine", 9, 10), 4)
    (1.0, 0.0062)
    """
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]((step + 0.5) / steps)
