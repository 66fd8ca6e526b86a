"""Host copies of buffers that `request` reads at every step without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


class HostCopies:
    """Copies tensors to the host when they are first asked for, and again when they have changed since.

    A tensor has changed when it is another one than before, or has been written into: restored from a checkpoint, too.

    >>> import torch
    >>> copies, labels = HostCopies(), torch.tensor([0, 1, 0])
    >>> copies("rows of 0", labels, lambda labels: (labels == 0).nonzero().flatten().tolist())
    [0, 2]
    """

    def __init__(self) -> None:
        self._copies: dict[str, tuple[Tensor, int, Any]] = {}

    def __call__(self, name: str, tensor: Tensor, derive: Callable[[Tensor], Any] = lambda copy: copy) -> Any:
        """Return the copy of a tensor under a name, or what `derive` makes of the copy."""
        kept = self._copies.get(name)
        if kept is None or kept[0] is not tensor or kept[1] != tensor._version:
            kept = self._copies[name] = (tensor, tensor._version, derive(tensor.detach().cpu()))
        return kept[2]
