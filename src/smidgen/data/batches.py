"""Batches: requests for images, and the parts of a batch that answer them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smidgen.data.views import View
from smidgen.errors import ContractError


@dataclass(frozen=True)
class Request:
    """One part of the next batch: which images, as which view, grouped into which bags.

    indices: (images,) int64, rows of the training set; a row may appear twice and then gets two different views.
    view: the random transform, or None for the images as they are, and for vectors; several make as many views of the
    same images, which are gathered once (SwAV's crops).
    offsets: (bags + 1,) int64, where the images of bag b are `indices[offsets[b]:offsets[b + 1]]`; None without bags.
    items: (items,) int64, rows of the evidence that this part answers for (bags, pairs), None without evidence.
    Raises ContractError for anything else.
    """

    indices: Tensor
    view: View | tuple[View | None, ...] | None = None
    offsets: Tensor | None = None
    items: Tensor | None = None

    def __post_init__(self) -> None:
        for name in ("indices", "offsets", "items"):
            value = getattr(self, name)
            if not (value is None and name != "indices"):
                _check_rows(name, value)
        if not len(self.indices):
            raise ContractError("The `indices` of a Request must name one image at least, got none.")
        if self.offsets is not None:
            _check_offsets(self.offsets.tolist(), len(self.indices))
        for view in self.views:
            if not (view is None or isinstance(view, View)):
                raise ContractError(f"The `view` of a Request must be a View, a tuple of them, or None, got {view!r}.")

    @property
    def views(self) -> tuple[View | None, ...]:
        """All views asked for."""
        return self.view if isinstance(self.view, tuple) else (self.view,)


@dataclass(frozen=True)
class Part:
    """One part of a batch: what was requested, on the device, with (images, channels, height, width) floats in [0, 1].

    Of vectors: (images, features), as they are.

    images: the first view. views: all of them, whose sizes may differ. offsets: on the CPU, because how work is cut
    depends on the sizes of bags. request: what was asked for, where it can be read without waiting for the device.
    """

    images: Tensor
    indices: Tensor
    offsets: Tensor | None = None
    items: Tensor | None = None
    views: tuple[Tensor, ...] = ()
    request: Request | None = None

    @property
    def host_items(self) -> Tensor | None:
        """The items on the host."""
        if self.request is not None:
            return self.request.items
        return None if self.items is None else self.items.cpu()


def _check_rows(name: str, value: object) -> None:
    wanted = f"The `{name}` of a Request must be an int64 tensor of one dimension on the CPU"
    if not isinstance(value, Tensor):
        raise ContractError(f"{wanted}, got {type(value).__name__}.")
    if value.dtype != torch.int64 or value.ndim != 1 or value.device.type != "cpu":
        raise ContractError(f"{wanted}, got {value.dtype} of shape {tuple(value.shape)} on {value.device}.")


def _check_offsets(offsets: list[int], n_images: int) -> None:
    if not offsets or offsets[0] != 0 or offsets[-1] != n_images or offsets != sorted(offsets):
        raise ContractError(
            f"The `offsets` of a Request must ascend from 0 to the number of its indices ({n_images}), got {offsets}."
        )


def seeded(*key: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a generator that depends on the key only, so that a batch can be drawn again exactly.

    Different keys give independent streams: the key goes through NumPy's `SeedSequence`.

    >>> int(torch.randint(10**6, (), generator=seeded(0, "train", 3))) == int(
    ...     torch.randint(10**6, (), generator=seeded(0, "train", 3)))
    True
    """
    words = [list(k.encode()) if isinstance(k, str) else [k] for k in key]
    entropy = [number for word in words for number in [len(word), *word]]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))
