"""The sizes of classes, estimated from what a classifier says of images whose classes are not known."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from smidgen.errors import InputError


def estimated_prior(p: Tensor, *, pseudo_counts: float = 0.1, iterations: int = 50) -> Tensor:
    """Return the shares of the classes, (classes,), all above 0 and of sum one.

    p: (images, classes), assignments by a classifier that takes all classes to be of equal size; rows sum to one.
    pseudo_counts: images added to each class, as a multiple of the mean size of a class, 0 or above: the Dirichlet
        prior by which no class vanishes. iterations: of EM, at least one.

    EM of Saerens, Latinne and Decaestecker (Neural Computation 2002): r_ik ∝ p_ik π_k, then π_k = mean_i r_ik, with
    pseudo-counts (mean_i r_ik + a/K) / (1 + a). Raises InputError for other arguments.

    >>> import torch
    >>> p = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]])
    >>> estimated_prior(p).argmax()
    tensor(0)
    """
    if iterations < 1 or pseudo_counts < 0:
        raise InputError(
            f"`iterations` must be 1 or above and `pseudo_counts` 0 or above, got {iterations} and {pseudo_counts}."
        )
    own, classes = p.double() if p.device.type != "mps" else p, p.shape[1]
    prior = own.new_full((classes,), 1 / classes)
    for _ in range(iterations):
        r = own * prior
        r = r / r.sum(1, keepdim=True).clamp_min(1e-30)
        prior = (r.mean(0) + pseudo_counts / classes) / (1 + pseudo_counts)
    return (prior / prior.sum()).to(p.dtype)


def log_prior_by_jackknife(logits: Tensor, left_out: Sequence[Tensor], *, pseudo_counts: float = 0.1) -> Tensor:
    """Return log shares of the classes, (classes,) of mean 0, as far from equal ones as the labels bear out.

    logits: (images, classes), of a classifier that takes all classes to be of equal size. left_out: the same by
    classifiers that each lack another fold of the labels, at least two. pseudo_counts: as in `estimated_prior`.

    The estimate varies with the labels that happen to be known: by the jackknife (m − 1)/m Σ_f |a_f − ā|², with a_f the
    log shares without fold f. It is multiplied by 1 − 2 · that / |a|², or 0, as James and Stein shrink a mean to 0.
    """
    own, *others = (_log_shares(z, pseudo_counts) for z in (logits, *left_out))
    parts = torch.stack(others)
    variance = (len(parts) - 1) * parts.var(0, correction=0).sum()
    return own * (1 - 2 * variance / own.square().sum().clamp_min(1e-12)).clamp_min(0)


def _log_shares(logits: Tensor, pseudo_counts: float) -> Tensor:
    shares = estimated_prior(logits.softmax(1), pseudo_counts=pseudo_counts).log()
    return shares - shares.mean()
