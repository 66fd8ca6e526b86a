"""Several classifiers as one: the weights of a product of their assignments, from held-out labels."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor


def log_pool_weights(
    logits: Tensor, labels: Tensor, *, start: Tensor, deviation: float, counts: Tensor | None = None
) -> Tensor:
    """Return the weights, (members,), 0 or above, of p_k ∝ exp Σ_m w_m logits_mk that predict the labels best.

    logits: (members, labels, classes), by members that have not seen these labels. labels: (labels,) int64.
    start: (members,), the weights expected before, each with standard deviation `deviation`, above 0: with no labels
        they are the result, with many they do not matter. counts: (labels,), how often each label counts; None for 1.

    The posterior mode; a convex problem. A logarithmic opinion pool as in Genest and Zidek (Statistical Science 1986).

    >>> right, wrong = 3 * torch.eye(2), 3 * torch.eye(2).flip(1)
    >>> weights = log_pool_weights(
    ...     torch.stack([right, wrong]), torch.tensor([0, 1]), start=torch.tensor([0.5, 0.5]), deviation=1.0
    ... )
    >>> bool(weights[0] > 0.5 > weights[1])
    True
    """
    z, begun = logits.double().cpu(), start.double().cpu()
    each = torch.ones(len(labels), dtype=torch.float64) if counts is None else counts.double().cpu()
    rows, known = torch.arange(len(labels)), labels.cpu()

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights = torch.from_numpy(flat)
        log_p = torch.tensordot(weights, z, 1).log_softmax(1)
        loss = -(each * log_p[rows, known]).sum() + ((weights - begun) / deviation).square().sum() / 2
        surplus = (z * log_p.exp()).sum(2) - z[:, rows, known]
        return float(loss), (surplus @ each + (weights - begun) / deviation**2).numpy()

    bounds = [(0.0, None)] * len(begun)
    return torch.from_numpy(minimize(objective, begun.numpy(), jac=True, method="L-BFGS-B", bounds=bounds).x).float()
