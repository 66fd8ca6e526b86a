"""Bags as they are drawn: some of the evidence's for a batch, and what fresh ones are made of, as in UCC and RCC."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from smidgen.evidence.resolved import Resolved

MOST_TUPLES = 20_000
"""Tuples of classes that are listed and walked; of more, random ones are drawn."""


def draw_bags(
    evidence: Resolved, known: torch.Tensor, generator: torch.Generator, *, bags: int, images: int, least: int = 1
) -> torch.Tensor:
    """Return numbers of bags drawn from `known`: at most so many, of at most so many images together.

    least: images that they have together whatever the limits; one bag at least is drawn.
    """
    drawn = known[torch.randperm(len(known), generator=generator)]
    together = evidence.bag_sizes[drawn].cumsum(0)
    enough = int((together < least).sum()) + 1
    return drawn[: max(enough, min(bags, int((together <= images).sum())))]


@lru_cache(maxsize=32)
def class_tuples(n_classes: int, u: int) -> np.ndarray | None:
    """Return all tuples of u of the classes 0 … n_classes − 1, (tuples, u) int64; None if they are too many to walk.

    >>> class_tuples(3, 2).tolist()
    [[0, 1], [0, 2], [1, 2]]
    """
    if math.comb(n_classes, u) > MOST_TUPLES:
        return None
    return np.array(list(combinations(range(n_classes), u)))


def even_numbers(u: int, size: int) -> list[int]:
    """Return how many images each of u classes gives to a bag of a size: as many, the first ones what is left over.

    >>> even_numbers(3, 8)
    [3, 3, 2]
    """
    return [size // u + (place < size % u) for place in range(u)]


def between_cuts(cuts: Sequence[int], size: int) -> list[int]:
    """Return how many images lie between cuts in 1 … size − 1, in order: any composition is as likely.

    >>> between_cuts([2, 3], 8)
    [2, 1, 5]
    """
    return np.diff([0, *cuts, size]).tolist()
