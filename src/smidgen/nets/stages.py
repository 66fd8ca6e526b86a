"""The stages of a net while it runs: what one of them puts out, pooled to a size that probes can be trained on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_FEATURES = 9600
"""Numbers of an image's features in a stage: AlexNet's maps pooled to 96·10², 256·6², 384·5², 384·5² and 256·6²."""


class _Reached(Exception):
    """Ends a forward pass at the stage that was wanted."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output


def output_of(stage: nn.Module, function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function from images to what a stage puts out while `function` of them is computed, and no further.

    Where `function` takes the images bit by bit, the bits are put together. RuntimeError if it never uses the stage.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> output_of(net[0], net)(torch.ones(3, 1, 2, 2)).shape
    torch.Size([3, 4])
    """

    def stop(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        raise _Reached(output)

    def run(images: Tensor) -> Tensor:
        found: list[Tensor] = []
        hook = stage.register_forward_hook(stop)
        try:
            while not found or sum(map(len, found)) < len(images):
                found.append(_reached(function, images[sum(map(len, found)) :]))
        finally:
            hook.remove()
        return torch.cat(found)

    return run


def _reached(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    try:
        function(images)
    except _Reached as reached:
        return reached.output
    raise RuntimeError("The stage is no part of what was computed.")


def pooled(output: Tensor, *, most: int = MOST_FEATURES) -> Tensor:
    """Return features (batch, at most `most`) of a stage's output.

    Maps (batch, channels, height, width) are max-pooled to the largest square of which all channels fit, tokens (batch,
    tokens, features) averaged; a vector is left as it is. Source: the probes of Asano et al. (ICLR 2020), who pool
    AlexNet's stages to the sizes in `MOST_FEATURES`.

    >>> [pooled(torch.ones(2, *shape)).shape[1] for shape in ((96, 55, 55), (384, 13, 13), (64, 3, 3))]
    [9600, 9600, 576]
    """
    if output.ndim == 3:
        return output.mean(1)
    if output.ndim == 2:
        return output
    side = max(math.isqrt(most // output.shape[1]), 1)
    return F.adaptive_max_pool2d(output, (min(side, output.shape[2]), min(side, output.shape[3]))).flatten(1)
