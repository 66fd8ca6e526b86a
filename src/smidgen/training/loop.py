"""The one training loop: it serves any method, survives interruptions exactly and never steps on a broken gradient."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.batches import Part, as_floats, collect, seeded
from smidgen.errors import Damaged, InputError, TrainingError
from smidgen.hardware import forked_rng
from smidgen.methods.base import Embed, Method, Stage
from smidgen.options import CountOrNone, Weight
from smidgen.schemas import convert
from smidgen.training.callbacks import Callback, Moment
from smidgen.training.checkpoint import Checkpoints, Snapshot, capture, restore
from smidgen.training.interrupts import Interrupted, Interrupts
from smidgen.training.schedules import rate

EMBED_BATCH = 512
_RETRIES = 3


@dataclass(frozen=True)
class Settings:
    """How to train, whatever the method.

    clip: largest norm of the gradient, None for none. checkpoint_every: steps between checkpoints.
    max_seconds: how long all stages may take together, None for as long as their steps do. What is left of it is shared
    out by the planned steps and their cost when a stage has begun, so that each has its turn, with one step at least,
    or the share of its steps that it cannot do without (`Stage.least`). A stage ends when its steps are done or its
    time is up, and its learning rate, and what `begin` is called for, are those of whichever is further: a schedule
    comes to its end either way. Such a training follows the clock and cannot be repeated bit for bit.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bfloat16: bool = False
    clip: float | None = 1.0
    checkpoint_every: int = 100
    max_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InputError(f"`max_seconds` must be above 0, got {self.max_seconds}.")


class _Diverged(Exception):
    """The loss or the gradient of a step is infinite or not a number."""

    def __init__(self, name: str, parts: dict[str, Part]) -> None:
        super().__init__(name)
        self.parts = parts


@dataclass
class _Progress:
    """How far a training is; with tensors and callbacks' states this is all a resume needs."""

    stage: CountOrNone = 0
    step: CountOrNone = 0
    done: CountOrNone = 0  # steps in all
    begun: bool = False  # whether `begin` has been called for this step
    begun_to: int = -1  # the last step of this stage that `begin` has been called for, ahead of the steps or not
    scale: float = 1.0  # of the learning rate: halved when a step diverges
    failures: CountOrNone = 0
    seconds: Weight = 0.0
    began: float = 0.0  # what `seconds` was when this stage began
    allowed: float | None = None  # seconds that this stage may take
    cut: CountOrNone = 0  # steps that this stage has after all, its time being up; 0: as many as planned
    stopped_early: bool = False  # whether any stage was cut
    cuts: dict[str, list[int]] = field(default_factory=dict)  # stages that were: the steps they had, and their plan


@dataclass
class _Saved:
    """The progress that a checkpoint holds."""

    position: _Progress
    callbacks: list[dict[str, Any]]


class Trainer:
    """Trains one method on one array of images; see `train`."""

    def __init__(
        self,
        method: Method,
        images: np.ndarray,
        settings: Settings,
        *,
        callbacks: Sequence[Callback] = (),
        checkpoints: Checkpoints | None = None,
        interrupts: Interrupts | None = None,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.method = method.to(settings.device)
        self.images, self.settings, self.callbacks = images, settings, callbacks
        self.checkpoints, self.interrupts, self.say = checkpoints, interrupts or Interrupts(), say
        self.embed = make_embed(method, images, device=settings.device, bfloat16=settings.bfloat16)
        self.progress = _Progress()
        self.optimisers: list[torch.optim.Optimizer] = []
        self._good: Snapshot | None = None  # the last good state in memory
        self._started = time.monotonic()

    def train(self) -> float:
        """Run what is left of the method's stages, then its `finish`; return the seconds spent, before resumes too.

        Goes on from the newest checkpoint if there is one. Raises TrainingError if the loss stays infinite or not a
        number after three halvings of the learning rate, RunError if a checkpoint cannot be written or read, and
        Interrupted on a signal, with the state on the disk.
        """
        stages = self.method.stages()
        newest = self.checkpoints.newest(self._check) if self.checkpoints else None
        with forked_rng(self.settings.device):
            if newest is None:
                for callback in self.callbacks:
                    callback.restore({})
            else:
                self._resume(newest, stages)
            while self.progress.stage < len(stages):
                left = stages[self.progress.stage :]
                self._run_stage(left[0], share=_work(left[0]) / sum(map(_work, left)))
            self.method.eval()
            torch.manual_seed(self._generator("finish", 0, "net").initial_seed())
            self.method.finish(self.embed, self._generator("finish", 0))
            self.method.to(self.settings.device)
        return self._seconds()

    @property
    def steps(self) -> int:
        """The optimiser steps done in all stages."""
        return self.progress.done

    @property
    def stopped_early(self) -> bool:
        """Whether time was up before the steps of a stage were done."""
        return self.progress.stopped_early

    @property
    def rough(self) -> dict[str, tuple[int, int]]:
        """The stages that time left less than half of their steps: how many they had, and how many were planned."""
        return {name: (had, planned) for name, (had, planned) in self.progress.cuts.items() if 2 * had < planned}

    def _resume(self, snapshot: Snapshot, stages: Sequence[Stage]) -> None:
        position = snapshot[1]["progress"]["position"]
        if position["stage"] < len(stages):
            self.optimisers = self._new_optimisers(stages[position["stage"]])
        self._go_back(snapshot)
        regular = self.checkpoints.newest_regular(self._check) if self.checkpoints else None
        if regular is not None and regular[1]["progress"]["position"]["stage"] == position["stage"]:
            self._good = regular  # where a training that was not stopped here would go back to if it diverged

    def _run_stage(self, stage: Stage, *, share: float) -> None:
        if not self.optimisers:
            self.optimisers = self._new_optimisers(stage)
            self._allow_time(share)
            with self.interrupts.deferred():
                self._save()  # what to go back to if the first steps diverge
        while self.progress.step < self._length(stage):
            due = self._due(stage)
            if due is not None:
                self._begin(stage, due, share=share)
            with self.interrupts.deferred():
                self._guarded_step(stage)
                ended = self.progress.step == self._length(stage)
                if ended or self.progress.step % self.settings.checkpoint_every == 0:
                    self._save()
                elif self.interrupts.pending:
                    self._save(regular=False)
            if self.interrupts.pending:
                raise Interrupted(self.interrupts.pending)
        self.progress.stage, self.progress.step, self.progress.cut = self.progress.stage + 1, 0, 0
        self.progress.begun_to = -1
        self.optimisers = []

    def _due(self, stage: Stage) -> int | None:
        """Return the step that `begin` is to be called for, the last one where the clock has passed several."""
        done = max(self.progress.begun_to, self.progress.step - (not self.progress.begun))
        return max((step for step in stage.begins if done < step <= self._reached(stage)), default=None)

    def _begin(self, stage: Stage, step: int, *, share: float) -> None:
        self.method.eval()
        for callback in self.callbacks:
            callback.before_begin(stage, step)
        generator = self._generator(stage.name, step, "begin")
        torch.manual_seed(self._generator(stage.name, step, "begin", "net").initial_seed())
        self.method.begin(stage.name, step, self.embed, generator)
        self.method.to(self.settings.device)
        self.progress.begun, self.progress.begun_to = True, step
        if self.progress.step == 0:
            self._allow_time(share)  # again: the time that this took is not the steps'
        with self.interrupts.deferred():
            self._save()

    def _guarded_step(self, stage: Stage) -> None:
        try:
            moment = self._step(stage)
        except _Diverged as diverged:
            self._retreat(stage, diverged)
            return
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            raise TrainingError(
                f"Memory ran out in step {self.progress.step} of stage {stage.name!r}: lower"
                f" {_batch_size(self.method)} or the size of the images."
            ) from error
        self.progress.step += 1
        self.progress.done += 1
        self.progress.begun = False
        if self._time_spent() >= 1 and _least(stage) <= self.progress.step < stage.steps:
            self._cut(stage)
            moment.stage = replace(stage, steps=self.progress.step)  # so that callbacks know their last step
        moment.step, moment.total_step = self.progress.step, self.progress.done
        for callback in self.callbacks:
            callback.after_step(moment)

    def _step(self, stage: Stage) -> Moment:
        step, method = self.progress.step, self.method
        method.reached = self._reached(stage)
        method.train(True)
        generator = self._generator(stage.name, step)
        # Dropout, too, is a function of (seed, stage, step), and of other numbers than the request.
        torch.manual_seed(self._generator(stage.name, step, "net").initial_seed())
        requests = method.request(stage.name, step, generator)
        parts = collect(self.images, requests, key=(self.settings.seed, stage.name, step), device=self.settings.device)
        with _autocast(self.settings):
            losses = method.loss(parts, stage=stage.name, step=step)
        share = rate(stage.schedule, self._reached(stage), stage.steps) * self.progress.scale
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = group["initial_lr"] * share
        losses["total"].backward()
        method.before_step(stage.name, step)
        weights = [p for o in self.optimisers for g in o.param_groups for p in g["params"]]
        clip = math.inf if self.settings.clip is None else self.settings.clip
        norm = torch.nn.utils.clip_grad_norm_(weights, clip)
        scalars = {name: float(value.detach()) for name, value in losses.items()}
        if not math.isfinite(scalars["total"]) or not math.isfinite(float(norm)):
            raise _Diverged("total", parts)
        for optimiser in self.optimisers:
            optimiser.step()
        method.after_step(stage.name, step)
        # A finite gradient can still throw the weights to infinity, and no checkpoint may hold that.
        if not math.isfinite(float(torch.nn.utils.get_total_norm([p.detach() for p in weights]))):
            raise _Diverged("weights", parts)
        return Moment(
            method=method,
            stage=stage,
            step=step + 1,
            total_step=self.progress.done + 1,
            losses=scalars,
            rate=self.optimisers[0].param_groups[0]["lr"],
            seconds=self._seconds(),
        )

    def _retreat(self, stage: Stage, diverged: _Diverged) -> None:
        step, failures, scale = self.progress.step, self.progress.failures + 1, self.progress.scale / 2
        rows = torch.cat([part.indices.flatten() for part in diverged.parts.values()]).unique()[:5].tolist()
        where = f"step {step} of stage {stage.name!r} (training images {', '.join(map(str, rows))}, …)"
        assert self._good is not None
        self._go_back(self._good)
        if failures > _RETRIES:
            raise TrainingError(
                f"The loss is not finite at {where}, after {_RETRIES} halvings of the learning rate:"
                " lower the learning rate or look at these images."
            )
        self.progress.failures, self.progress.scale = failures, scale
        self.say(
            f"The loss is not finite at {where}: going back to step {self.progress.step} with a learning rate"
            f" {1 / scale:.0f} times lower."
        )

    # ----------------------------------------------------------------------------------------------------- time

    def _allow_time(self, share: float) -> None:
        """Give the stage that begins a share of the seconds that are left, if they are limited."""
        if self.settings.max_seconds is not None:
            self.progress.began = self._seconds()
            self.progress.allowed = max(1e-3, share * (self.settings.max_seconds - self.progress.began))

    def _time_spent(self) -> float:
        """Return the share of the stage's seconds that is over, above 1 if they are exceeded; 0 without a limit."""
        allowed = self.progress.allowed
        return 0.0 if allowed is None else (self._seconds() - self.progress.began) / allowed

    def _reached(self, stage: Stage) -> int:
        """Return how far the stage is, in steps: those made, or more by the clock.

        Where even the least steps take longer than there is time, they go evenly through the whole stage.
        """
        by_clock = min(int(self._time_spent() * stage.steps), stage.steps - 1)
        by_least = (self.progress.step + 1) * stage.steps // _least(stage) - 1
        return max(self.progress.step, min(by_clock, by_least))

    def _length(self, stage: Stage) -> int:
        return self.progress.cut or stage.steps

    def _cut(self, stage: Stage) -> None:
        step = self.progress.step
        self.progress.cut, self.progress.stopped_early = step, True
        self.progress.cuts = {**self.progress.cuts, stage.name: [step, stage.steps]}
        least = ", the fewest it can do with" if 1 < step == _least(stage) else ""
        self.say(f"Time is up: stage {stage.name!r} ends after {step:,} of its {stage.steps:,} steps{least}.")

    # ---------------------------------------------------------------------------------------------------- state

    def _new_optimisers(self, stage: Stage) -> list[torch.optim.Optimizer]:
        optimisers = self.method.optimisers(stage.name)
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["initial_lr"] = group["lr"]
        return optimisers

    def _capture(self) -> Snapshot:
        self.progress.seconds = self._seconds()
        self._started = time.monotonic()
        state = {"position": vars(self.progress), "callbacks": [callback.state() for callback in self.callbacks]}
        return capture(self.method, self.optimisers, state)

    def _save(self, *, regular: bool = True) -> None:
        snapshot = self._capture()
        if regular:
            self._good = snapshot
        if self.checkpoints is not None:
            self.checkpoints.save(snapshot, step=2 * self.progress.done + self.progress.begun, regular=regular)

    def _go_back(self, snapshot: Snapshot) -> None:
        state = restore(snapshot, self.method, self.optimisers)
        self.progress = convert(state["position"], _Progress)
        self._good, self._started = snapshot, time.monotonic()
        for callback, callback_state in zip(self.callbacks, state["callbacks"], strict=True):
            callback.restore(callback_state)

    def _check(self, snapshot: Snapshot) -> None:
        """Raise Damaged if a checkpoint says something that cannot be of this training."""
        saved, stages = convert(snapshot[1]["progress"], _Saved), self.method.stages()
        position, lengths = saved.position, [stage.steps for stage in stages]
        at_end = position.stage == len(stages) and position.step == 0
        if not at_end and not (position.stage < len(stages) and position.step <= lengths[position.stage]):
            raise Damaged(
                f"it is at step {position.step} of stage {position.stage}, and the stages have {lengths} steps"
            )
        if position.done > sum(lengths[: position.stage]) + position.step:
            raise Damaged(f"it counts {position.done} steps at step {position.step} of stage {position.stage}")
        if len(saved.callbacks) != len(self.callbacks):
            raise Damaged(f"it holds {len(saved.callbacks)} callbacks and the training has {len(self.callbacks)}")

    def _seconds(self) -> float:
        return self.progress.seconds + time.monotonic() - self._started

    def _generator(self, *key: int | str) -> torch.Generator:
        return seeded(self.settings.seed, *key)


def _least(stage: Stage) -> int:
    """Return the fewest steps that a stage has, however little time there is."""
    return max(1, math.ceil(stage.least * stage.steps))


def _work(stage: Stage) -> float:
    return max(1, stage.steps) * stage.cost


def _is_out_of_memory(error: RuntimeError) -> bool:
    # On the CPU it is a plain RuntimeError.
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _batch_size(method: Method) -> str:
    """Return the option that says how many images a step has, and its value."""
    config = getattr(method, "config", None)
    name = next((name for name in ("batch_size", "bags") if hasattr(config, name)), "batch_size")
    return f"`{name}` ({getattr(config, name, 'unknown')})"


def _autocast(settings: Settings) -> contextlib.AbstractContextManager[object]:
    if settings.bfloat16:
        return torch.autocast(settings.device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()


def make_embed(
    method: Method,
    images: np.ndarray,
    *,
    device: torch.device,
    bfloat16: bool = False,
    known: Mapping[Callable[[Tensor], Tensor], np.ndarray] | None = None,
) -> Embed:
    """Return a function that maps all images, in order and in evaluation mode, to (n_images, features) on the CPU.

    known: what functions, such as the method's `encode`, have been found to make of all images.
    """

    def embed(function: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        function = function or method.encode
        if known is not None and function in known:
            return torch.from_numpy(known[function])
        return map_images(function, images, method=method, device=device, bfloat16=bfloat16)

    return embed


@torch.no_grad()
def map_images(
    function: Callable[[Tensor], Tensor],
    images: np.ndarray,
    *,
    method: Method,
    device: torch.device,
    bfloat16: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return `function` of all images, (n_images, …) float32 on the CPU, in batches of one fixed shape.

    The last batch is padded: a float32 net's output changes with the batch size, and an image's result should not
    depend on which others came with it. (To the last bit it does not where layers have a multiple of 16 inputs: BLAS
    may add up other rows in an order that depends on where they lie in memory.) Where the memory of an accelerator
    runs out, the batch is halved.
    """
    training = method.training
    method.eval()
    results: list[Tensor] = []
    size, done = EMBED_BATCH, 0
    context = torch.autocast(device.type, dtype=torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    try:
        while done < len(images) or not results:  # once for no images at all, to learn the shape of the results
            batch = as_floats(images, slice(done, done + size), device=device)
            n = len(batch)
            try:
                with context:
                    results.append(function(F.pad(batch, (0, 0) * 3 + (0, size - n)))[:n].float().cpu())
            except torch.OutOfMemoryError:
                if size == 1:
                    raise
                size //= 2
                continue
            done += n
            if progress is not None:
                progress(done, len(images))
    finally:
        method.train(training)
    return torch.cat(results)
