"""Balanced assignments: Sinkhorn's scaling of a matrix of scores to given sums of rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.errors import InputError


def sinkhorn(scores: Tensor, *, iterations: int = 3, prior: Tensor | None = None) -> Tensor:
    """Return soft assignments near softmax(scores) whose clusters have sizes close to `prior`.

    The matrix diag(r) exp(scores) diag(c) with columns that sum to prior · n and rows that sum to one (Cuturi, NIPS
    2013; as targets: Asano et al., ICLR 2020; Caron et al., NeurIPS 2020). Columns are scaled first and rows last, so
    rows are exact and columns are as close as the iterations make them. In log domain and float32 or better: scores of
    any size give finite results.

    scores: (…, n, clusters), already divided by the temperature; leading dimensions are independent problems.
    prior: (…, clusters) shares, sum to one; None for equal sizes. iterations: 1 or above.
    Returns (…, n, clusters), rows sum to one. Raises InputError for iterations below 1.

    >>> sinkhorn(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), iterations=50).sum(0)
    tensor([1., 1.])
    """
    if iterations < 1:
        raise InputError(f"`iterations` must be 1 or above, got {iterations}.")
    log = scores if scores.dtype == torch.float64 else scores.float()
    n, clusters = log.shape[-2:]
    share = log.new_full((clusters,), 1 / clusters) if prior is None else prior.to(log)
    wanted = (share * n).log().unsqueeze(-2)
    for _ in range(iterations):
        log = log + (wanted - log.logsumexp(-2, keepdim=True))
        log = log - log.logsumexp(-1, keepdim=True)
    return log.exp()
