"""Maps a function over all images in batches of one fixed shape: one tensor on the host, or blocks on the device."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.loader import Loader
from smidgen.methods.base import Method

EMBED_BATCH = 512

Function = Callable[[Tensor], Tensor]


class EmbedAll:
    """Maps any function, by default the method's `encode`, over all images, in order and in evaluation mode.

    known: results of functions, such as `encode`, on all images, where they have been computed already.
    """

    def __init__(
        self,
        method: Method,
        images: np.ndarray | Loader,
        *,
        device: torch.device,
        bfloat16: bool = False,
        known: Mapping[Function, np.ndarray] | None = None,
    ) -> None:
        self._method, self._bfloat16, self._known = method, bfloat16, known or {}
        self._loader = images if isinstance(images, Loader) else Loader(images, device=device, resident=False)

    def __call__(self, function: Function | None = None) -> Tensor:
        """Return (n_images, …) float32 on the CPU."""
        function = function or self._method.encode
        if function in self._known:
            return torch.from_numpy(self._known[function])
        return torch.cat([outputs.cpu() for _, outputs in self._blocks(function)])

    def blocks(self, function: Function | None = None) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows of a block of images, and `function` of them as float32 on the device."""
        function = function or self._method.encode
        if function not in self._known:
            yield from self._blocks(function)
            return
        known = torch.from_numpy(self._known[function])
        for start in range(0, len(known), EMBED_BATCH):
            rows = slice(start, min(start + EMBED_BATCH, len(known)))
            yield rows, known[rows].to(self._loader.device)

    def on_device(self, function: Function | None = None) -> Tensor:
        """Return (n_images, …) float32 on the device, for what is small enough to stay there."""
        return torch.cat([outputs for _, outputs in self.blocks(function)])

    def some(self, rows: Tensor, function: Function | None = None) -> Tensor:
        """Return (rows, …) float32 on the device, of the images of these rows alone."""
        function = function or self._method.encode
        if function in self._known:
            return torch.from_numpy(self._known[function][rows.numpy()]).to(self._loader.device)
        blocks = map_blocks(function, self._loader, method=self._method, bfloat16=self._bfloat16, rows=rows)
        return torch.cat([outputs for _, outputs in blocks])

    def _blocks(self, function: Function) -> Iterator[tuple[slice, Tensor]]:
        return map_blocks(function, self._loader, method=self._method, bfloat16=self._bfloat16)


def make_embed(
    method: Method,
    images: np.ndarray | Loader,
    *,
    device: torch.device,
    bfloat16: bool = False,
    known: Mapping[Function, np.ndarray] | None = None,
) -> EmbedAll:
    """Return `EmbedAll`."""
    return EmbedAll(method, images, device=device, bfloat16=bfloat16, known=known)


def map_images(
    function: Function,
    images: np.ndarray | Loader,
    *,
    method: Method,
    device: torch.device,
    bfloat16: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Return `function` of all images, (n_images, …) float32 on the CPU; see `map_blocks`."""
    loader = images if isinstance(images, Loader) else Loader(images, device=device, resident=False)
    results = []
    for rows, outputs in map_blocks(function, loader, method=method, bfloat16=bfloat16):
        results.append(outputs.cpu())
        if progress is not None:
            progress(rows.stop, len(loader))
    return torch.cat(results)


def map_blocks(
    function: Function, images: Loader, *, method: Method, bfloat16: bool = False, rows: Tensor | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Yield rows and `function` of these images, (rows, …) float32 on the device, in batches of one fixed shape.

    rows: on the CPU, of the images to take; then what is yielded counts these. None for all.

    The last batch is padded: a float32 net's output changes with the batch size, and an image's result should not
    depend on which others came with it. (To the last bit it does not where layers have a multiple of 16 inputs: BLAS
    may add up other rows in an order that depends on where they lie in memory.) Where the memory of an accelerator
    runs out, the batch is halved. Without images, one empty block is yielded, which has the shape of results.
    """
    size, done, n_images = EMBED_BATCH, 0, len(images if rows is None else rows)
    while True:
        block = slice(done, min(done + size, n_images))
        batch = images.floats(block if rows is None else rows[block])
        n = len(batch)
        try:
            outputs = _run(function, _filled(batch, size), method, images.device, bfloat16)[:n]
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            continue
        yield slice(done, done + n), outputs
        done += n
        if done >= n_images:
            return


def _filled(batch: Tensor, size: int) -> Tensor:
    """Return a batch with zeros after its rows, `size` rows in all."""
    return F.pad(batch, (0, 0) * (batch.ndim - 1) + (0, size - len(batch)))


@torch.no_grad()
def _run(function: Function, batch: Tensor, method: Method, device: torch.device, bfloat16: bool) -> Tensor:
    """Return `function` of a batch, with the method in evaluation mode."""
    training = method.training
    context = torch.autocast(device.type, dtype=torch.bfloat16) if bfloat16 else contextlib.nullcontext()
    method.eval()
    try:
        with context:
            return function(batch).float()
    finally:
        method.train(training)
