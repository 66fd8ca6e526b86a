"""What `fusion-embeddings` learns from labels: several classifiers, weighted by how well they predict held-out labels.

The members are softmax regressions on the spread features and on the plain components, Poisson learning on the graph of
neighbours, and the clusters found without labels. Their log assignments are added with weights that predict labels
which they have not seen, and one layer on the spread features learns the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.sparse import csr_matrix
from torch import Tensor
from torch.nn import functional as F

from smidgen.maths.class_prior import estimated_prior, log_prior_by_jackknife
from smidgen.maths.log_pool import log_pool_weights
from smidgen.maths.poisson_learning import neighbour_graph, poisson_learning
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.methods.feature_layer import CLUSTERS_STRENGTH, Layer
from smidgen.methods.fusion_sizes import member_weights

SPREAD_STRENGTH = 0.015
"""C of the regression on spread features, which have a root mean square length of 38 (`nets.projection`)."""

PLAIN_STRENGTH = 1.0
"""C of the regression on the components of the standardised embeddings, of the same length: scikit-learn's default."""

ITERATIONS = 100
"""Of the regressions, at most."""

DEVIATION = 0.1
"""Standard deviation of the members' weights before the held-out labels are known."""

FOLDS = 5

MOST_LABELS = 10_000
"""Labels from which to learn, where the net that starts from the pool learns from all."""

MOST_UNNAMED = 5000
"""Images, the likeliest, that stand for the classes without a label."""

MOST_COMPARED = 10_000
"""Images by which the sizes of classes are estimated."""

UNTESTED = 0.3
"""How much of the estimated sizes of classes is believed where no label can be held out."""


@dataclass(frozen=True, eq=False)
class Views:
    """What members learn from, on the CPU: three kinds of features (images, …) and two of neighbours (images, k).

    spread: what the layer is learned on; less_spread: moved fewer times towards neighbours; plain: not at all.
    """

    spread: Tensor
    less_spread: Tensor
    plain: Tensor
    neighbours: Sequence[Tensor]


@dataclass(frozen=True, eq=False)
class _Known:
    """Labelled rows (n,), their classes as distributions (n, classes), weights (n,), and how many of each class."""

    rows: Tensor
    targets: Tensor
    weights: Tensor
    per_class: Tensor


def labelled_layer(views: Views, labels: Tensor, clusters: Layer, *, shares: Tensor | None = None) -> Layer:
    """Return the layer on the spread features that predicts `pooled_assignments`.

    clusters: the layer on the spread features without labels, its clusters in the order of the classes. The other
    arguments are as there.
    """
    weight, bias = (part.cpu() for part in clusters)
    target = pooled_assignments(views, labels, views.spread @ weight.T + bias, shares=shares)
    return softmax_regression(views.spread, target, strength=CLUSTERS_STRENGTH)


def pooled_assignments(
    views: Views, labels: Tensor, clusters: Tensor, *, trust: float = 0.0, shares: Tensor | None = None
) -> Tensor:
    """Return the assignments (images, classes) by the pool of all members, the classes' sizes estimated.

    labels: (images,) int64, -1 unknown, at least one known. clusters: logits (images, classes) found without labels, in
    the order of the classes; the classes that no label names are taken from there. trust: the weight of the clusters,
    0 or above, before held-out labels say more. shares: (classes,), of the images, sum to one; None to estimate them.
    """
    labels, said, graph = labels.cpu(), clusters.cpu(), neighbour_graph(views.neighbours)
    every, folds = _members(views, graph, labels, said), _folds(labels)
    some = torch.arange(0, len(labels), -(-len(labels) // MOST_COMPARED))
    held_out, left_out = [], []
    for fold in _numbers(folds):
        logits = _members(views, graph, labels.where(folds != fold, -1), said)
        held_out.append(logits[:, folds == fold])
        left_out.append(logits[:, some])
    weights = _weights(held_out, labels, folds, trust)
    pooled, *others = (torch.tensordot(weights, z, 1) for z in (every, *left_out))
    log_prior = _log_prior(pooled[some], others, _mean_per_class(labels)) if shares is None else shares.cpu().log()
    return (pooled + log_prior).softmax(1)


def thinned(labels: Tensor, *, most: int = MOST_LABELS) -> Tensor:
    """Return about so many of the labels (images,) at most, the same fraction of each class; -1 for the others.

    >>> thinned(torch.tensor([0, 0, 1, 1, -1]), most=2).tolist()
    [0, -1, 1, -1, -1]
    """
    some, step = torch.full_like(labels, -1), -(-int((labels >= 0).sum()) // most)
    for label in labels[labels >= 0].unique():
        rows = (labels == label).nonzero().flatten()[::step]
        some[rows] = label
    return some


def _folds(labels: Tensor) -> Tensor:
    """Return the fold (images,) in which a label is held out, -1 where it never is: the only label of its class."""
    folds = torch.full_like(labels, -1)
    for label in labels[labels >= 0].unique():
        rows = (labels == label).nonzero().flatten()
        if len(rows) > 1:
            folds[rows] = torch.arange(len(rows)) % FOLDS
    return folds


def _numbers(folds: Tensor) -> list[int]:
    return folds[folds >= 0].unique().tolist()


def _mean_per_class(labels: Tensor) -> float:
    known = labels[labels >= 0]
    return len(known) / len(known.unique())


def _members(views: Views, graph: csr_matrix, labels: Tensor, said: Tensor) -> Tensor:
    """Return logits (members, images, classes) by all labels given, as if all classes had as many."""
    known = _known(labels, said)
    less = known.per_class.log()
    by_features = []
    both = torch.cat([views.spread, views.less_spread], dim=1) / 2**0.5
    for x, strength in ((both, SPREAD_STRENGTH), (views.plain, PLAIN_STRENGTH)):
        weight, bias = softmax_regression(
            x[known.rows], known.targets, weights=known.weights, strength=strength, iterations=ITERATIONS
        )
        by_features.append(x @ weight.T + bias - less)
    even = known.weights * (known.targets @ (1 / known.per_class)) * known.per_class.mean()
    by_graph = poisson_learning(graph, known.rows, known.targets, weights=even)
    return torch.stack([*by_features, by_graph, said.log_softmax(1)])


def _known(labels: Tensor, said: Tensor) -> _Known:
    """Return the labels, and for classes without one the images of their clusters, weighed as an average class is."""
    rows = (labels >= 0).nonzero().flatten()
    targets, n_classes = F.one_hot(labels[rows], said.shape[1]).float(), said.shape[1]
    counts = torch.bincount(labels[rows], minlength=n_classes).float()
    unnamed, mean = counts == 0, float(counts[counts > 0].mean())
    known = _Known(rows, targets, torch.ones(len(rows)), torch.where(unnamed, mean, counts))
    if not bool(unnamed.any()):
        return known
    p = said.softmax(1) * unnamed
    p[rows] = 0
    share = p.sum(1)
    some = share.topk(min(len(share), MOST_UNNAMED)).indices.sort().values
    some = some[share[some] > 0]
    share = share * (mean * int(unnamed.sum()) / share[some].sum().clamp_min(1e-12))
    return _Known(
        torch.cat([rows, some]),
        torch.cat([targets, p[some] / p[some].sum(1, keepdim=True)]),
        torch.cat([known.weights, share[some]]),
        known.per_class,
    )


def _weights(held_out: Sequence[Tensor], labels: Tensor, folds: Tensor, trust: float) -> Tensor:
    """Return the weights (members,), from held-out labels if there are any; all classes count alike.

    held_out: for each fold (members, held out, classes), what members say that have not seen its labels.
    """
    start = torch.tensor(member_weights(_mean_per_class(labels), clusters=trust))
    if not held_out:
        return start
    truth = torch.cat([labels[folds == fold] for fold in _numbers(folds)])
    counts = torch.bincount(truth).clamp_min(1)
    each = len(truth) / len(truth.unique()) / counts[truth]
    return log_pool_weights(torch.cat([*held_out], dim=1), truth, start=start, deviation=DEVIATION, counts=each)


def _log_prior(pooled: Tensor, others: Sequence[Tensor], per_class: float) -> Tensor:
    """Return the logarithms (classes,) of the classes' sizes, as far as they can be known."""
    if len(others) > 1:
        return log_prior_by_jackknife(pooled, others)
    shares = estimated_prior(pooled.softmax(1), pseudo_counts=0.3 / per_class)
    return UNTESTED * shares.log()
