"""What a method asks for and what it gets: requests for images, and the parts of a batch that answer them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from smidgen.data.views import View, apply_view


@dataclass(frozen=True)
class Request:
    """One part of the next batch: which images, as which view, grouped into which bags.

    indices: (images,) int64, rows of the training set; a row may appear twice and then gets two different views.
    view: the random transform, or None for the images as they are.
    offsets: (bags + 1,) int64, where the images of bag b are `indices[offsets[b]:offsets[b + 1]]`; None without bags.
    items: (items,) int64, rows of the evidence that this part answers for (bags, pairs), None without evidence.
    """

    indices: Tensor
    view: View | None = None
    offsets: Tensor | None = None
    items: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """One part of a batch: the request, with its images as (images, channels, height, width) floats in [0, 1]."""

    images: Tensor
    indices: Tensor
    offsets: Tensor | None = None
    items: Tensor | None = None


def seeded(*key: int | str) -> torch.Generator:
    """Return a CPU generator that depends on the key only, so that a batch can be drawn again exactly.

    Different keys give independent streams: the key goes through NumPy's `SeedSequence`.

    >>> int(torch.randint(10**6, (), generator=seeded(0, "train", 3))) == int(
    ...     torch.randint(10**6, (), generator=seeded(0, "train", 3)))
    True
    """
    words = [list(k.encode()) if isinstance(k, str) else [k] for k in key]
    entropy = [number for word in words for number in [len(word), *word]]
    state = np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


def collect(
    images: np.ndarray, requests: Mapping[str, Request], *, key: tuple[int | str, ...], device: torch.device
) -> dict[str, Part]:
    """Return the parts that answer the requests.

    images: (n_images, channels, height, width) uint8, or (n_images, features, 1, 1) floats.
    key: what the batch may depend on, (seed, stage, step); each part's view is drawn from (*key, part name).
    """
    parts = {}
    for name, request in requests.items():
        pixels = as_floats(images, request.indices, device=device)
        if request.view is not None:
            pixels = apply_view(request.view, pixels, generator=seeded(*key, name))
        parts[name] = Part(
            images=pixels,
            indices=request.indices.to(device),
            offsets=None if request.offsets is None else request.offsets.to(device),
            items=None if request.items is None else request.items.to(device),
        )
    return parts


def as_floats(images: np.ndarray, indices: Tensor | slice, *, device: torch.device) -> Tensor:
    """Return the chosen uint8 images as a (batch, channels, height, width) float32 tensor in [0, 1].

    Ready embeddings, (n, features, 1, 1) floats, are left as they are.
    """
    rows = indices if isinstance(indices, slice) else indices.cpu().numpy()
    pixels = np.ascontiguousarray(images[rows])
    if not pixels.flags.writeable:  # of a mapped file: torch would warn
        pixels = pixels.copy()
    floats = torch.from_numpy(pixels).to(device, non_blocking=True).float()
    return floats / 255 if pixels.dtype == np.uint8 else floats
