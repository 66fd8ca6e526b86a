"""Callbacks of the training loop: their interface, and the metrics log."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.files import naming
from smidgen.methods.base import Method, Stage


@dataclass
class Moment:
    """Where a training is, as callbacks see it.

    step: steps done in this stage. total_step: steps done in all. losses: the scalars of the last step. rate: the
    learning rate of the first parameter group. extras: what callbacks add for the log at this step. assignments:
    (sample, clusters) of some training images, where a callback before this one has looked at them.
    """

    method: Method
    stage: Stage
    step: int
    total_step: int
    losses: Mapping[str, float]
    rate: float
    seconds: float
    extras: dict[str, Any] = field(default_factory=dict)
    assignments: np.ndarray | None = None


class Callback:
    """Something that happens during training; whatever it remembers must survive a resume through its state."""

    def before_begin(self, stage: Stage, step: int) -> None:
        """Act before the method looks at the whole training set, which may take a while."""

    def wants_to_see(self, stage: Stage, step: int) -> bool:
        """Return whether `after_step` of this step uses the method itself: it is then called before the next step.

        Otherwise it may be called some steps later, with the losses of its own step.
        """
        return False

    def after_step(self, moment: Moment) -> None:
        """Act after an optimiser step."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold, as JSON values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state; an empty one is the beginning of a training."""


class MetricsLog(Callback):
    """Writes `metrics.jsonl`: one line per interval with the means of its losses, and at the last step of a stage.

    On going back to a checkpoint the file is cut to what it held then, so that an interrupted run's log is that of an
    uninterrupted one.
    """

    def __init__(self, path: Path | None, *, every: int = 20) -> None:
        self.path, self.every = path, every
        self._bytes, self._sums = 0, dict[str, list[float]]()  # the file is left alone until `restore`

    def after_step(self, moment: Moment) -> None:
        """Add the step to the interval, and write a line where the interval ends."""
        for name, value in moment.losses.items():
            total, steps = self._sums.get(name, (0.0, 0))
            self._sums[name] = [total + value, steps + 1]  # of the steps that had this loss
        if moment.step % self.every and moment.step != moment.stage.steps and not moment.extras:
            return
        means = {name: total / steps for name, (total, steps) in self._sums.items()}
        line = {
            "stage": moment.stage.name,
            "step": moment.step,
            "seconds": round(moment.seconds, 3),
            "learning_rate": moment.rate,
            **means,
            **moment.extras,
        }
        self._write(json.dumps(line, ensure_ascii=False))
        self._sums = {}

    def _write(self, line: str) -> None:
        if self.path is None:
            return
        with naming(self.path), self.path.open("ab") as file:
            file.write(line.encode() + b"\n")
            self._bytes = file.tell()

    def state(self) -> dict[str, Any]:
        """Return the length of the file in bytes and the interval so far."""
        if self.path is not None and self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())
        return {"bytes": self._bytes, "sums": self._sums}

    def restore(self, state: dict[str, Any]) -> None:
        """Cut the file back."""
        self._bytes, self._sums = state.get("bytes", 0), dict(state.get("sums", {}))
        if self.path is not None and self.path.exists() and self.path.stat().st_size > self._bytes:
            os.truncate(self.path, self._bytes)  # never longer: that would fill a file that was cut by hand with zeros


class Ticker(Callback):
    """Calls a function with (stage name, steps done, steps of the stage, losses) after every step.

    And with no losses before the method looks at the whole training set.
    """

    def __init__(self, tick: Callable[[str, int, int, Mapping[str, float]], None]) -> None:
        self._tick = tick

    def before_begin(self, stage: Stage, step: int) -> None:
        """Tell that no step is being made for now."""
        self._tick(stage.name, step, stage.steps, {})

    def after_step(self, moment: Moment) -> None:
        """Tell."""
        self._tick(moment.stage.name, moment.step, moment.stage.steps, moment.losses)
