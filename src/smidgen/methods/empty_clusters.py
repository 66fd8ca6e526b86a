"""Clusters that have lost their images: each is given a class that shares a cluster with another, as bags show.

Counts unite the clusters into which a large class was cut, and leave some empty, while small classes may still share
one. Training does not part these again: an empty cluster has no images to learn from. So a cluster is
halved by k-means, and EM mends the halves: what each image is likely to be, given its bags, is what a linear layer
learns next. Halves of one class grow together again, as bags speak against them; those of two classes come apart.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
from torch import Tensor

from smidgen.maths.kmeans import kmeans
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.nets.projection import NORM

EMPTY = 0.02
"""Of an equal share of the images: a cluster that holds less is empty."""

LEAST = 10
"""Images in each half at least."""

MOST_HALVED = 12
"""Clusters that are halved: those whose halves by k-means are farthest apart."""

STEPS = 4
"""Of EM."""

STRENGTH = 0.02
"""C of the regression in each of them."""

SURE = 0.9
"""How sure an image is to be in its half by k-means."""


def refilled(
    p: Tensor,
    embeddings: Tensor,
    *,
    given: Callable[[Tensor], tuple[Tensor, Tensor]],
    worth: Callable[[Tensor], float],
    gain: float,
    generator: torch.Generator,
) -> Tensor | None:
    """Return assignments in which empty clusters hold parts of others, where that is worth it; None where nowhere.

    p: assignments (images, clusters), rows sum to one. embeddings: (images, features), on the same device.
    given: of assignments, returns what images are likely to be given their bags, (images, clusters), and which are in
    any. worth: of assignments; higher is better, and by more than `gain` is worth it. generator: of the CPU.
    """
    best, found = None, p
    for empty in _empty(p):
        parted = [_parted(found, embeddings, *each, empty, given) for each in _halves(found, embeddings, generator)]
        judged = [(worth(each), each) for each in parted if each is not None]
        if not judged or max(judged, key=_first)[0] <= worth(found) + gain:
            break
        best = found = max(judged, key=_first)[1]
    return best


_first = operator.itemgetter(0)


def _empty(p: Tensor) -> list[int]:
    n, n_clusters = p.shape
    sizes = p.argmax(1).bincount(minlength=n_clusters)
    return (sizes < EMPTY * n / n_clusters).nonzero().flatten().tolist()


def _halves(p: Tensor, embeddings: Tensor, generator: torch.Generator) -> list[tuple[int, Tensor, Tensor]]:
    """Return clusters, their images (rows,), and which of these are in the smaller half, those farthest apart first."""
    clusters, found = p.argmax(1), []
    for cluster in range(p.shape[1]):
        rows = (clusters == cluster).nonzero().flatten()
        if len(rows) < 2 * LEAST:
            continue
        x = embeddings[rows].float().cpu()
        labels = kmeans(x, 2, n_init=3, generator=generator).labels
        half = labels == labels.bincount(minlength=2).argmin()
        if half.sum() >= LEAST:
            apart = (x[half].mean(0) - x[~half].mean(0)).square().sum() / x.var(0).sum().clamp_min(1e-12)
            found.append((float(apart), cluster, rows, half.to(rows.device)))
    found.sort(key=lambda each: -each[0])
    return [(cluster, rows, half) for _, cluster, rows, half in found[:MOST_HALVED]]


def _parted(
    p: Tensor,
    embeddings: Tensor,
    cluster: int,
    rows: Tensor,
    half: Tensor,
    empty: int,
    given: Callable[[Tensor], tuple[Tensor, Tensor]],
) -> Tensor | None:
    """Return assignments in which a part of a cluster's images (rows,) is in the empty one, None if none is left."""
    both = torch.tensor([cluster, empty], device=p.device)
    x = embeddings[rows].float().cpu()
    x = x - x.mean(0)
    x = x * (NORM / x.square().sum(1).mean().sqrt().clamp_min(1e-12))
    shares = torch.full((len(rows), 2), 1 - SURE).scatter_(1, half.long().cpu()[:, None], SURE)
    for _ in range(STEPS):
        q, in_bags = given(_shared(p, rows, both, shares))
        wanted, known = q[rows][:, both].cpu(), in_bags[rows].cpu()
        if not bool(known.any()):
            return None
        total = wanted.sum(1, keepdim=True).clamp_min(1e-12)
        weight, bias = softmax_regression(x, wanted / total, weights=total[:, 0] * known, strength=STRENGTH)
        shares = (x @ weight.T + bias).softmax(1)
    sizes = shares.argmax(1).bincount(minlength=2)
    return None if int(sizes.min()) < LEAST else _shared(p, rows, both, shares)


def _shared(p: Tensor, rows: Tensor, both: Tensor, shares: Tensor) -> Tensor:
    """Return assignments in which two clusters share what images (rows,) gave to them before."""
    found = p.clone()
    found[rows[:, None], both] = p[rows][:, both].sum(1, keepdim=True) * shares.to(p)
    return found
