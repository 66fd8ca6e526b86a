"""Principal components of a matrix of points: exact, from the covariance or the Gram matrix in float64."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from smidgen.errors import InputError
from smidgen.maths.checks import finite_matrix
from smidgen.maths.scaling import unit_rows

Blocks = Callable[[], Iterable[Tensor]]
"""Gives the rows of a matrix block by block, (rows, features) each, as often as it is called."""

_ROWS = 8192  # rows turned into float64 at once


@dataclass(frozen=True, eq=False)
class PCA:
    """A fitted projection; all tensors float64 on the device of the data.

    mean: (features,). components: (n_components, features), orthonormal rows, by falling variance.
    variances: (n_components,), along each component, divided by rows - 1. total_variance: that of all features.
    scale: (n_components,), what projections are multiplied by: 1, or for whitening 1 / standard deviation.
    l2: whether rows are brought to length one at the end.
    """

    mean: Tensor
    components: Tensor
    variances: Tensor
    scale: Tensor
    total_variance: float
    l2: bool = False

    def transform(self, x: Tensor) -> Tensor:
        """Return projections (rows, n_components) float32 of points (rows, features); a zero row stays zero under l2.

        Raises InputError for values that are not finite and for another number of features.
        """
        x = finite_matrix(x, what="x")
        if x.shape[1] != len(self.mean):
            raise InputError(f"x must have the {len(self.mean)} features that the PCA was fitted on, got {x.shape[1]}.")
        weights = (self.components * self.scale[:, None]).T
        blocks = [_wide(block, self.mean.device).sub_(self.mean) @ weights for block in x.split(_ROWS)]
        if self.l2:
            blocks = [unit_rows(block) for block in blocks]
        return torch.cat([block.to(torch.float32) for block in blocks]).to(x.device)


def fit_pca(x: Tensor | Blocks, n_components: int, *, whiten: bool = False, l2: bool = False) -> PCA:
    """Return the projection on the `n_components` directions of largest variance.

    x: (rows, features), finite, at least 2 rows; summed block by block in float64 whatever its type. Or a function
        that gives such blocks twice, of a matrix that is too large to be held; of fewer rows than features it is held.
    n_components: from 1 to min(rows, features).
    whiten: divide each projection by its standard deviation; a direction without variance gives 0, not noise.
    l2: bring each projected row to length one (DeepCluster: whitening, then l2).

    The eigenvectors are exact, from the smaller of covariance (features x features) and Gram matrix (rows x rows), so
    memory is 8 x min(rows, features)^2 bytes. Each component's largest entry in size is positive, as in scikit-learn:
    signs do not depend on the machine. Raises InputError otherwise.

    >>> pca = fit_pca(torch.tensor([[0.0, 0.0], [2.0, 2.0], [4.0, 4.0]]), 1)
    >>> pca.transform(torch.tensor([[3.0, 3.0]]))
    tensor([[1.4142]])
    """
    blocks = _blocks(x)
    sizes, sums = zip(*((len(block), _wide(block).sum(0)) for block in blocks()), strict=True)
    n, features = sum(sizes), len(sums[0])
    if n < 2:
        raise InputError(f"x must have at least 2 rows for a PCA, got {n}; give more images.")
    if not 1 <= n_components <= min(n, features):
        raise InputError(
            f"n_components must be from 1 to {min(n, features)}, the smaller of rows ({n}) and features ({features}),"
            f" got {n_components}."
        )
    mean = torch.stack(sums).sum(0) / n
    if features <= n:
        variances, components, total = _from_covariance(blocks, mean, n, n_components)
    else:
        variances, components, total = _from_gram(torch.cat(list(blocks())), mean, n_components)
    components = components * _signs(components)[:, None]
    # What rounding leaves of an empty direction; below it, whitening would blow up noise.
    floor = torch.finfo(torch.float64).eps * max(n, features) * variances[0]
    whitening = torch.where(variances > floor, variances.clamp_min(1e-300).rsqrt(), 0)
    scale = whitening if whiten else torch.ones_like(variances)
    return PCA(mean, components, variances, scale, total, l2)


def _blocks(x: Tensor | Blocks) -> Blocks:
    if isinstance(x, Tensor):
        rows = finite_matrix(x, what="x").split(_ROWS)
        return lambda: rows
    return lambda: (finite_matrix(block, what="x") for block in x())


def _from_covariance(blocks: Blocks, mean: Tensor, n: int, n_components: int) -> tuple[Tensor, Tensor, float]:
    """Return variances, components and total variance, by the (features, features) covariance."""
    covariance = mean.new_zeros(len(mean), len(mean))
    for block in blocks():
        centred = _wide(block).sub_(mean)
        covariance.addmm_(centred.T, centred)
    covariance /= n - 1
    values, vectors = torch.linalg.eigh(covariance)  # rising
    return _falling(values, n_components), vectors.T.flip(0)[:n_components], float(covariance.trace())


def _from_gram(x: Tensor, mean: Tensor, n_components: int) -> tuple[Tensor, Tensor, float]:
    """Return the same by the (rows, rows) Gram matrix: X X' u = s^2 u gives the component X' u / s."""
    centred = _wide(x) - mean
    gram = centred @ centred.T / (len(x) - 1)
    values, vectors = torch.linalg.eigh(gram)
    components = vectors.T.flip(0)[:n_components] @ centred
    # Centring takes one dimension away, and equal rows more: QR completes the empty directions to an orthonormal set.
    components = components / components.norm(dim=1, keepdim=True).clamp_min(torch.finfo(torch.float64).tiny)
    return _falling(values, n_components), _orthonormal(components), float(gram.trace())


def _orthonormal(rows: Tensor) -> Tensor:
    """Return rows made orthonormal in order, which changes only those that rounding or emptiness had spoilt."""
    q, r = torch.linalg.qr(rows.T)
    signs = torch.where(r.diagonal() < 0, -1.0, 1.0).to(q)
    return (q * signs).T


def _falling(values: Tensor, n_components: int) -> Tensor:
    """Return the largest eigenvalues first; rounding can take an empty one below zero."""
    return values.flip(0)[:n_components].clamp_min(0)


def _signs(components: Tensor) -> Tensor:
    """Return +1 or -1 per row, so that its largest entry in size becomes positive."""
    largest = components.gather(1, components.abs().argmax(1, keepdim=True))[:, 0]
    return torch.where(largest < 0, -1.0, 1.0).to(components)


def _wide(x: Tensor, device: torch.device | None = None) -> Tensor:
    """Return a float64 copy; on the CPU where the device (mps) has no float64."""
    where = device or (torch.device("cpu") if x.device.type == "mps" else x.device)
    return x.to(where).to(torch.float64, copy=True)
