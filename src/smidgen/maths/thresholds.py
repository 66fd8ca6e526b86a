"""Thresholds of confidence that follow a classifier while it learns."""

from __future__ import annotations

from torch import Tensor


def thresholds(confidence: Tensor, seen: Tensor) -> Tensor:
    """Return the confidence (classes,) that a prediction must have: the mean one, less for classes predicted less.

    Source: FreeMatch (Wang et al., ICLR 2023), equations 5 to 8.

    confidence: the mean largest prediction so far, (). seen: the mean prediction so far, (classes,).

    >>> import torch
    >>> thresholds(torch.tensor(0.9), torch.tensor([0.6, 0.3, 0.1]))
    tensor([0.9000, 0.4500, 0.1500])
    """
    return confidence * seen / seen.max()
