"""One soft clustering from several, their clusters matched."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smidgen.maths.matching import match_counts

_ROUNDS = 3


def consensus(members: Sequence[Tensor], *, weights: Sequence[float] | None = None) -> Tensor:
    """Return the mean of several assignments (images, clusters) to the same number of clusters, numbered alike.

    The clusters of each are matched to those of the mean by how much they share, and the mean is taken again, three
    times; at first it is the first member. At least one member; rows that sum to one give rows that sum to one.
    weights: of the members in the mean, above 0; None for equal ones.

    >>> one = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> consensus([one, one.flip(1)])
    tensor([[1., 0.],
            [0., 1.]])
    """
    share = torch.tensor(weights or [1.0] * len(members), dtype=torch.float64)
    every = [member.double().cpu() for member in members]
    mean = every[0]
    for _ in range(_ROUNDS):
        aligned = [member[:, match_counts((mean.T @ member).numpy())] for member in every]
        mean = torch.einsum("m,mik->ik", share / share.sum(), torch.stack(aligned))
    return mean.to(members[0])
