"""A fixed linear map onto principal components, fitted once, then a layer that travels with the model; a net on it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.maths.pca import fit_pca
from smidgen.maths.scaling import check_range, power_of_two
from smidgen.nets.encoder import Encoder

_MULTIPLE = 16  # of inputs and outputs: with others, BLAS gives a row another last bit wherever it lies in the batch
NORM = 38.0  # root mean square length of a projected row, whatever the data: learning rates mean the same everywhere

_ROUNDED, _LEAST = 6e-8, 1e-30  # deviations up to this share of the mean are rounding; below this, weights overflow


class Projection(Encoder):
    """Inputs (batch, …) in, `features` numbers out: standardised, on principal components, of one overall scale.

    features: `components`, or as many as there are inputs, filled up with zeros to a multiple of 16. It has no
    gradient; before `fit` it gives zeros. standardise: whether each input is divided by its standard deviation first.
    """

    mean: Tensor
    weights: Tensor

    def __init__(self, inputs: int, components: int, *, standardise: bool = True) -> None:
        super().__init__()
        self.standardise = standardise
        self.inputs, self.components = inputs, min(components, inputs)
        self.features = self.components + -self.components % _MULTIPLE
        self.register_buffer("mean", torch.zeros(inputs))
        self.register_buffer("weights", torch.zeros(inputs + -inputs % _MULTIPLE, self.features))

    @torch.no_grad()
    def fit(self, inputs: Tensor) -> None:
        """Learn mean, deviations and components from (rows, inputs), at least two rows; a constant input counts as 0.

        Raises InputError if one row hides all others.

        Of fewer rows than components, as many components as rows are used.
        """
        check_range(inputs)
        unit = power_of_two(inputs.abs().amax(0))  # dividing by it rounds nothing
        scaled = inputs / unit
        mean, deviation = _mean_and_deviation(scaled)
        varies = (deviation > _ROUNDED * mean.abs()) & (deviation * unit > _LEAST)
        wanted = 1 / deviation.clamp_min(_LEAST) if self.standardise else unit / unit.max()
        scale = torch.where(varies, wanted, 0.0)
        pca = fit_pca((scaled - mean) * scale, min(self.components, len(inputs)))
        total = float(pca.variances.sum())
        weights = scale[:, None].double() * pca.components.T * (NORM / math.sqrt(total) if total > 0 else 1.0)
        weights = weights / unit[:, None].double()
        self.weights.zero_()
        self.weights[: self.inputs, : weights.shape[1]] = weights.to(self.weights)
        self.mean.copy_(mean * unit)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (batch, features) float32, in float32 also under autocast: heads see small differences."""
        with torch.autocast(inputs.device.type, enabled=False):
            centred = inputs.flatten(1).float() - self.mean
            return F.pad(centred, (0, -self.inputs % _MULTIPLE)) @ self.weights


def _mean_and_deviation(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation of each input; in float64 where float32 would round the small differences."""
    mean, deviation = inputs.mean(0), inputs.std(0, correction=0)
    offset = deviation < 1e-3 * mean.abs()
    if bool(offset.any()):
        wide = inputs[:, offset].double() if inputs.device.type != "mps" else inputs[:, offset].cpu().double()
        mean[offset], deviation[offset] = wide.mean(0).to(mean), wide.std(0, correction=0).to(mean)
    return mean, deviation


class ProjectedEncoder(Encoder):
    """Ready embeddings (batch, d) in, through a projection and a layer of `one_layer` on it.

    Both are held as they are, not copied: the projection comes fitted, or is loaded.
    """

    def __init__(self, projection: Projection, layer: nn.Sequential) -> None:
        super().__init__()
        self.projection, self.layer = projection, layer
        linear = layer[0]
        assert isinstance(linear, nn.Linear)
        self.features = linear.out_features

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings (batch, features) of vectors (batch, d), none below 0, in float32."""
        with torch.autocast(images.device.type, enabled=False):
            return self.layer(self.projection(images))


def projected_encoder(inputs: int, components: int, hidden: int | None) -> Encoder:
    """Return a projection of vectors that knows no components yet, with a layer of hidden units on it, if any."""
    projection = Projection(inputs, components)
    return projection if hidden is None else ProjectedEncoder(projection, one_layer(projection.features, hidden))


def one_layer(inputs: int, hidden: int, *, dropout: float = 0.5) -> nn.Sequential:
    """Return a linear layer with batch norm, ReLU and dropout: (batch, inputs) → (batch, hidden)."""
    return nn.Sequential(nn.Linear(inputs, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout))
