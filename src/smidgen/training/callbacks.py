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
    """The state of a training that callbacks receive.

    step: steps done in this stage. total_step: steps done in all. losses: the scalars of the last step. rate: the
    learning rate of the first parameter group. extras: values that callbacks add to the log at this step.
    assignments: (sample, clusters) of some training images, if an earlier callback has computed them.
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
    """A hook into training; anything it remembers must be in its `state`, to survive a resume."""

    def before_begin(self, method: Method, stage: Stage, step: int) -> None:
        """Called before the method's `begin`, which may pass over the whole training set."""

    def after_begin(self, method: Method, stage: Stage, step: int) -> None:
        """Called after the method's `begin`."""

    def wants_to_see(self, stage: Stage, step: int) -> bool:
        """Return whether `after_step` needs the method as it is at this step, and so must run before the next.

        Otherwise it may run some steps later, with the losses of its step.
        """
        return False

    def after_step(self, moment: Moment) -> None:
        """Called after an optimiser step."""

    def state(self) -> dict[str, Any]:
        """Return the state for a checkpoint, as JSON values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state; an empty one is the start of training."""


class MetricsLog(Callback):
    """Writes `metrics.jsonl`: one line per interval with the means of its losses, and at the last step of a stage.

    On restoring a checkpoint the file is truncated to its length at that time, so that an interrupted run ends with the
    log of an uninterrupted one.
    """

    def __init__(self, path: Path | None, *, every: int = 20) -> None:
        self.path, self.every = path, every
        self._bytes, self._sums = 0, dict[str, list[float]]()  # the file is left alone until `restore`

    def after_step(self, moment: Moment) -> None:
        """Add the step to the interval; write a line at its end."""
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
        """Truncate the file."""
        self._bytes, self._sums = state.get("bytes", 0), dict(state.get("sums", {}))
        if self.path is not None and self.path.exists() and self.path.stat().st_size > self._bytes:
            os.truncate(self.path, self._bytes)  # never longer: that would fill a file that was cut by hand with zeros


class Ticker(Callback):
    """Calls a function with (stage name, steps done, steps of the stage, losses) after every step.

    Also without losses, before the method's `begin`.
    """

    def __init__(self, tick: Callable[[str, int, int, Mapping[str, float]], None]) -> None:
        self._tick = tick

    def before_begin(self, method: Method, stage: Stage, step: int) -> None:
        """Report that `begin` runs, and no step."""
        self._tick(stage.name, step, stage.steps, {})

    def after_step(self, moment: Moment) -> None:
        """Report the step."""
        self._tick(moment.stage.name, moment.step, moment.stage.steps, moment.losses)
