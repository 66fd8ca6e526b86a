"""The training loop: works for any method, resumes exactly, and never steps on a non-finite gradient."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from smidgen.data.batches import Request, seeded
from smidgen.data.loader import Key, Loader
from smidgen.errors import Damaged, InputError, TrainingError
from smidgen.hardware import forked_rng, seed_rng
from smidgen.methods.base import Method, Stage
from smidgen.options import Options
from smidgen.schemas import convert
from smidgen.training.callbacks import Callback, Moment
from smidgen.training.checkpoint import Checkpoints, Snapshot, capture, restore
from smidgen.training.clock import Clock, Progress, work
from smidgen.training.contract import check_losses, check_renewed, check_requests, check_stages
from smidgen.training.embed import make_embed
from smidgen.training.interrupts import Interrupted, Interrupts
from smidgen.training.optimisers import Optimisers

READ_EVERY = 20
"""Steps between readings of losses on an accelerator, as often as the log has a line."""

_RETRIES = 3


@dataclass(frozen=True)
class Settings:
    """Settings of the training loop, independent of the method.

    checkpoint_every: steps between checkpoints.
    max_seconds: time limit of all stages together, None for no limit. When a stage begins, the remaining time is split
    between the stages in proportion to planned steps times cost; each gets at least one step, or the fraction of its
    steps that is always run (`Stage.least`). A stage ends when its steps are done or its time is up; the learning rate
    and the calls of `begin` follow whichever is further, so that schedules always reach their end. Such a training
    depends on the clock and is not reproducible bit for bit.
    read_every: steps between readings of the losses, each of which waits for the device; None for every step on the CPU
    and every 20 elsewhere. They are read before anything is saved, too. It affects speed only.
    """

    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    bfloat16: bool = False
    checkpoint_every: int = 100
    max_seconds: float | None = None
    read_every: int | None = None

    def __post_init__(self) -> None:
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise InputError(f"`max_seconds` must be above 0, got {self.max_seconds}.")


@dataclass
class _Unread:
    """A completed step whose losses are still on the device.

    numbers: the losses of these names, the norm of the gradient before the step, and that of the weights after it.
    """

    moment: Moment
    names: Sequence[str]
    numbers: Tensor
    requests: Mapping[str, Request]


@dataclass
class _Saved:
    """The progress stored in a checkpoint."""

    position: Progress
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
        log: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.method = method.to(settings.device)
        self.settings, self.callbacks = settings, callbacks
        self.checkpoints, self.interrupts, self.log = checkpoints, interrupts or Interrupts(), log
        self.loader = Loader(images, device=settings.device)
        self.embed = make_embed(method, self.loader, device=settings.device, bfloat16=settings.bfloat16)
        self.clock = Clock(Progress(), max_seconds=settings.max_seconds, log=log)
        self.optimisers: Optimisers | None = None
        self._unread: list[_Unread] = []
        self._good: Snapshot | None = None  # the last good state in memory

    def train(self) -> float:
        """Run the remaining stages, then `finish`; return the seconds spent, including those before resumes.

        Continues from the newest checkpoint if there is one. Raises TrainingError if the loss is still not finite after
        three halvings of the learning rate, ContractError if the method does not keep its contract,
        RunError if a checkpoint cannot be written or read, and Interrupted on a signal, with the state on the disk.
        """
        stages = check_stages(self.method, self.method.stages())
        newest = self.checkpoints.newest(self._check) if self.checkpoints else None
        with forked_rng(self.settings.device), contextlib.closing(self.loader):
            if newest is None:
                for callback in self.callbacks:
                    callback.restore({})
            else:
                self._resume(newest, stages)
            while self.progress.stage < len(stages):
                left = stages[self.progress.stage :]
                self._run_stage(left[0], share=work(left[0]) / sum(map(work, left)))
            self.method.eval()
            self._seed("finish", 0, "net")
            self.method.finish(self.embed, seeded(self.settings.seed, "finish", 0, device=self.settings.device))
            self.method.to(self.settings.device)
        return self.clock.seconds()

    @property
    def progress(self) -> Progress:
        """The position of the training."""
        return self.clock.progress

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
            self.optimisers = Optimisers(self.method, stages[position["stage"]])
        self._go_back(snapshot)
        regular = self.checkpoints.newest_regular(self._check) if self.checkpoints else None
        if regular is not None and regular[1]["progress"]["position"]["stage"] == position["stage"]:
            self._good = regular  # where a training that was not stopped here would go back to if it diverged

    def _run_stage(self, stage: Stage, *, share: float) -> None:
        if self.optimisers is None:
            self.optimisers = Optimisers(self.method, stage)
            self.clock.allow(share)
            with self.interrupts.deferred():
                self._save()  # what to go back to if the first steps diverge
        while self.progress.step < self.clock.length(stage):
            reached = self.clock.reached(stage)
            due = self._due(stage, reached)
            if due is not None:
                if self._read(stage):
                    self._begin(stage, due, share=share)
                continue
            with self.interrupts.deferred():
                self._guarded_step(stage, reached)
                if self._must_read(stage):
                    self._read(stage)
                if self._must_save(stage):
                    self._save()
                elif self.interrupts.pending:
                    self._save(regular=False)
            if self.interrupts.pending:
                raise Interrupted(self.interrupts.pending)
        self.progress.stage, self.progress.step, self.progress.cut = self.progress.stage + 1, 0, 0
        self.progress.begun_to, self.optimisers = -1, None

    def _due(self, stage: Stage, reached: int) -> int | None:
        """Return the step to call `begin` for: a stage's first one, then the last that the clock has passed."""
        if self.progress.step > 0 and not self.clock.may_pause():
            return None
        done = max(self.progress.begun_to, self.progress.step - (not self.progress.begun))
        due = [step for step in stage.begins if done < step <= reached]
        if not due:
            return None
        return min(due) if self.progress.begun_to < 0 else max(due)

    def _begin(self, stage: Stage, step: int, *, share: float) -> None:
        assert self.optimisers is not None
        started = self.clock.seconds()
        self.method.eval()
        for callback in self.callbacks:
            callback.before_begin(self.method, stage, step)
        generator = seeded(self.settings.seed, stage.name, step, "begin", device=self.settings.device)
        self._seed(stage.name, step, "begin", "net")
        renewed = self.method.begin(stage.name, step, self.embed, generator)
        self.method.to(self.settings.device)
        if renewed is not None:
            self.optimisers.renew(check_renewed(self.method, renewed))
        self.progress.begun, self.progress.begun_to = True, step
        for callback in self.callbacks:
            callback.after_begin(self.method, stage, step)
        self.clock.paused(started)
        if self.progress.step == 0:
            self.clock.allow(share)  # again: the time that this took is not the steps'
        with self.interrupts.deferred():
            self._save()

    # ---------------------------------------------------------------------------------------------------- steps

    def _guarded_step(self, stage: Stage, reached: int) -> None:
        try:
            unread = self._step(stage, reached)
        except Exception as error:
            if self._unread and not self._read(stage):
                return  # a step before has broken the weights, and this came of it
            if not _is_out_of_memory(error):
                raise
            raise TrainingError(
                f"Memory ran out in step {self.progress.step} of stage {stage.name!r}: lower"
                f" {_batch_size(self.method)} or the size of the images."
            ) from error
        self.progress.step += 1
        self.progress.done += 1
        self.progress.begun = False
        if self.clock.ends(stage):
            self.clock.cut(stage)
            unread.moment.stage = replace(stage, steps=self.progress.step)  # so that callbacks know their last step
        unread.moment.step, unread.moment.total_step = self.progress.step, self.progress.done
        self._unread.append(unread)

    def _step(self, stage: Stage, reached: int) -> _Unread:
        assert self.optimisers is not None
        step, method = self.progress.step, self.method
        method.train(True)
        key = self.settings.seed, stage.name, step
        gathered = self.loader.take(key) or self.loader.gather(self._request(key, reached))
        parts = self.loader.parts(gathered, key=key)
        # Dropout, too, is a function of (seed, stage, step), and of other numbers than the request.
        self._seed(stage.name, step, "net")
        with _autocast(self.settings):
            losses = check_losses(method, method.loss(parts, stage=stage.name, step=step, progress=reached))
        self.optimisers.schedule(self.clock.reached(stage), stage.steps, scale=self.progress.scale)
        self.optimisers.zero_grad()
        losses["total"].backward()
        method.before_step(stage.name, step)
        gradient = self.optimisers.clip(stage.clip)
        self.optimisers.step()
        method.after_step(stage.name, step)
        self._gather_ahead(stage, step + 1)
        moment = Moment(
            method=method,
            stage=stage,
            step=step + 1,
            total_step=self.progress.done + 1,
            losses={},
            rate=self.optimisers.rate,
            seconds=self.clock.seconds(),
        )
        numbers = [
            value.detach().reshape(()).to(self.settings.device)
            for value in (*losses.values(), gradient, self.optimisers.norm())
        ]
        return _Unread(moment, list(losses), torch.stack(numbers), gathered.requests)

    def _request(self, key: Key, reached: int) -> dict[str, Request]:
        seed, stage, step = key
        self._seed(stage, step, "net")  # in case that it draws from torch's own generator
        requests = self.method.request(str(stage), int(step), seeded(seed, stage, step), progress=reached)
        return check_requests(self.method, requests, n_images=len(self.loader))

    def _gather_ahead(self, stage: Stage, step: int) -> None:
        """Prefetch the images of the next step, unless the clock or `begin` may change which they are."""
        is_known = self.progress.allowed is None and step < stage.steps and step not in stage.begins
        if self.loader.works_ahead and is_known:
            key = self.settings.seed, stage.name, step
            self.loader.gather_ahead(key, self._request(key, step))

    # -------------------------------------------------------------------------------------------- reading losses

    def _must_save(self, stage: Stage) -> bool:
        return (
            self.progress.step == self.clock.length(stage) or self.progress.step % self.settings.checkpoint_every == 0
        )

    def _must_read(self, stage: Stage) -> bool:
        """Return whether to read the losses now: the interval is over, or a callback needs them."""
        every = self.settings.read_every or (1 if self.settings.device.type == "cpu" else READ_EVERY)
        is_wanted = any(callback.wants_to_see(stage, self.progress.step) for callback in self.callbacks)
        return len(self._unread) >= every or is_wanted or self._must_save(stage) or self.interrupts.pending is not None

    def _read(self, stage: Stage) -> bool:
        """Pass the steps since the last reading to the callbacks, and return True; go back if a loss is not finite.

        A finite gradient can still throw the weights to infinity, and no checkpoint may hold that: so all losses, the
        gradient and the weights must be finite. This is where the host waits for the device.
        """
        unread, self._unread = self._unread, []
        rows = [numbers.tolist() for numbers in _at_once([each.numbers for each in unread])]
        for each, numbers in zip(unread, rows, strict=True):
            each.moment.losses = dict(zip(each.names, numbers, strict=False))
            if not all(map(math.isfinite, (each.moment.losses["total"], *numbers[-2:]))):
                self._retreat(stage, each)
                return False
            for callback in self.callbacks:
                callback.after_step(each.moment)
        return True

    def _retreat(self, stage: Stage, broken: _Unread) -> None:
        step, failures, scale = broken.moment.step - 1, self.progress.failures + 1, self.progress.scale / 2
        rows = torch.cat([request.indices.flatten() for request in broken.requests.values()]).unique()[:5].tolist()
        where = f"step {step} of stage {stage.name!r} (training images {', '.join(map(str, rows))}, …)"
        assert self._good is not None
        self._go_back(self._good)
        if failures > _RETRIES:
            raise TrainingError(
                f"The loss is not finite at {where}, after {_RETRIES} halvings of the learning rate:"
                " lower the learning rate or look at these images."
            )
        self.progress.failures, self.progress.scale = failures, scale
        self.log(
            f"The loss is not finite at {where}: going back to step {self.progress.step} with a learning rate"
            f" {1 / scale:.0f} times lower."
        )

    # ---------------------------------------------------------------------------------------------------- state

    def _capture(self) -> Snapshot:
        self.clock.note()
        state = {"position": vars(self.progress), "callbacks": [callback.state() for callback in self.callbacks]}
        return capture(self.method, self.optimisers or [], state)

    def _save(self, *, regular: bool = True) -> None:
        snapshot = self._capture()
        if regular:
            self._good = snapshot
        if self.checkpoints is not None:
            self.checkpoints.save(snapshot, step=2 * self.progress.done + self.progress.begun, regular=regular)

    def _go_back(self, snapshot: Snapshot) -> None:
        self._unread = []
        state = restore(snapshot, self.method, self.optimisers or [])
        self.clock = Clock(convert(state["position"], Progress), max_seconds=self.settings.max_seconds, log=self.log)
        self._good = snapshot
        for callback, callback_state in zip(self.callbacks, state["callbacks"], strict=True):
            callback.restore(callback_state)
        self.method.after_restore()

    def _check(self, snapshot: Snapshot) -> None:
        """Raise Damaged if a checkpoint cannot belong to this training."""
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

    def _seed(self, *key: int | str) -> None:
        """Seed torch's own generators, of the CPU and of the device."""
        seed_rng(seeded(self.settings.seed, *key).initial_seed(), self.settings.device)


def _at_once(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Return tensors of one dimension on the CPU, brought there as one."""
    if not tensors:
        return []
    return list(torch.cat(list(tensors)).cpu().split([len(tensor) for tensor in tensors]))


def _is_out_of_memory(error: Exception) -> bool:
    # On the CPU it is a plain RuntimeError.
    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return told or isinstance(error, torch.OutOfMemoryError)


def _batch_size(method: Method) -> str:
    """Return the option that sets the number of images per step, and its value."""
    config = method.config
    return f"`{config.BATCH}` ({config[config.BATCH]})" if isinstance(config, Options) else "the batch size"


def _autocast(settings: Settings) -> contextlib.AbstractContextManager[object]:
    if settings.bfloat16:
        return torch.autocast(settings.device.type, dtype=torch.bfloat16)
    return contextlib.nullcontext()
