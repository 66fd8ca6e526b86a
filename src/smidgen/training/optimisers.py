"""The optimisers of one stage: learning-rate schedules, gradients, and resetting state of renewed parameters."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from smidgen.maths.schedules import rate
from smidgen.methods.base import Method, Stage
from smidgen.training.contract import check_optimisers


class Optimisers(Sequence[torch.optim.Optimizer]):
    """The optimisers that a method wants in a stage.

    A parameter group may hold, beside what torch knows, `schedule` (of its learning rate, instead of the stage's) and
    `weight_decay_schedule`: names or functions as in `maths.schedules`.
    """

    def __init__(self, method: Method, stage: Stage) -> None:
        self._method, self._stage = method, stage
        self._optimisers = self._new()

    def __len__(self) -> int:
        return len(self._optimisers)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._optimisers[index]

    def _new(self) -> list[torch.optim.Optimizer]:
        optimisers = check_optimisers(self._method, self._method.optimisers(self._stage.name))
        for group in _groups(optimisers):
            group["initial_lr"], group["initial_weight_decay"] = group["lr"], group.get("weight_decay", 0.0)
        return optimisers

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All parameters that learn."""
        return [parameter for group in _groups(self) for parameter in group["params"]]

    @property
    def rate(self) -> float:
        """The learning rate of the first parameter group."""
        return self[0].param_groups[0]["lr"]

    def schedule(self, progress: int, steps: int, *, scale: float) -> None:
        """Set every group's learning rate and weight decay for a step; `scale` is a factor of all rates."""
        for group in _groups(self):
            share = rate(group.get("schedule", self._stage.schedule), progress, steps)
            group["lr"] = group["initial_lr"] * (share * scale)
            if "weight_decay_schedule" in group:
                share = rate(group["weight_decay_schedule"], progress, steps)
                group["weight_decay"] = group["initial_weight_decay"] * share

    def zero_grad(self) -> None:
        """Clear all gradients."""
        for optimiser in self:
            optimiser.zero_grad(set_to_none=True)

    def clip(self, largest: float | None) -> Tensor:
        """Clip the gradient to a norm of at most `largest`, and return its norm before that."""
        return nn.utils.clip_grad_norm_(self.parameters, math.inf if largest is None else largest)

    def step(self) -> None:
        """Make a step."""
        for optimiser in self:
            optimiser.step()

    def norm(self) -> Tensor:
        """Return the norm of all parameters that learn."""
        return nn.utils.get_total_norm([parameter.detach() for parameter in self.parameters])

    def renew(self, renewed: Iterable[nn.Parameter]) -> None:
        """Recreate the optimisers without their state of some parameters, and of those that no longer exist.

        Momentum of weights that have been drawn anew would pull them to where the old ones were going.
        """
        without = {id(parameter) for parameter in renewed}
        remembered = {
            id(parameter): memory
            for optimiser in self
            for parameter, memory in optimiser.state.items()
            if id(parameter) not in without
        }
        self._optimisers = self._new()
        for optimiser in self:
            for group in optimiser.param_groups:
                kept = {p: remembered[id(p)] for p in group["params"] if id(p) in remembered}
                optimiser.state.update(kept)


def _groups(optimisers: Iterable[torch.optim.Optimizer]) -> Iterator[dict[str, Any]]:
    for optimiser in optimisers:
        yield from optimiser.param_groups
