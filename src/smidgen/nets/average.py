"""Averages of a net's weights over time (exponential moving average)."""

from __future__ import annotations

import copy
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class Average(nn.Module, Generic[Net]):
    """A copy of a net whose weights follow the net's slowly: average ← decay · average + (1 − decay) · net.

    Buffers (batch-norm statistics) are averaged too where they are floats and copied where they are not. Without
    gradients; its state is checkpointed with the module that holds it.
    """

    def __init__(self, net: Net, *, decay: float = 0.99) -> None:
        super().__init__()
        self.net: Net = copy.deepcopy(net).requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, net: Net, *, decay: float | None = None) -> None:
        """Move the average towards `net`; `decay=0` makes it equal."""
        weight = 1 - (self.decay if decay is None else decay)
        for mine, other in zip(self.net.state_dict().values(), net.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(other, weight)
            else:
                mine.copy_(other)

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: an average normalises with its own statistics."""
        return super().train(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return what the averaged net makes of a batch."""
        return self.net(images)
