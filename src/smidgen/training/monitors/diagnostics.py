"""Warnings during training, each with hints: it is stuck, its clusters collapse, or it ignores its evidence."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np

from smidgen.evidence.kinds import all_kinds
from smidgen.methods.base import Method, Stage
from smidgen.training.callbacks import Callback, Moment
from smidgen.training.monitors.collapse import COLLAPSES, EVEN, collapse_alarms, evenness
from smidgen.training.monitors.hints import hint, used_options, useful_options

LEAST_STEPS = 50  # of a stage, before anything is said of it
LEAST_TRAINING = 100  # steps in all before even assignments mean that nothing was learned
_LONG = 2500  # steps: a longer stage is judged as soon, and by as short blocks, as one of so many
_LONGEST_WAIT = 300  # steps of a long stage that evidence may teach nothing where there is nothing else to learn from
_BLOCKS = 50  # per stage: losses are averaged over a fiftieth of it
_RECENT = 3  # blocks
_STUCK, _FREE = 0.97, 0.94  # shares of the loss of chance: an alarm above the one is withdrawn below the other
_FAR = 1.25  # the share above which a model contradicts its evidence, as one with unformed clusters does: give it time
_LEAST_LOSS = 0.05  # of a model that is not informed: below, there is next to nothing to be learned

_EVIDENCE = {loss: text for kind in all_kinds() for loss, text in kind.words.losses.items()}


class Diagnostics(Callback):
    """Monitors the losses, and the assignments that `OnlineEval` adds to the moment, and raises alarms.

    After the first fifth of a stage, and `LEAST_STEPS`: evidence whose loss stays at chance level
    (`EvidenceUse.chance_losses`), a total loss that has not decreased, clusters that collapse. Earlier: a total loss
    that increases, a cluster that keeps growing. A stage of more than 2,500 steps is judged like one of 2,500. Each
    alarm is reported once, when it is first raised; one that no longer holds is withdrawn, and not in `final`. The
    active `alarms` are logged whenever they change.

    A method that cannot do without evidence (`EvidenceUse.needs_labels`) has no meaningful clusters while it learns
    nothing from it: only this is then reported, within 300 steps of a longer stage, and at the end of any stage.

    log: called with each alarm. options: names of the method's options, so that hints name no others.
    """

    def __init__(
        self, log: Callable[[str], None] = lambda text: None, *, options: Collection[str] | None = None
    ) -> None:
        self._log, self._options = log, options
        self._alive = False  # whether this process has made a step: going back then means that a step diverged
        self._chance_losses: dict[str, float] | None = None  # until the method is met
        self._needs_evidence = False  # whether the method can learn from nothing else
        self._useful: Collection[str] | None = options  # of the options, where evidence teaches nothing
        self._set({})

    def state(self) -> dict[str, Any]:
        """Return the state of the monitor, for a checkpoint."""
        return {name: getattr(self, f"_{name}") for name in _START}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a state; during training this happens because the loss was not finite, which is an alarm too."""
        self._set(state)
        if self._alive and state:
            self._halvings += 1
            times = f"{2**self._halvings} times"
            words = f"The loss became infinite or not a number, and the learning rate is {times} lower since"
            self._alarms["halved"] = f"{words}: {hint('halved', self._options)}."  # the loop has said it already

    def _set(self, state: dict[str, Any]) -> None:
        for name, make in _START.items():
            value = state.get(name, make())
            setattr(self, f"_{name}", _copy(value))

    _stage: str
    _total_steps: int
    _since: int
    _count: int
    _values: dict[str, list[float]]
    _blocks: dict[str, list[float]]
    _shares: list[float]
    _evenness: float | None
    _alarms: dict[str, str]
    _said: list[str]
    _withdrawn: list[str]
    _halvings: int
    _untaught: bool

    # ---------------------------------------------------------------------------------------------------- callbacks

    def before_begin(self, method: Method, stage: Stage, step: int) -> None:
        """Judge the total loss afresh: neighbours, cluster names, heads or weights have changed."""
        self._enter(stage)
        self._since, self._count, self._values = len(self._blocks.get("total", ())), 0, {}

    def after_step(self, moment: Moment) -> None:
        """Accumulate the losses, and check them and the assignments where there are any."""
        before = dict(self._alarms)
        self._alive = True
        self._enter(moment.stage)
        self._add(moment)
        if moment.assignments is not None:
            self._check_assignments(moment, moment.assignments)
        if self._count >= _block(moment.stage):
            for name, values in self._values.items():
                self._blocks.setdefault(name, []).append(_mean(values))
            self._count, self._values = 0, {}
            self._judge(moment)
        if self._untaught and moment.step == moment.stage.steps:
            self._report_untaught(moment.stage)
        if self._alarms != before:
            moment.extras["alarms"] = list(self._alarms.values())

    def final(self, assignments: np.ndarray) -> list[str]:
        """Return the alarms that hold at the end of the training, given the assignments (n, clusters) it came to."""
        early = 0 < self._total_steps < LEAST_TRAINING  # no steps at all: a method without stages
        found = {} if self._untaught else collapse_alarms(assignments, options=self._options, early=early)
        rest = {kind: text for kind, text in self._alarms.items() if kind not in (*COLLAPSES, "growing", "flat")}
        if "flat" in self._alarms and 0.5 < evenness(assignments) <= EVEN:
            rest["flat"] = self._alarms["flat"]
        return [*found.values(), *rest.values()]

    def _enter(self, stage: Stage) -> None:
        if stage.name != self._stage:
            self._stage, self._since, self._count, self._values, self._blocks = stage.name, 0, 0, {}, {}
            for kind in ("flat", "diverging"):
                self._withdraw(kind)

    def _add(self, moment: Moment) -> None:
        """Add the losses of a step that are judged to their blocks."""
        self._meet(moment.method)
        self._total_steps = moment.total_step
        self._count += 1
        for name, value in moment.losses.items():
            if name == "total" or name in _EVIDENCE or name in self._levels:
                self._values.setdefault(name, []).append(value)
        self._untaught = self._needs_evidence and self._teaches_nothing()

    def _meet(self, method: Method) -> None:
        if self._chance_losses is None:
            self._chance_losses = dict(method.evidence_use.chance_losses)
            self._needs_evidence = method.evidence_use.needs_labels
            self._options = used_options(self._options, method)
            self._useful = useful_options(self._options, method)

    @property
    def _levels(self) -> dict[str, float]:
        """The chance-level losses, of evidence from which there is something to learn."""
        return {name: value for name, value in (self._chance_losses or {}).items() if value >= _LEAST_LOSS}

    # ------------------------------------------------------------------------------------------------- assignments

    def _check_assignments(self, moment: Moment, assignments: np.ndarray) -> None:
        n_clusters = assignments.shape[1]
        sizes = np.bincount(assignments.argmax(1), minlength=n_clusters)
        self._evenness = evenness(assignments)
        self._shares = [*self._shares[-2:], float(sizes.max() / len(assignments))]
        found = {}
        if moment.step > moment.stage.steps / 5 and moment.total_step >= LEAST_STEPS:
            early = moment.total_step < LEAST_TRAINING
            found = collapse_alarms(assignments, options=self._options, early=early)
            for kind in set(COLLAPSES) - set(found):
                self._withdraw(kind)
        if _grows(self._shares, n_clusters) and self._evenness < 0.9 and not found:
            first, last = self._shares[0], self._shares[-1]
            words = f"Cluster {sizes.argmax()} grows, from {first:.0%} to {last:.0%} of the images in two evaluations"
            found["growing"] = f"{words}: {hint('large', self._options)}."
        else:
            self._withdraw("growing")
        if not self._untaught:
            for kind, text in found.items():
                self._raise(kind, text)

    # ------------------------------------------------------------------------------------------------------ losses

    def _judge(self, moment: Moment) -> None:
        if moment.stage.loss_should_decrease:
            self._judge_total()
        for name, value in self._levels.items():
            self._judge_evidence(name, value, moment.stage)

    def _judge_total(self) -> None:
        course = self._blocks["total"][self._since :]
        if len(course) <= 2 * _RECENT:
            return
        first, recent, before = course[0], _mean(course[-_RECENT:]), _mean(course[-2 * _RECENT : -_RECENT])
        bound = max(abs(first), 1.0)
        if recent > first + bound and recent > before:
            words = f"The loss climbs, from {first:.3g} to {recent:.3g}"
            self._raise("diverging", f"{words}: {hint('diverging', self._options)}.")
        elif recent < first + bound / 2:
            self._withdraw("diverging")
        if len(course) < max(_BLOCKS // 5, LEAST_STEPS // 5) or self._evenness is None:
            return
        noise = float(np.std(course[-2 * _RECENT :])) / math.sqrt(_RECENT)
        fallen = _mean(course[:_RECENT]) - recent > max(0.002 * abs(first), 2 * noise)
        unsure = 0.5 < self._evenness <= EVEN  # sure: nothing may be left to learn; quite even: that is said already
        is_why = self._untaught and any(name in self._blocks for name in self._levels)  # that is said already, too
        if not fallen and unsure and not is_why and not {"one", "diverging"} & set(self._alarms):
            words = f"The loss has not fallen since stage {self._stage!r} began ({first:.3g}, now {recent:.3g})"
            self._raise("flat", f"{words}: {hint('flat', self._options)}.")
        elif fallen or not unsure:
            self._withdraw("flat")

    def _judge_evidence(self, name: str, chance: float, stage: Stage) -> None:
        """Compare the loss of a kind of evidence with its chance level."""
        course = self._blocks.get(name, [])
        if len(course) < 2 * _RECENT:
            return
        recent, before = _mean(course[-_RECENT:]), float(np.median(course[: len(course) // 2]))
        is_urgent = self._untaught or f"evidence:{name}" in self._alarms  # withdrawn no later than raised
        if len(course) * _block(stage) < _wait(stage, is_far=recent >= _FAR * chance, is_urgent=is_urgent):
            return
        if recent < _FREE * chance:
            self._withdraw(f"evidence:{name}")
        elif recent > _STUCK * chance and before - recent < 0.03 * chance:
            self._report_evidence(name, recent, stage)

    def _teaches_nothing(self) -> bool:
        """Return whether nothing has been learned from any kind of evidence in this stage so far.

        Where the chance level of a kind's loss is not known, something counts as learned once the loss has decreased by
        a third: learning the mean number of images per class in a bag, of ten classes, takes less.
        """
        levels = self._levels
        others = [name for name in self._values if name in _EVIDENCE and name not in levels]
        fell = any(self._recent(name) < 2 / 3 * self._blocks[name][0] for name in others if name in self._blocks)
        return bool(levels) and not fell and all(self._recent(name) > _STUCK * levels[name] for name in levels)

    def _recent(self, name: str) -> float:
        """Return the mean loss of the last blocks and what there is of the next; infinite if there is none."""
        now = [_mean(self._values[name])] if name in self._values else []
        latest = [*self._blocks.get(name, ())[-_RECENT:], *now]
        return _mean(latest) if latest else math.inf

    def _report_untaught(self, stage: Stage) -> None:
        """Report at the end of a stage the evidence from which nothing was learned in it."""
        for name in self._levels:
            if math.isfinite(recent := self._recent(name)):
                self._report_evidence(name, recent, stage)

    def _report_evidence(self, name: str, recent: float, stage: Stage) -> None:
        if name not in _EVIDENCE:  # an objective of the method's own
            words = f"The loss of the {name} sits at {recent:.2f}, and without looking at the images it is"
            level = _as_log(self._levels[name])
            self._raise(f"evidence:{name}", f"{words} {level}: {hint('stuck', self._options)}.")
            return
        total = self._blocks.get("total", [])[self._since :]
        falls = len(total) > _RECENT and total[0] - _mean(total[-_RECENT:]) > 0.02 * abs(total[0])
        about = _EVIDENCE[name]
        is_ignored = falls and not self._untaught  # otherwise what falls, a decoder's loss, makes no clusters
        words = f"The loss falls, but {about} are ignored" if is_ignored else f"{about.capitalize()} teach nothing yet"
        why = f"their loss is {recent:.2f}; without looking at the images it is {_as_log(self._levels[name])}"
        longer = self._untaught and stage.steps < _LONGEST_WAIT
        self._raise(f"evidence:{name}", f"{words} ({why}): {hint('evidence', self._useful, longer=longer)}.")

    # ------------------------------------------------------------------------------------------------------ alarms

    def _raise(self, kind: str, text: str) -> None:
        self._alarms.setdefault(kind, text)
        if kind not in self._said:
            self._said.append(kind)
            self._log(text)

    def _withdraw(self, kind: str) -> None:
        text = self._alarms.pop(kind, None)
        if text is not None and kind not in self._withdrawn:
            self._withdrawn.append(kind)
            self._log(f"No longer so: {text.partition(':')[0]}.")


_START: dict[str, Callable[[], Any]] = {
    "stage": str,
    "total_steps": int,
    "since": int,  # the block of the stage from which on the total means the same
    "count": int,  # steps in the block so far, and the values of their losses
    "values": dict,
    "blocks": dict,  # loss → its means over the blocks of this stage
    "shares": list,  # of the largest cluster, at the last three evaluations
    "evenness": lambda: None,  # of the assignments at the last evaluation
    "alarms": dict,  # kind → text, those that hold
    "said": list,
    "withdrawn": list,
    "halvings": int,
    "untaught": bool,  # whether the method learns from evidence only, and that has taught it nothing
}
"""The monitor's initial state; its values are what a checkpoint holds."""


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(each) for key, each in value.items()}
    return list(value) if isinstance(value, list) else value


def _block(stage: Stage) -> int:
    """Return how many steps losses are averaged over.

    >>> _block(Stage("train", 600)), _block(Stage("train", 128_000))
    (12, 50)
    """
    return max(5, math.ceil(min(stage.steps, _LONG) / _BLOCKS))


def _wait(stage: Stage, *, is_far: bool = False, is_urgent: bool = False) -> float:
    """Return how many steps a kind of evidence is given before its loss is judged.

    >>> _wait(Stage("train", 2000)), _wait(Stage("train", 2000), is_far=True), _wait(Stage("train", 128_000))
    (400.0, 1000.0, 500.0)
    >>> _wait(Stage("train", 128_000), is_urgent=True), _wait(Stage("train", 2000), is_urgent=True)
    (300, 400.0)
    """
    if is_urgent and stage.steps > _LONG:
        return _LONGEST_WAIT
    return max(min(stage.steps, _LONG) / (2 if is_far else 5), LEAST_STEPS)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _grows(shares: Sequence[float], n_clusters: int) -> bool:
    """Return whether the largest cluster's share rises steeply, and is well above 1 / clusters.

    >>> _grows([0.2, 0.3, 0.4], 10), _grows([0.2, 0.3, 0.3], 10), _grows([0.05, 0.1, 0.2], 10)
    (True, False, False)
    """
    if len(shares) < 3 or n_clusters < 3:
        return False
    rises = shares[0] < shares[1] < shares[2] and shares[2] - shares[0] >= 0.1
    return rises and shares[2] > max(2.5 / n_clusters, 0.25)


def _as_log(value: float) -> str:
    """Return a loss, as the logarithm of a whole number where it is one.

    >>> _as_log(math.log(4)), _as_log(1.2)
    ('ln 4 = 1.39', '1.20')
    """
    n = round(math.exp(min(value, 12.0)))
    return f"ln {n} = {value:.2f}" if n > 1 and abs(math.log(n) - value) < 1e-3 else f"{value:.2f}"
