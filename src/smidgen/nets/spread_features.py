"""Embeddings as directions, beside the same moved towards their neighbours: features that suit simple methods."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.maths.graph_spreading import neighbour_mean, spread
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.scaling import unit_rows
from smidgen.nets.encoder import Encoder
from smidgen.nets.projection import Projection

LANDMARKS = 10_000
"""The most training rows among which a new row's neighbours are looked for."""

FEW = 3
"""Components up to which lengths say too much to be lost: the direction of a single number is only its sign."""

_CANCELLED = 1e-3
_ROUNDED = 1e-5  # deviations up to this share of the largest are rounding
_MULTIPLE = 16  # of the columns of a product, see `nets.projection`


class SpreadFeatures(Encoder):
    """Vectors (batch, …) in; the principal components of [r, spread(a), spread(r)] out, each of the three a unit row.

    r: the direction of the vector's principal components; a: the same of the standardised vector; spread: `rounds`
    steps of `maths.graph_spreading` over the `neighbours` nearest training rows by cosine. Where the training rows vary
    along three components or fewer, r and a are these components themselves, not directions, and neighbours are
    those by distance. It has no gradient.
    """

    landmarks: Tensor
    passed: Tensor
    ranks: Tensor
    own: Tensor
    as_directions: Tensor
    half_squares: Tensor

    def __init__(self, inputs: int, components: int, *, neighbours: int, rounds: int) -> None:
        super().__init__()
        self._wanted, self._rounds = neighbours, rounds
        self.plain = Projection(inputs, components, standardise=False)
        self.standardised = Projection(inputs, components)
        self.last = Projection(3 * self.plain.features, components, standardise=False)
        self.features = self.last.features
        self.register_buffer("landmarks", torch.zeros(2, _MULTIPLE, self.plain.features))
        self.register_buffer("passed", torch.zeros(2, 1, self.plain.features))
        self.register_buffer("ranks", torch.arange(1))  # as many as neighbours: a loaded model has its own number
        self.register_buffer("own", torch.tensor(1.0))  # the weight of a new row itself
        self.register_buffer("as_directions", torch.tensor(True))
        self.register_buffer("half_squares", torch.zeros(2, 1))  # of the landmarks' lengths, 0 for directions

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> Tensor:
        """Learn all of it from (rows, inputs), at least two; return the rows' features (rows, features)."""
        variances = inputs.double().var(0, correction=0)  # also of a single row
        self.plain.standardise = bool(variances.max() > variances.sum() / 2)  # one input would be all that counts
        self.plain.fit(inputs)
        self.standardised.fit(inputs)
        device = self.plain.mean.device
        k = min(self._wanted, len(inputs) - 1)
        kept = torch.linspace(0, len(inputs) - 1, min(len(inputs), LANDMARKS)).round().long()
        self.as_directions.fill_(metric_of(self.standardised(inputs.to(device))) == "cosine")
        directions = self._directions(inputs.to(device))
        landmarks, passed, moved = [], [], []
        for rows, near in zip(directions, self._neighbours(directions), strict=True):
            end, passing = spread(rows, near, rounds=self._rounds)
            landmarks.append(F.pad(rows[kept], (0, 0, 0, -len(kept) % _MULTIPLE)))
            passed.append(passing[kept])
            moved.append(self._end(end))
        self.landmarks, self.passed = torch.stack(landmarks), torch.stack(passed)
        self.half_squares = torch.where(self.as_directions, 0.0, self.landmarks.square().sum(2)[:, : len(kept)] / 2)
        self.ranks, self.own = torch.arange(k, device=device), torch.tensor(0.5**self._rounds, device=device)
        return _fitted(self.last, torch.cat([directions[1], *moved], dim=1))

    @torch.no_grad()
    def moved_less(self, inputs: Tensor, *, rounds: int) -> tuple[Tensor, list[Tensor]]:
        """Return features as `fit` does, of the rows that it has seen, after other rounds, and the two neighbour lists.

        Features (rows, features), what is close to a row not moved away as far; neighbours (rows, k) of each direction.
        """
        directions = self._directions(inputs.to(self.plain.mean.device))
        near = self._neighbours(directions)
        moved = [self._end(spread(rows, of, rounds=rounds)[0]) for rows, of in zip(directions, near, strict=True)]
        last = Projection(self.last.inputs, self.last.components, standardise=False).to(self.plain.mean.device)
        return _fitted(last, torch.cat([directions[1], *moved], dim=1)), near

    def _neighbours(self, directions: Sequence[Tensor]) -> list[Tensor]:
        k = min(self._wanted, len(directions[0]) - 1)
        metric = "cosine" if self.as_directions else "euclidean"
        return [nearest_neighbours(rows, k, metric=metric)[0] for rows in directions]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (batch, features) float32, in float32 also under autocast."""
        with torch.autocast(inputs.device.type, enabled=False):
            directions = self._directions(inputs)
            moved = [self._moved(rows, which) for which, rows in enumerate(directions)]
            return self.last(torch.cat([directions[1], *moved], dim=1))

    def _directions(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        a, r = self.standardised(inputs), self.plain(inputs)
        return torch.where(self.as_directions, unit_rows(a), a), torch.where(self.as_directions, unit_rows(r), r)

    def _moved(self, rows: Tensor, which: int) -> Tensor:
        """Return where new rows end after spreading, by their nearest landmarks."""
        passed = self.passed[which]
        alike = (rows @ self.landmarks[which].T)[:, : len(passed)] - self.half_squares[which]
        near = alike.topk(len(self.ranks), dim=1).indices
        return self._end(rows * self.own + neighbour_mean(passed, near))

    def _end(self, moved: Tensor) -> Tensor:
        """Return the directions of moved rows, or the rows; zero where neighbours cancelled each other's directions."""
        apart = moved.norm(dim=1, keepdim=True) > _CANCELLED  # else there is only rounding
        return torch.where(self.as_directions, torch.where(apart, unit_rows(moved), 0.0), moved)


def metric_of(components: Tensor) -> str:
    """Return the metric that suits principal components (rows, features): "euclidean" where three or fewer vary.

    >>> metric_of(torch.tensor([[1.0, 0.0], [2.0, 0.0], [4.0, 0.0]])), metric_of(torch.eye(8))
    ('euclidean', 'cosine')
    """
    deviations = components.std(0, correction=0)
    varying = int((deviations > _ROUNDED * deviations.max()).sum())
    return "euclidean" if varying <= FEW else "cosine"


def _fitted(last: Projection, joined: Tensor) -> Tensor:
    """Return the components of joined rows, learned from them."""
    last.fit(joined.round(decimals=6))  # what is left of rounding is no direction
    return last(joined)
