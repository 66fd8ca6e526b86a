"""The shares of the images that a user says clusters or groups have: "uniform", or numbers separated by commas."""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.errors import InputError


def read_shares(prior: str, *, words: tuple[str, ...] = ("uniform",)) -> Tensor | None:
    """Return the shares that an option `prior` names, summing to one; None where it is one of the words.

    Raises InputError for anything but these words and numbers above 0.

    >>> read_shares("1,3"), read_shares("uniform")
    (tensor([0.2500, 0.7500]), None)
    """
    if prior in words:
        return None
    try:
        shares = torch.tensor([float(each) for each in prior.split(",")])
    except ValueError:
        shares = torch.zeros(1)
    if not bool(((shares > 0) & shares.isfinite()).all()):
        wanted = f"{', '.join(words)}, or numbers above 0 separated by commas, one per label"
        raise InputError(f"`prior` must be {wanted}, got {prior!r}.")
    return shares / shares.sum()


def check_number(shares: Tensor | None, wanted: int, *, of: str) -> None:
    """Raise InputError unless there are as many shares as wanted, or none. of: what has a share, in the plural."""
    if shares is not None and len(shares) != wanted:
        raise InputError(f"`prior` must have a number for each of the {wanted} {of}, got {len(shares)}.")
