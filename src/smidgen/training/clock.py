"""Progress and time of a training: splits `max_seconds` between the stages."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from smidgen.methods.base import Stage
from smidgen.options import CountOrZero, Weight


@dataclass
class Progress:
    """The position of a training; with tensors and callbacks' states this is all a resume needs."""

    stage: CountOrZero = 0
    step: CountOrZero = 0
    done: CountOrZero = 0  # steps in all
    begun: bool = False  # whether `begin` has been called since the last step
    begun_to: int = -1  # the last step of this stage that `begin` has been called for, ahead of the steps or not
    scale: float = 1.0  # of the learning rate: halved when a step diverges
    failures: CountOrZero = 0
    seconds: Weight = 0.0
    began: float = 0.0  # what `seconds` was when this stage began
    allowed: float | None = None  # seconds that this stage may take
    cut: CountOrZero = 0  # steps that this stage has after all, its time being up; 0: as many as planned
    stopped_early: bool = False  # whether any stage was cut
    cuts: dict[str, list[int]] = field(default_factory=dict)  # stages that were: the steps they had, and their plan


class Clock:
    """Measures the time of a training; `progress` stores it, except for the time since the clock was made.

    max_seconds: how long all stages may take together, None for as long as their steps do. log: called with a
    sentence where a stage ends before its steps are done.
    """

    def __init__(self, progress: Progress, *, max_seconds: float | None, log: Callable[[str], None]) -> None:
        self.progress, self._max_seconds, self._log = progress, max_seconds, log
        self._started = time.monotonic()
        self._pause_ended, self._pause_took = -math.inf, 0.0

    def seconds(self) -> float:
        """Return the seconds spent, before resumes too."""
        return self.progress.seconds + time.monotonic() - self._started

    def note(self) -> None:
        """Store the seconds spent in `progress`, for a checkpoint."""
        self.progress.seconds = self.seconds()
        self._started = time.monotonic()

    def allow(self, share: float) -> None:
        """Allot a share of the remaining seconds, if they are limited, to the stage that begins."""
        if self._max_seconds is not None:
            self.progress.began = self.seconds()
            self.progress.allowed = max(1e-3, share * (self._max_seconds - self.progress.began))

    def paused(self, since: float) -> None:
        """Note that from `since`, in `seconds`, until now no steps were made, but what comes between them."""
        self._pause_ended, self._pause_took = self.seconds(), self.seconds() - since

    def may_pause(self) -> bool:
        """Return whether, if time is limited, steps have had as long as what came between them took the last time.

        Otherwise a method that looks at all images at intervals would do little else, however little time it has.
        """
        return self.progress.allowed is None or self.seconds() - self._pause_ended >= self._pause_took

    def reached(self, stage: Stage) -> int:
        """Return the effective step of the stage: the steps made, or more where time is ahead of them.

        Where there is no time even for the least steps, these are spread evenly over the stage.
        """
        by_clock = min(int(self._share_spent() * stage.steps), stage.steps - 1)
        by_least = (self.progress.step + 1) * stage.steps // least_steps(stage) - 1
        return max(self.progress.step, min(by_clock, by_least))

    def length(self, stage: Stage) -> int:
        """Return the number of steps of the stage: as planned, or fewer if its time was up."""
        return self.progress.cut or stage.steps

    def ends(self, stage: Stage) -> bool:
        """Return whether the stage must end now, before its steps are done."""
        return self._share_spent() >= 1 and least_steps(stage) <= self.progress.step < stage.steps

    def cut(self, stage: Stage) -> None:
        """End the stage at the current step, and log it."""
        step = self.progress.step
        self.progress.cut, self.progress.stopped_early = step, True
        self.progress.cuts = {**self.progress.cuts, stage.name: [step, stage.steps]}
        least = ", the fewest it can do with" if 1 < step == least_steps(stage) else ""
        self._log(f"Time is up: stage {stage.name!r} ends after {step:,} of its {stage.steps:,} steps{least}.")

    def _share_spent(self) -> float:
        """Return the fraction of the stage's time that is used, above 1 if it is exceeded; 0 without a limit."""
        allowed = self.progress.allowed
        return 0.0 if allowed is None else (self.seconds() - self.progress.began) / allowed


def least_steps(stage: Stage) -> int:
    """Return the minimum number of steps of a stage, even if time is short."""
    return max(1, math.ceil(stage.least * stage.steps))


def work(stage: Stage) -> float:
    """Return the weight of a stage in sharing out time: steps times cost."""
    return max(1, stage.steps) * stage.cost
