"""What every function on a matrix of points asks of its input: two dimensions, floats, finite."""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.errors import InputError


def finite_matrix(x: Tensor, *, what: str) -> Tensor:
    """Return `x` (rows, features) as floats of at least 32 bits, detached from any graph.

    what: its name in messages. Integers, booleans and half precision become float32; float32 and float64 stay.
    Raises InputError if `x` is not a matrix with at least one feature, or holds NaN or infinite values.

    >>> finite_matrix(torch.tensor([[1, 2]]), what="points")
    tensor([[1., 2.]])
    """
    if x.ndim != 2 or x.shape[1] == 0:
        raise InputError(f"{what} must be a matrix (rows, features), got shape {tuple(x.shape)}; flatten images first.")
    x = x.detach()
    x = x if x.dtype in (torch.float32, torch.float64) else x.to(torch.float32)
    finite = x.isfinite()
    if not bool(finite.all()):
        bad = (~finite.all(1)).nonzero().flatten()
        raise InputError(
            f"{what} must be finite, got NaN or infinite values in {len(bad)} of {len(x)} rows, first in row"
            f" {int(bad[0])}; remove those rows or look for the division or the learning rate that made them."
        )
    return x
