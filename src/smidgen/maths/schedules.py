"""Schedules: the share of a peak learning rate or weight decay as a pure function of progress, from 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from smidgen.errors import unknown

Schedule = Callable[[float], float]
"""Progress from 0 to 1 → share of the peak."""


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


SCHEDULES: dict[str, Schedule] = {
    "constant": constant,
    "cosine": cosine,
    "one-cycle": one_cycle,
    "warm-cosine": warm_cosine,
}


def between(first: float, last: float, *, shape: Schedule = cosine) -> Schedule:
    """Return a schedule from `first` to `last`, in the shape of one that falls from 1 to 0.

    A final rate above 0 (SwAV: `between(1, 0.001)`), or a weight decay that rises (DINO: `between(0.1, 1)`).

    >>> between(1.0, 0.1)(1.0), between(0.1, 1.0)(0.0)
    (0.1, 0.1)
    """
    return lambda progress: first * shape(progress) + last * (1 - shape(progress))


def warmed_up(schedule: Schedule, *, share: float, start: float = 0.0) -> Schedule:
    """Return a schedule with a linear rise before it, from `start` to 1, over a share of the training.

    >>> [round(warmed_up(cosine, share=0.1, start=0.2)(t), 2) for t in (0.0, 0.05, 0.1, 1.0)]
    [0.2, 0.6, 1.0, 0.0]
    """
    return lambda progress: (
        start + (1 - start) * progress / share if progress < share else schedule((progress - share) / (1 - share))
    )


def in_steps(places: Sequence[float], *, factor: float = 0.1) -> Schedule:
    """Return a schedule that is multiplied by `factor` at each place, a share of the training.

    SeLa, epochs 150, 300 and 350 of 400:

    >>> [round(in_steps([150 / 400, 300 / 400, 350 / 400])(t), 4) for t in (0.0, 0.5, 0.8, 0.9)]
    [1.0, 0.1, 0.01, 0.001]
    """
    return lambda progress: factor ** sum(progress >= place for place in places)


def part_of_cosine(turns: float = 7 / 16) -> Schedule:
    """Return cos(turns · π · progress): FixMatch's schedule, which ends at cos(7π/16) = .195, not at 0.

    >>> round(part_of_cosine()(1.0), 3)
    0.195
    """
    return lambda progress: math.cos(turns * math.pi * progress)


def rate(schedule: str | Schedule, step: int, steps: int) -> float:
    """Return the share of the peak for step `step` of `steps` (0-based).

    schedule: a name in `SCHEDULES`, or any function of progress. Progress is taken at the middle of the step, so that
    no step has rate 0. Raises InputError for an unknown name.

    >>> rate("constant", 0, 10), round(rate("cosine", 9, 10), 4)
    (1.0, 0.0062)
    """
    if callable(schedule):
        return schedule((step + 0.5) / steps)
    if schedule not in SCHEDULES:
        raise unknown("schedule", schedule, SCHEDULES)
    return SCHEDULES[schedule]((step + 0.5) / steps)
