"""Points brought to a scale at which float32 neither overflows nor vanishes when it squares them."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from smidgen.errors import InputError

_TOO_FAR, _SOME = 1e6, 1000  # times the distance of half of the rows, as some of them show it
_SMALL, _LARGE = 1e-6, 1e12  # between these, squares and their sums are exact enough


def power_of_two(sizes: Tensor) -> Tensor:
    """Return the largest power of two up to each size (at least 0), 1 for 0: dividing by it rounds nothing.

    >>> power_of_two(torch.tensor([0.0, 0.3, 4.0, 5.0])).tolist()
    [1.0, 0.25, 4.0, 4.0]
    """
    wide = sizes.cpu()  # frexp is not everywhere
    return torch.where(wide > 0, wide / (2 * torch.frexp(wide).mantissa), 1.0).to(sizes)


def unit_rows(x: Tensor) -> Tensor:
    """Return rows (n, features) of length one, whatever their scale; a zero row stays zero.

    >>> unit_rows(torch.tensor([[3e30, 4e30], [3e-30, 4e-30], [0.0, 0.0]]))
    tensor([[0.6000, 0.8000],
            [0.6000, 0.8000],
            [0.0000, 0.0000]])
    """
    largest = x.abs().amax(1, keepdim=True)
    extreme = ((largest < _SMALL) | (largest > _LARGE)) & (largest > 0)
    return normalize(x / torch.where(extreme, largest, 1.0), dim=1)


def check_range(x: Tensor) -> None:
    """Raise InputError if one row of x (n, features) lies so far out that the others' differences are rounded away."""
    some = x[:: max(1, len(x) // _SOME)]
    middle = some.sort(0).values[(len(some) - 1) // 2]  # the median, which CUDA does not repeat exactly
    typical = float((some - middle).abs().amax(1).median())
    farthest = float(torch.maximum(x.amax(0) - middle, middle - x.amin(0)).max())
    if farthest > _TOO_FAR * typical > 0:
        row = int((x - middle).abs().amax(1).argmax())
        raise InputError(
            f"Row {row} lies {farthest / typical:.0e} times as far from the middle as half of the rows, too far for"
            " float32 to tell these apart beside it: remove it, or correct its values."
        )
