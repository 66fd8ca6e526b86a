"""Loads the images of a batch: from the device itself, or prefetched from the host's memory."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smidgen.data.batches import Part, Request, seeded
from smidgen.data.views import apply_view
from smidgen.hardware import WITH_PINNED_MEMORY, to_device

Key = tuple[int | str, ...]
"""What a batch may depend on: (seed, stage, step)."""

_SHARE = 0.25  # of an accelerator's free memory, that images may take
_SHARED_MEMORY = 2 * 2**30  # bytes, where the accelerator does not report free memory


@dataclass(frozen=True)
class Gathered:
    """Requests with their images as they are stored: one tensor for all requests that share one `indices`."""

    requests: Mapping[str, Request]
    pixels: Mapping[int, Tensor]


class Loader:
    """Answers requests for images with the parts of a batch.

    images: (n_images, channels, height, width) uint8, or vectors (n_images, features) of floats.
    resident: whether all images lie on the device; None for where they take up to a quarter of its free memory.
    ahead: whether `gather_ahead` works, in a thread; None for an accelerator that images do not lie on.
    """

    def __init__(
        self, images: np.ndarray, *, device: torch.device, resident: bool | None = None, ahead: bool | None = None
    ) -> None:
        self.images, self.device = images, device
        self._stored: Tensor | None = None
        if resident or (resident is None and fits(images.nbytes, device)):
            self._stored = torch.from_numpy(np.ascontiguousarray(images)).to(device)
        self.works_ahead = device.type != "cpu" and self._stored is None if ahead is None else ahead
        self._thread: ThreadPoolExecutor | None = None
        self._ahead: tuple[Key, Future[Gathered]] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_resident(self) -> bool:
        """Whether all images lie on the device."""
        return self._stored is not None

    def floats(self, rows: Tensor | slice) -> Tensor:
        """Return the chosen images on the device, float32 in [0, 1]; ready embeddings are left as they are."""
        return _as_floats(to_device(self._pixels(rows), self.device))

    # ---------------------------------------------------------------------------------------------------------- batches

    def parts(self, gathered: Gathered, *, key: Key) -> dict[str, Part]:
        """Return the parts that answer requests; each one's views are drawn from (*key, part name)."""
        floats: dict[int, Tensor] = {}
        for number, pixels in gathered.pixels.items():
            floats[number] = _as_floats(to_device(pixels, self.device))
        return {name: self._part(name, r, floats[id(r.indices)], key) for name, r in gathered.requests.items()}

    def _part(self, name: str, request: Request, images: Tensor, key: Key) -> Part:
        views = []
        for number, view in enumerate(request.views):
            own = (*key, name) if len(request.views) == 1 else (*key, name, number)
            views.append(images if view is None else apply_view(view, images, generator=seeded(*own)))
        items = None if request.items is None else to_device(request.items, self.device)
        return Part(views[0], to_device(request.indices, self.device), request.offsets, items, tuple(views), request)

    def gather(self, requests: Mapping[str, Request]) -> Gathered:
        """Return requests with their images, those that several ask for by the same `indices` once."""
        rows = {id(request.indices): request.indices for request in requests.values()}
        return Gathered(requests, {number: self._pixels(indices) for number, indices in rows.items()})

    def gather_ahead(self, key: Key, requests: Mapping[str, Request]) -> None:
        """Begin to gather the batch of a key while the device is at work; `take` gives it."""
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="loader")
        self._ahead = key, self._thread.submit(self.gather, requests)

    def take(self, key: Key) -> Gathered | None:
        """Return the batch of a key if it is the one gathered ahead; whatever has been is forgotten."""
        ahead, self._ahead = self._ahead, None
        return ahead[1].result() if ahead is not None and ahead[0] == key else None

    def close(self) -> None:
        """End the thread, if there is one."""
        self._ahead = None
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _pixels(self, rows: Tensor | slice) -> Tensor:
        """Return images as they are stored: on the device, or in the host's memory ready to be uploaded."""
        if self._stored is not None:
            return self._stored[rows if isinstance(rows, slice) else to_device(rows, self.device)]
        pixels = np.ascontiguousarray(self.images[rows if isinstance(rows, slice) else rows.cpu().numpy()])
        if not pixels.flags.writeable:  # of a mapped file: torch would warn
            pixels = pixels.copy()
        ready = torch.from_numpy(pixels)
        return ready.pin_memory() if self.device.type in WITH_PINNED_MEMORY else ready


def fits(size: int, device: torch.device) -> bool:
    """Return whether images of `size` bytes may stay on an accelerator; on the CPU they are where they are."""
    if device.type == "cpu":
        return False
    if device.type == "cuda":
        return size <= _SHARE * torch.cuda.mem_get_info(device)[0]
    return size <= _SHARED_MEMORY


def _as_floats(pixels: Tensor) -> Tensor:
    floats = pixels.float()
    return floats / 255 if pixels.dtype == torch.uint8 else floats
