"""Balanced assignments: Sinkhorn's scaling of a matrix of scores to given sums of rows and columns."""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.errors import InputError


def sinkhorn(scores: Tensor, *, iterations: int = 3, prior: Tensor | None = None, exponent: float = 1.0) -> Tensor:
    """Return soft assignments near softmax(scores) whose clusters have sizes close to `prior`.

    The matrix diag(r) exp(scores) diag(c) with columns that sum to prior · n and rows that sum to one (Cuturi, NIPS
    2013; as targets: Asano et al., ICLR 2020; Caron et al., NeurIPS 2020). Columns are scaled first and rows last, so
    rows are exact and columns are as close as the iterations make them. In log domain and float32 or better: scores of
    any size give finite results.

    scores: (…, n, clusters), already divided by the temperature; leading dimensions are independent problems.
    prior: (…, clusters) shares, sum to one; None for equal sizes. iterations: 1 or above.
    exponent: f in [0, 1], how far the sizes are enforced: c = (prior · n / column sums of diag(r) exp(scores))^f, the
        scaling for column sums that may differ from the prior at a cost, f / (1 − f) times their divergence from it
        (Chizat et al., Mathematics of Computation 2018). At 0 the result is softmax(scores).
    Returns (…, n, clusters), rows sum to one. Raises InputError for iterations below 1 or another exponent.

    >>> sinkhorn(torch.tensor([[2.0, 0.0], [1.0, 0.0]]), iterations=50).sum(0)
    tensor([1., 1.])
    """
    if iterations < 1:
        raise InputError(f"`iterations` must be 1 or above, got {iterations}.")
    if not 0 <= exponent <= 1:
        raise InputError(f"`exponent` must be from 0 to 1, got {exponent}.")
    log = scores if scores.dtype == torch.float64 else scores.float()
    n, clusters = log.shape[-2:]
    share = log.new_full((clusters,), 1 / clusters) if prior is None else prior.to(log)
    wanted = (share * n).log().unsqueeze(-2)
    if exponent < 1:
        log = log.log_softmax(-1)  # or the first columns would be those of the rows with the largest scores
    column = torch.zeros_like(wanted)  # log c
    for _ in range(iterations):
        gap = wanted - log.logsumexp(-2, keepdim=True)
        change = gap - (1 - exponent) * (gap + column)
        column, log = column + change, log + change
        log = log - log.logsumexp(-1, keepdim=True)
    return log.exp()
