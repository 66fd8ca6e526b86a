"""Exact nearest neighbours by brute force: blocks of one matrix product, then the smallest entries of each row."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.errors import InputError, unknown
from smidgen.maths.checks import finite_matrix
from smidgen.maths.products import product_with

METRICS = ("cosine", "euclidean")

# Minima over groups of columns are taken while a tile of scores is in cache, and the scores are forgotten. Measured on
# 60,000 x 50: keeping them takes 1.5 times as long, and a plain topk of all 3 times.
_TILE = 2048  # columns
_FINE = 4  # columns in a fine group
_COARSE = 8  # fine groups in a coarse one
_SPARE = 8  # candidates beyond n_neighbours that are measured exactly
_BLOCK_ELEMENTS = 2**26  # numbers kept at once: 256 MB in float32


def nearest_neighbours(
    x: Tensor,
    n_neighbours: int,
    *,
    queries: Tensor | None = None,
    metric: str = "euclidean",
    block_size: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the nearest rows of `x`, nearest first: indices (n, n_neighbours) int64 and distances, float32.

    x: (points, features), finite; computed in float32, centred and scaled to at most 1 first.
    queries: (n, features), the points whose neighbours are wanted; None means every row of `x`, and then a row is not
        its own neighbour (but its duplicates are).
    metric: "euclidean", or "cosine" for 1 - cosine in [0, 2]; a zero row is at cosine distance 1 from everything.
    block_size: queries per block; smaller blocks need less memory (a byte x block_size x points, 256 MB at most).
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
    kept = max(len(points) // _FINE, _FINE * (n_neighbours + _SPARE) * features, _TILE)  # numbers for a query
    rows_at_once = max(1, min(block_size, _BLOCK_ELEMENTS // kept))
    indices = torch.empty(n, n_neighbours, dtype=torch.int64, device=points.device)
    halves = torch.empty(n, n_neighbours, dtype=torch.float32, device=points.device)
    doubtful = torch.zeros(n, dtype=torch.bool, device=points.device)
    search = _Search(space, dtype=torch.float32)
    for rows in torch.arange(n, device=points.device).split(rows_at_once):
        indices[rows], halves[rows], doubtful[rows] = search.nearest(rows, n_neighbours)
        if progress is not None:
            progress(int(rows[-1]) + 1 if n else 0, n)
    if bool(doubtful.any()) and points.device.type != "mps":  # mps has no float64
        again = doubtful.nonzero().flatten()
        search = _Search(space, dtype=torch.float64)
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
    """Searches a space in one precision.

    The score of query q and point x is |x|^2/2 - q.x (for "cosine" -q.x): half their distance but for a constant of q.
    """

    def __init__(self, space: _Space, *, dtype: torch.dtype) -> None:
        self.cosine, self.own, self.n = space.cosine, space.own, len(space.points)
        self.points = space.points.to(dtype)
        self.queries = self.points if self.own else space.queries.to(dtype)
        bias = torch.zeros_like(self.points[:, 0]) if self.cosine else self.points.square().sum(1) / 2
        # The bias is a column of the product, beside a column of ones in the queries.
        weights = torch.cat([-self.points, bias[:, None]], dim=1)
        rest = weights.new_zeros(-self.n % (_FINE * _COARSE), weights.shape[1])  # fills the last groups
        rest[:, -1] = torch.inf
        self.weights = torch.cat([weights, rest])
        self.products = [product_with(tile) for tile in self.weights.split(_TILE)]
        q, x = self.queries.norm(dim=1), self.points.norm(dim=1)
        margin = torch.finfo(dtype).eps * (4 + self.points.shape[1] ** 0.5)
        self.rounding = margin * (q * x.max() + bias.max())  # (queries,)

    def nearest(self, rows: Tensor, n_neighbours: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return neighbours and half squared distances (rows, n_neighbours), and which rows are in doubt."""
        available = self.n - self.own
        wanted = min(n_neighbours + _SPARE, available)
        candidates, left_out = self._candidates(rows, wanted)
        candidates = candidates.sort(dim=1).values  # by index first, so that the stable sort by distance settles ties
        halves = self._half_distances(rows, candidates)
        order = halves.sort(dim=1, stable=True).indices[:, :n_neighbours]
        found, nearest = candidates.gather(1, order), halves.gather(1, order)
        if wanted == available:
            return found, nearest, torch.zeros_like(rows, dtype=torch.bool)
        constant = 1.0 if self.cosine else self.queries[rows].square().sum(1) / 2
        return found, nearest, nearest[:, -1] - constant > left_out - self.rounding[rows]

    def _candidates(self, rows: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
        """Return the points of smallest scores (rows, wanted), and the least score (rows,) that others may have."""
        queries = torch.cat([self.queries[rows], self.points.new_ones(len(rows), 1)], dim=1)
        columns, left_out = _smallest(*self._minima(queries, rows), wanted)  # (rows, groups x _FINE)
        points = self.weights.index_select(0, columns.flatten()).unflatten(0, columns.shape)
        scores = torch.bmm(points, queries[:, :, None]).squeeze(2)
        if self.own:
            scores.masked_fill_(columns == rows[:, None], torch.inf)
        best = scores.topk(wanted, largest=False, sorted=False)
        return columns.gather(1, best.indices), torch.minimum(left_out, best.values.amax(1))

    def _minima(self, queries: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the minima of scores over fine and over coarse groups of points, (rows, groups).

        A tile's columns are numbered across its groups: strided groups are the fast ones to reduce.
        """
        fine = queries.new_empty(len(rows), len(self.weights) // _FINE)
        coarse = queries.new_empty(len(rows), fine.shape[1] // _COARSE)
        for tile, product in enumerate(self.products):
            scores, start = product(queries), tile * _TILE
            if self.own:
                inside = ((rows >= start) & (rows < start + scores.shape[1])).nonzero().flatten()
                scores[inside, rows[inside] - start] = torch.inf
            minima = _group_minima(scores, _FINE, out=fine[:, start // _FINE :])
            _group_minima(minima, _COARSE, out=coarse[:, start // (_FINE * _COARSE) :])
        return fine, coarse

    def _half_distances(self, rows: Tensor, candidates: Tensor) -> Tensor:
        """Return |q - x|^2 / 2 (rows, candidates), which for unit rows is 1 - cosine; mended where a row is zero."""
        q, x = self.queries[rows][:, None], self.points[candidates]
        halves = (q - x).square().sum(2) / 2
        if self.cosine:
            halves = halves + ((q == 0).all(2).to(halves) + (x == 0).all(2).to(halves)) / 2
        return halves


def _group_minima(scores: Tensor, size: int, *, out: Tensor) -> Tensor:
    """Return minima over groups of `size` of m columns, in the first columns of `out`; column c is in group
    c mod (m / size)."""
    groups = scores.unflatten(1, (size, -1))
    return torch.amin(groups, dim=1, out=out[:, : groups.shape[2]])


def _smallest(fine: Tensor, coarse: Tensor, wanted: int) -> tuple[Tensor, Tensor]:
    """Return the points (rows, at least `wanted`) of the fine groups with the smallest minima, and the least score
    (rows,) of points in other groups.

    These groups lie in the `wanted` coarse groups with the smallest minima: any other fine group's minimum is at least
    as large as each of those.
    """
    if wanted >= coarse.shape[1]:
        groups = fine.topk(min(wanted, fine.shape[1]), largest=False, sorted=False).indices
    else:
        nearest = coarse.topk(wanted, largest=False, sorted=False).indices
        among = _members(nearest, _COARSE, tile=_TILE // _FINE, total=fine.shape[1])  # (rows, wanted x _COARSE)
        groups = among.gather(1, fine.gather(1, among).topk(wanted, largest=False, sorted=False).indices)
    left_out = (
        fine.gather(1, groups).amax(1) if groups.shape[1] < fine.shape[1] else fine.new_full((len(fine),), torch.inf)
    )
    return _members(groups, _FINE, tile=_TILE, total=fine.shape[1] * _FINE), left_out


def _members(groups: Tensor, size: int, *, tile: int, total: int) -> Tensor:
    """Return the columns (rows, groups x size) of groups (rows, groups), of `total` columns in tiles of `tile`."""
    number = groups // (tile // size)
    width = (total - number * tile).clamp_max(tile) // size  # groups of this tile: the last one may have fewer
    first = number * tile + groups - number * (tile // size)
    steps = torch.arange(size, device=groups.device)
    return (first[:, :, None] + width[:, :, None] * steps).flatten(1)
