"""Balanced assignments: Sinkhorn's scaling of a matrix of scores to given sums of rows and columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable

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


def balancing_offsets(
    blocks: Callable[[], Iterable[Tensor]],
    *,
    prior: Tensor | None = None,
    tolerance: float = 0.01,
    max_iterations: int = 100,
) -> Tensor:
    """Return v (…, clusters) such that softmax(scores + v) has clusters of sizes close to `prior`.

    Sinkhorn's scaling of columns alone, in log domain: that of rows is the softmax, so a matrix that is too large to be
    held, such as SeLa's of all images (Asano et al., ICLR 2020), is gone through once per iteration.

    blocks: gives scores (…, rows, clusters), divided by the temperature, block by block, as often as it is called.
    prior: (…, clusters) shares, sum to one; None for equal sizes. tolerance: relative, of the sizes; or until
    `max_iterations`. Raises InputError for a tolerance that is not above 0 or less than one iteration.

    >>> scores = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    >>> v = balancing_offsets(lambda: scores.split(1), tolerance=1e-4)
    >>> (scores + v).softmax(1).sum(0).round(decimals=3)
    tensor([1., 1.])
    """
    if not tolerance > 0 or max_iterations < 1:
        raise InputError(
            f"`tolerance` must be above 0 and `max_iterations` 1 or above, got {tolerance}, {max_iterations}."
        )
    offsets: Tensor | None = None
    for _ in range(max_iterations):
        n, log_sizes = _log_sizes(blocks(), offsets)
        share = torch.full_like(log_sizes, 1 / log_sizes.shape[-1]) if prior is None else prior.to(log_sizes)
        change = (share * n).log() - log_sizes
        if offsets is None:
            offsets = torch.zeros_like(log_sizes)
        if float(change.abs().max()) <= tolerance:
            break
        offsets = offsets + change
    assert offsets is not None
    return offsets


def _log_sizes(blocks: Iterable[Tensor], offsets: Tensor | None) -> tuple[int, Tensor]:
    """Return the number of rows, and the log of the sizes that clusters have, (…, clusters)."""
    n, parts = 0, []
    for block in blocks:
        scores = block if block.dtype == torch.float64 else block.float()
        log = (scores if offsets is None else scores + offsets.unsqueeze(-2)).log_softmax(-1)
        parts.append(log.logsumexp(-2))
        n += block.shape[-2]
    return n, torch.stack(parts).logsumexp(0)
