"""Unites groups whose members are neighbours, until a number of clusters is left."""

from __future__ import annotations

import torch
from torch import Tensor

from smidgen.errors import InputError


def united(flow: Tensor, n_clusters: int) -> Tensor:
    """Return the cluster of each group, (groups,) int64 in 0 … n_clusters − 1.

    flow: (groups, groups), symmetric, 0 or above: how often a member of one group has a neighbour in another, in any
    unit. Again and again the two groups are united of which the smaller one has the largest part of its neighbours in
    the other, F_ab / min(s_a, s_b), s the sums of rows. Raises InputError for fewer groups than clusters.

    >>> united(torch.tensor([[4.0, 0.1, 2.0], [0.1, 4.0, 0.1], [2.0, 0.1, 4.0]]), 2).tolist()
    [0, 1, 0]
    """
    if not 1 <= n_clusters <= len(flow):
        raise InputError(f"`n_clusters` must be from 1 to the {len(flow)} groups, got {n_clusters}.")
    flow, cluster = flow.double().clone(), torch.arange(len(flow))
    for _ in range(len(flow) - n_clusters):
        size = flow.sum(1).clamp_min(1e-30)
        near = (flow / torch.minimum(size[:, None], size)).fill_diagonal_(-1)
        first, second = sorted(divmod(int(near.argmax()), len(flow)))
        rest = [row for row in range(len(flow)) if row != second]
        flow[first] += flow[second]
        flow[:, first] += flow[:, second]
        flow = flow[rest][:, rest]
        cluster = torch.where(cluster == second, first, cluster - (cluster > second).long())
    return cluster


def association(flow: Tensor) -> float:
    """Return the mean over clusters of the part of their members' neighbours that are in the same one, 0 … 1.

    flow: (clusters, clusters), as in `united`; an empty cluster counts 0. One minus it is the normalised cut, divided
    by the number of clusters (Shi & Malik, TPAMI 2000): it does not ask for clusters of equal sizes.

    >>> association(torch.tensor([[3.0, 1.0], [1.0, 1.0]]))
    0.625
    """
    return float((flow.diagonal() / flow.sum(1).clamp_min(1e-30)).mean())


def neighbour_flow(p: Tensor, neighbours: Tensor) -> Tensor:
    """Return how often a member of one group has a neighbour in another, (groups, groups), sum one, symmetric.

    p: assignments (images, groups), rows sum to one. neighbours: rows (images, k) of each image's neighbours.

    >>> neighbour_flow(torch.eye(2), torch.tensor([[1], [0]]))
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]])
    """
    flow = sum((p.T @ p[column.long()] for column in neighbours.T), p.new_zeros(p.shape[1], p.shape[1]))
    return (flow + flow.T) / (2 * len(p) * neighbours.shape[1])
