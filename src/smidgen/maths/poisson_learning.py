"""Classes of all points from very few labels: the Poisson equation on a graph of neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from smidgen.errors import InputError

_LEAST = 1e-12


def neighbour_graph(neighbours: Sequence[Tensor]) -> sparse.csr_matrix:
    """Return the sum of the undirected graphs of several lists of neighbours, weight 1 per edge and list, (n, n).

    neighbours: each (n, k) int64, the neighbours of each point. Two points are joined if either is the other's.

    >>> neighbour_graph([torch.tensor([[1], [0], [1]])]).toarray().tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]
    """
    graphs = []
    for near in neighbours:
        n, k = near.shape
        ends = np.repeat(np.arange(n), k), near.cpu().numpy().ravel()
        joined = sparse.csr_matrix((np.ones(n * k), ends), shape=(n, n))
        graphs.append(joined.maximum(joined.T))
    return sum(graphs[1:], graphs[0])


def poisson_learning(
    graph: sparse.csr_matrix, rows: Tensor, targets: Tensor, *, weights: Tensor | None = None, iterations: int = 300
) -> Tensor:
    """Return the score of each class at each point, (points, classes) float32, of mean square 1 over all.

    graph: symmetric weights of edges, (points, points), none below 0. rows: (labels,), the points with a label.
    targets: (labels, classes), each row a distribution. weights: (labels,), of the labels, above 0; None for 1 each.
    iterations: of u ← u + D⁻¹ (b − L u), at least one, with degrees D and L = D − graph.

    The sources b_i = w_i (t_i − mean t) at the labelled points flow through the graph, L u = b, so that far points
    still differ where label spreading would give all of them nearly the same: Calder, Cook, Thorpe and Slepčev,
    "Poisson learning" (ICML 2020), equation 2.8 and algorithm 1. Raises InputError for iterations below 1.

    >>> chain = neighbour_graph([torch.tensor([[1], [2], [1], [2]])])
    >>> poisson_learning(chain, torch.tensor([0, 3]), torch.eye(2)).argmax(1).tolist()
    [0, 0, 1, 1]
    """
    if iterations < 1:
        raise InputError(f"`iterations` must be 1 or above, got {iterations}.")
    wanted = targets.double().cpu()
    each = torch.ones(len(wanted), 1).double() if weights is None else weights.double().cpu()[:, None]
    sources = torch.zeros(graph.shape[0], wanted.shape[1], dtype=torch.float64)
    sources.index_add_(0, rows.cpu(), each * (wanted - (each * wanted).sum(0) / each.sum()))
    degrees = np.maximum(np.asarray(graph.sum(1)), _LEAST)
    step, added = sparse.diags(1 / degrees.ravel()) @ graph, sources.numpy() / degrees
    scores = np.zeros_like(added)
    before = scores
    for _ in range(iterations):
        before, scores = scores, step @ scores + added
    scores = (before + scores) / 2  # where the graph has two sides, they take turns
    scores -= (degrees * scores).sum(0) / degrees.sum()
    return torch.from_numpy(scores / max(_LEAST, float(np.sqrt((scores**2).mean())))).float()
