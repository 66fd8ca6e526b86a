"""Softmax regression with soft targets and weights: a convex problem, solved to the end."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

from smidgen.errors import InputError


def softmax_regression(
    x: Tensor, targets: Tensor, *, strength: float, weights: Tensor | None = None, iterations: int = 200
) -> tuple[Tensor, Tensor]:
    """Return the weight (classes, features) and bias (classes,), float32, of the layer that predicts targets from x.

    x: (rows, features). targets: (rows, classes), each row a distribution.
    strength: C of scikit-learn's `LogisticRegression`, above 0: the larger, the less the weights are held back.
    weights: (rows,), 0 or above, of the rows; None for 1 each. iterations: of L-BFGS, at most.

    Minimises Σ_i w_i CE(t_i, softmax(W x_i + b)) + |W|² / 2C; the bias is free, of mean 0. In float64 on the CPU.
    Raises InputError for a strength that is not above 0.

    >>> x = torch.tensor([[-1.0], [1.0]])
    >>> weight, bias = softmax_regression(x, torch.eye(2), strength=1.0)
    >>> (x @ weight.T + bias).argmax(1).tolist()
    [0, 1]
    """
    if not strength > 0:
        raise InputError(f"`strength` must be above 0, got {strength}.")
    rows = torch.cat([x, torch.ones_like(x[:, :1])], dim=1).double().cpu()
    wanted, held = targets.double().cpu(), torch.ones(rows.shape[1], 1, dtype=torch.float64)
    held[-1] = 0  # the bias
    each = torch.ones(len(rows), 1, dtype=torch.float64) if weights is None else weights.double().cpu()[:, None]
    scale = 1 / float(each.sum()) if len(rows) else 1.0  # L-BFGS stops by the size of the gradient

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        layer = torch.from_numpy(flat).view(rows.shape[1], -1)
        log_p = (rows @ layer).log_softmax(1)
        loss = -(each * wanted * log_p).sum() + (held * layer).square().sum() / (2 * strength)
        gradient = rows.T @ (each * (log_p.exp() - wanted)) + held * layer / strength
        return float(loss) * scale, (gradient * scale).flatten().numpy()

    start = np.zeros(rows.shape[1] * wanted.shape[1])
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options={"maxiter": iterations, "gtol": 1e-6})
    layer = torch.from_numpy(found.x).view(rows.shape[1], -1)
    bias = layer[-1] - layer[-1].mean()
    return layer[:-1].T.float().contiguous().to(x.device), bias.float().to(x.device)
