"""Exact nearest neighbours by brute force: blocks of one matrix product, then the smallest entries of each row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.errors import InputError, unknown
from smidgen.maths.checks import finite_matrix

METRICS = ("cosine", "euclidean")

# Measured on 60,000 x 50 with two cores: 1024 x 2048 tiles whose minima over 64 columns are taken while the tile is in
# cache need 4 s; one product per 1024 rows followed by a plain topk needs 8 s.
_TILE = 2048
_GROUP = 64
_SPARE = 8  # candidates beyond n_neighbours that are measured exactly
_BLOCK_ELEMENTS = 2**26  # scores kept at once: 256 MB in float32


def nearest_neighbours(
    x: Tensor,
    n_neighbours: int,
    *,
    queries: Tensor | None = None,
    metric: str = "euclidean",
    block_size: int = 1024,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the nearest rows of `x`, nearest first: indices (n, n_neighbours) int64 and distances, float32.

    x: (points, features), finite; computed in float32, centred and scaled to at most 1 first.
    queries: (n, features), the points whose neighbours are wanted; None means every row of `x`, and then a row is not
        its own neighbour (but its duplicates are).
    metric: "euclidean", or "cosine" for 1 - cosine in [0, 2]; a zero row is at cosine distance 1 from everything.
    block_size: queries per block; smaller blocks need less memory (4 bytes x block_size x points, 256 MB at most).
    progress: called with (queries done, queries).

    |q - x|^2 = |q|^2 - 2 q.x + |x|^2 turns the search into matrix products but loses digits where distances are small
    beside the norms. Centring keeps the norms small; n_neighbours + 8 candidates are found that way and measured again
    by plain differences, which gives their order and the distances returned. Rows where rounding (bounded as a sum
    of independent errors) could have hidden a neighbour are searched again in float64. Equal distances are ordered by
    index, unless more than 8 points tie for the last place.

    Raises InputError for values that are not finite and for n_neighbours outside 1 to the number of other points.

    >>> x = torch.tensor([[0.0], [1.0], [3.0], [3.0]])
    >>> indices, distances = nearest_neighbours(x, 1)
    >>> indices.flatten().tolist(), distances.flatten().tolist()
    ([1, 0, 3, 2], [1.0, 1.0, 0.0, 0.0])
    """
    points = finite_matrix(x, what="x")
    asked = points if queries is None else finite_matrix(queries, what="queries").to(points)
    _check(points, asked, n_neighbours, metric=metric, own=queries is None, block_size=block_size)
    space = _space(points, asked, metric=metric, own=queries is None)
    n, features = asked.shape
    rows_at_once = max(1, min(block_size, _BLOCK_ELEMENTS // max(len(points), (n_neighbours + _SPARE) * features)))
    indices = torch.empty(n, n_neighbours, dtype=torch.int64, device=points.device)
    halves = torch.empty(n, n_neighbours, dtype=torch.float32, device=points.device)
    doubtful = torch.zeros(n, dtype=torch.bool, device=points.device)
    search = _Search(space, dtype=torch.float32, block_size=min(rows_at_once, n))
    for rows in torch.arange(n, device=points.device).split(rows_at_once):
        indices[rows], halves[rows], doubtful[rows] = search.nearest(rows, n_neighbours)
        if progress is not None:
            progress(int(rows[-1]) + 1 if n else 0, n)
    if bool(doubtful.any()) and points.device.type != "mps":  # mps has no float64
        again = doubtful.nonzero().flatten()
        search = _Search(space, dtype=torch.float64, block_size=min(rows_at_once, len(again)))
        for rows in again.split(rows_at_once):
            indices[rows], better, _ = search.nearest(rows, n_neighbours)
            halves[rows] = better.to(torch.float32)
    return indices, halves if metric == "cosine" else halves.mul(2).sqrt() * space.scale


def mutual(indices: Tensor) -> Tensor:
    """Return (n, n_neighbours) bool: whether row i is also among the neighbours of its neighbour.

    indices: (n, n_neighbours) int64, as `nearest_neighbours` gives them for the rows of one matrix.

    >>> mutual(torch.tensor([[1], [0], [1]])).flatten().tolist()
    [True, True, False]
    """
    own = torch.arange(len(indices), device=indices.device)
    return (indices[indices] == own[:, None, None]).any(2)


@dataclass(frozen=True)
class _Space:
    """Normalised queries and points; `scale` brings Euclidean distances back."""

    queries: Tensor
    points: Tensor
    cosine: bool
    own: bool  # queries are the points: a row is not its own neighbour
    scale: float = 1.0


def _check(points: Tensor, asked: Tensor, n_neighbours: int, *, metric: str, own: bool, block_size: int) -> None:
    if metric not in METRICS:
        raise unknown("metric", metric, METRICS)
    if asked.shape[1] != points.shape[1]:
        raise InputError(f"queries must have the {points.shape[1]} features of x, got {asked.shape[1]}.")
    others = len(points) - own
    if not 1 <= n_neighbours <= others:
        raise InputError(
            f"n_neighbours must be from 1 to the number of other points ({max(others, 0)}), got {n_neighbours};"
            " ask for fewer neighbours or give more images."
        )
    if block_size < 1:
        raise InputError(f"block_size must be at least 1, got {block_size}.")


def _space(points: Tensor, asked: Tensor, *, metric: str, own: bool) -> _Space:
    if metric == "cosine":
        unit = _unit_rows(points)
        return _Space(unit if own else _unit_rows(asked), unit, cosine=True, own=own)
    middle = points.amax(0) / 2 + points.amin(0) / 2  # first, since the mean of large numbers overflows or is rounded
    mean = middle + (points - middle).mean(0)
    points, asked = points - mean, asked - mean
    largest = max(float(t.abs().max()) for t in (points, asked) if len(t))
    scale = 2.0 ** math.frexp(largest)[1]  # a power of two, so that scaling rounds nothing
    points = points / scale
    return _Space(points if own else asked / scale, points, cosine=False, own=own, scale=scale)


def _unit_rows(x: Tensor) -> Tensor:
    """Return rows of length one; zero rows stay zero. Dividing by the largest entry first avoids overflow."""
    x = x / x.abs().amax(1, keepdim=True).clamp_min(torch.finfo(x.dtype).tiny)
    return x / x.norm(dim=1, keepdim=True).clamp_min(0.5)  # a row that is not zero is at least 1 long by now


class _Search:
    """Searches a space in one precision, with buffers that are filled again for every block.

    The score of query q and point x is |x|^2/2 - q.x (for "cosine" -q.x): half their distance but for a constant of q.
    """

    def __init__(self, space: _Space, *, dtype: torch.dtype, block_size: int) -> None:
        self.space, self.cosine, self.own = space, space.cosine, space.own
        self.points = space.points.to(dtype)
        self.queries = self.points if self.own else space.queries.to(dtype)
        self.bias = torch.zeros_like(self.points[:, 0]) if self.cosine else self.points.square().sum(1) / 2
        # The bias is a column of the product, beside a column of ones in the queries: addmm would copy it to every row.
        self.weights = torch.cat([-self.points, self.bias[:, None]], dim=1)
        n_tiles = -(-len(self.points) // _TILE)
        self.scores = self.points.new_full((block_size, n_tiles * _TILE), torch.inf)  # padded to whole tiles
        self.minima = self.points.new_empty(block_size, n_tiles, _TILE // _GROUP)
        q, x = self.queries.norm(dim=1), self.points.norm(dim=1)
        margin = torch.finfo(dtype).eps * (4 + self.points.shape[1] ** 0.5)
        self.rounding = margin * (q * x.max() + self.bias.max())  # (queries,)

    def nearest(self, rows: Tensor, n_neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return neighbours and half squared distances (rows, n_neighbours), and which rows are in doubt."""
        available = len(self.points) - self.own
        wanted = min(n_neighbours + _SPARE, available)
        scores = self._score(rows)
        # By index first, so that the stable sort by distance settles ties.
        candidates = _smallest(scores, self.minima[: len(rows)].flatten(1), wanted).sort(dim=1).values
        halves = self._half_distances(rows, candidates)
        order = halves.sort(dim=1, stable=True).indices[:, :n_neighbours]
        found, nearest = candidates.gather(1, order), halves.gather(1, order)
        if wanted == available:
            return found, nearest, torch.zeros_like(rows, dtype=torch.bool)
        constant = 1.0 if self.cosine else self.queries[rows].square().sum(1) / 2
        left_out = scores.gather(1, candidates).amax(1) - self.rounding[rows]  # no point left out can score less
        return found, nearest, nearest[:, -1] - constant > left_out

    def _score(self, rows: Tensor) -> Tensor:
        """Return scores (rows, padded points), and fill `minima` with their minima over groups of columns.

        Column c of a tile belongs to group c mod (_TILE / _GROUP): strided groups are the fast ones to reduce.
        """
        queries = torch.cat([self.queries[rows], self.points.new_ones(len(rows), 1)], dim=1)
        scores = self.scores[: len(rows)]
        for tile, weights in enumerate(self.weights.split(_TILE)):
            start, stop = tile * _TILE, tile * _TILE + len(weights)
            torch.mm(queries, weights.T, out=scores[:, start:stop])
            if self.own:
                inside = ((rows >= start) & (rows < stop)).nonzero().flatten()
                scores[inside, rows[inside]] = torch.inf
            groups = scores[:, start : start + _TILE].unflatten(1, (_GROUP, -1))
            torch.amin(groups, dim=1, out=self.minima[: len(rows), tile])
        return scores

    def _half_distances(self, rows: Tensor, candidates: Tensor) -> Tensor:
        """Return |q - x|^2 / 2 (rows, candidates), which for unit rows is 1 - cosine; mended where a row is zero."""
        q, x = self.queries[rows][:, None], self.points[candidates]
        halves = (q - x).square().sum(2) / 2
        if self.cosine:
            halves = halves + ((q == 0).all(2).to(halves) + (x == 0).all(2).to(halves)) / 2
        return halves


def _smallest(scores: Tensor, minima: Tensor, wanted: int) -> Tensor:
    """Return the columns (rows, wanted) of the smallest scores, in no particular order.

    They lie in the `wanted` groups with the smallest minima: an entry of any other group is at least as large as
    each of those minima.
    """
    per_tile = _TILE // _GROUP
    if 4 * wanted > minima.shape[1]:
        return scores.topk(wanted, largest=False, sorted=False).indices
    groups = minima.topk(wanted, largest=False, sorted=False).indices
    first = groups // per_tile * _TILE + groups % per_tile  # (rows, wanted)
    steps = torch.arange(0, _TILE, per_tile, device=scores.device)
    columns = (first[:, :, None] + steps).flatten(1)  # (rows, wanted x _GROUP)
    best = scores.gather(1, columns).topk(wanted, largest=False, sorted=False).indices
    return columns.gather(1, best)
