"""Labels with given cluster sizes: optimal transport by Sinkhorn's scaling, for matrices too large to be copied.

The plan diag(c) exp(scores) diag(r), rows summing to their weights and columns to their marginals (Cuturi, NIPS 2013),
is SeLa's (Asano, Rupprecht and Vedaldi, ICLR 2020: scores = λ log P). Only the column scalings r are kept: a row's
scaling follows from them, and cancels from the label argmax_k r_k exp(score_ik).

One iteration is one pass over blocks of rows. Each block is shifted so that its largest entry is exp(0), which the
row's scaling absorbs; then two matrix-vector products give the row scalings and the block's share of the column sums
while the block is in the processor's cache. Deviations from the published code: float32 instead of float64; a column
whose entries all underflow grows by at most exp(80) per iteration instead of dividing by zero; rows are scaled before
the first update of the columns; the error is the *mean*
relative error of the column sums, because the published sum over rows grows with their number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.errors import InputError
from smidgen.maths.products import column_of_smallest, product_with

Blocks = Callable[[], Iterable[Tensor]]
"""Gives all scores anew at each call: blocks (rows, clusters) of floats, always the same ones in the same order."""

_FLOOR = -80.0  # of a row's shifted scores: exp(-80) is still a normal float32, and subnormal ones are slow
_DRIFT = 40.0
"""How far a scaling's logarithm may move from where the kernel was stored before it is stored anew: entries at the
floor then count for at most exp(-40) of a row."""


@dataclass(frozen=True)
class Scaling:
    """Where Sinkhorn's iterations ended.

    log_scale: (clusters,) float32, the logarithm of r; of mean 0, since a constant cancels.
    error: the mean relative error of the column sums before the last update. iterations: passes made.
    """

    log_scale: Tensor
    error: float
    iterations: int


def scale_columns(
    blocks: Blocks,
    *,
    marginals: Tensor,
    weights: Tensor | None = None,
    start: Tensor | None = None,
    tolerance: float = 0.01,
    max_iterations: int = 1000,
    keep: torch.dtype | None = None,
    exponent: float = 1.0,
) -> Scaling:
    """Return column scalings with which the plan's columns sum to `marginals`, its rows to `weights`.

    blocks: see `Blocks`; a block of 256 to 1,024 rows stays in cache. marginals: (clusters,), above 0, sum to one.
    weights: (n,), 0 or above, sum to one; None for 1/n each. start: `log_scale` of an earlier call, to begin with.
    tolerance: stop where the mean of |column sum / marginal − 1| is at most this. max_iterations: 1 or above.
    keep: the type in which exp(scores) is stored between passes, torch.float32 or torch.bfloat16 (2 bytes an entry,
    rounded to 8 bits, but for the last update); None stores nothing and computes them in every pass, out of core.
    exponent: f in [0, 1], how far the marginals are enforced, r = (marginal / column sum without r)^f, as in
    `maths.sinkhorn`; `error` is then how far the last update changed r, 0 where it changed nothing.
    Raises InputError for marginals that are not positive, an unknown `keep`, another exponent, or no iteration.

    >>> scores = torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    >>> found = scale_columns(lambda: [scores], marginals=torch.tensor([0.5, 0.5]), tolerance=1e-6)
    >>> balanced_labels(lambda: [scores], found.log_scale)
    tensor([0, 1])
    """
    if max_iterations < 1:
        raise InputError(f"`max_iterations` must be 1 or above, got {max_iterations}.")
    if keep not in (None, torch.float32, torch.bfloat16):
        raise InputError(f"`keep` must be torch.float32, torch.bfloat16 or None, got {keep}.")
    if not 0 <= exponent <= 1:
        raise InputError(f"`exponent` must be from 0 to 1, got {exponent}.")
    if not (marginals > 0).all():
        raise InputError(f"`marginals` must be above 0, got {marginals.tolist()}.")
    marginals = marginals.float()
    log_scale = torch.zeros_like(marginals) if start is None else start.float().clone()
    stored, base = None, log_scale
    iteration, error, exact = 0, float("inf"), keep is not torch.bfloat16
    while iteration < max_iterations and (error > tolerance or not exact):
        if not exact and (error <= tolerance or iteration == max_iterations - 1):
            keep, stored, exact = None, None, True  # the last update is by entries that are not rounded
        if keep is not None and (stored is None or float((log_scale - base).abs().max()) > _DRIFT):
            stored, base = None, log_scale
            stored = [kernel.to(keep, copy=True) for kernel in _kernels(blocks, base)]
        kernels = _kernels(blocks, log_scale) if stored is None else stored
        relative = torch.ones_like(marginals) if stored is None else (log_scale - base).exp()
        sums = _column_sums(kernels, relative, weights)
        gap = (marginals / (relative * sums).clamp_min(torch.finfo(torch.float32).tiny)).log()
        change = gap - (1 - exponent) * (gap + log_scale)
        error = float((relative * sums / marginals - 1).abs().mean()) if exponent == 1 else _size(change)
        log_scale = log_scale + change
        log_scale = log_scale - log_scale.mean()
        iteration += 1
    return Scaling(log_scale, error, iteration)


def _size(change: Tensor) -> float:
    """Return the mean relative change of scalings by a change of their logarithms; one that all share is none."""
    return float((change - change.mean()).expm1().abs().mean())


def _kernels(blocks: Blocks, log_scale: Tensor) -> Iterator[Tensor]:
    """Give exp(scores + log_scale) by blocks (rows, clusters) float32, each row divided by its largest entry.

    A block is overwritten by the next one: memory that is always new costs more time than what is computed in it.
    """
    buffer = log_scale.new_empty(0, len(log_scale))
    for scores in blocks():
        if len(buffer) < len(scores):
            buffer = log_scale.new_empty(scores.shape)
        kernel = torch.add(scores, log_scale, out=buffer[: len(scores)])
        yield kernel.sub_(kernel.amax(1, keepdim=True)).clamp_min_(_FLOOR).exp_()


def _column_sums(kernels: Iterable[Tensor], relative: Tensor, weights: Tensor | None) -> Tensor:
    """Return Σ_i w_i kernel_ik / (kernel · relative)_i, (clusters,) float32; weights None are 1/n each."""
    sums, n, buffer = torch.zeros_like(relative), 0, relative.new_empty(0, len(relative))
    for kernel in kernels:
        if kernel.dtype != torch.float32:
            if len(buffer) < len(kernel):
                buffer = relative.new_empty(kernel.shape)
            kernel = buffer[: len(kernel)].copy_(kernel)
        rows = 1 / (kernel @ relative)
        if weights is not None:
            rows *= weights[n : n + len(kernel)]
        sums += rows @ kernel
        n += len(kernel)
    return sums if weights is not None else sums / max(n, 1)


def balanced_labels(blocks: Blocks, log_scale: Tensor) -> Tensor:
    """Return the cluster in which each row has most of its mass under the plan, (n,) int64."""
    labels, n = torch.empty(0, dtype=torch.int64, device=log_scale.device), 0
    for scores in blocks():
        found = column_of_smallest(-log_scale - scores)
        if n + len(found) > len(labels):  # small tensors kept between large ones that are freed would split the memory
            labels = torch.cat([labels, labels.new_empty(max(len(labels), len(found), 2**16))])
        labels[n : n + len(found)] = found
        n += len(found)
    return labels[:n].clone()


def rows_of(scores: Tensor, *, rows: int = 256) -> Blocks:
    """Return the blocks of a matrix (n, clusters) that is in memory."""
    return lambda: scores.split(rows)


def logits_of(
    embeddings: Tensor, prototypes: Tensor, *, bias: Tensor | None = None, strength: float = 1.0, rows: int = 512
) -> Blocks:
    """Return the blocks of strength · (embeddings · prototypesᵀ + bias), computed when they are asked for.

    As scores they do what strength · log softmax of the same does: a constant of a row cancels.
    embeddings: (n, features), memory-mapped or not. prototypes: (clusters, features). bias: (clusters,).
    """
    product = product_with(strength * prototypes)
    offset = prototypes.new_zeros(len(prototypes)) if bias is None else strength * bias
    return lambda: (product(block.to(prototypes)).add_(offset) for block in embeddings.split(rows))
