"""How sure assignments are: entropies in nats of rows and of their mean, mutual information, and making them surer."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(p: Tensor, *, dim: int = -1) -> Tensor:
    """Return H(p) = -sum p log p along `dim`, in nats: from 0 (certain) to ln(size) (uniform).

    p: probabilities, summing to one along `dim`; half precision is computed in float32.
    At p = 0 both the value (0) and the gradient (-log of the smallest normal number, 87 in float32) are finite.

    >>> entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    tensor([0.0000, 0.6931])
    """
    return cross_entropy_between(p, p, dim=dim, floor=0.0)


def mean_entropy(p: Tensor) -> Tensor:
    """Return the mean over rows of their entropies, () in nats: how unsure the assignments are, one by one.

    p: (images, clusters), rows sum to one; at least one row.

    >>> float(mean_entropy(torch.eye(2)))
    0.0
    """
    return entropy(p).mean()


def entropy_of_mean(p: Tensor) -> Tensor:
    """Return the entropy of the mean row, () in nats: how evenly the clusters are used, at most ln(clusters).

    p: (images, clusters), rows sum to one; at least one row.

    >>> float(entropy_of_mean(torch.eye(2)))
    0.6931471824645996
    """
    return entropy(p.mean(0))


def mutual_information(p: Tensor, *, balance: float = 1.0) -> Tensor:
    """Return balance x H(mean row) - mean H(row), () in nats: high when rows are certain and clusters evenly used.

    p: (images, clusters), rows sum to one; at least one row.
    balance: the weight of the first term; 1 is the mutual information between image and cluster, in [0, ln clusters].
    Source: Bridle, Heading and MacKay, "Unsupervised classifiers, mutual information and 'phantom targets'", NIPS 1991.

    >>> float(mutual_information(torch.eye(2))), float(mutual_information(torch.full((2, 2), 0.5)))
    (0.6931471824645996, 0.0)
    """
    return balance * entropy_of_mean(p) - mean_entropy(p)


def cross_entropy_between(p: Tensor, q: Tensor, *, dim: int = -1, floor: float = 1e-6) -> Tensor:
    """Return -sum p log max(q, floor) along `dim`, in nats; at least H(p), and H(p) only where q = p.

    p, q: probabilities of one shape. floor: bounds the value by -log floor, so that one confident mistake cannot
    outweigh a batch; 0 means the smallest normal number.

    >>> cross_entropy_between(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    tensor(0.6931)
    """
    p, q = (t.float() if t.dtype in (torch.float16, torch.bfloat16) else t for t in (p, q))
    return (p * -q.clamp_min(max(floor, torch.finfo(q.dtype).tiny)).log()).sum(dim)


def sharpened(p: Tensor, sharpness: float | Tensor) -> Tensor:
    """Return assignments ∝ p^sharpness, (…, clusters), rows sum to one: surer above 1, less sure below.

    >>> sharpened(torch.tensor([0.6, 0.4]), 2.0)
    tensor([0.6923, 0.3077])
    """
    return (p.clamp_min(1e-12).log() * sharpness).softmax(-1)


def sharpness_for(p: Tensor, confidence: float) -> float:
    """Return the sharpness, from .05 to 20, at which the mean largest assignment of `p` (rows, clusters) is as wanted.

    confidence: wanted, in (0, 1). Found by bisection: the mean only rises with the sharpness. Out of reach, the nearer
    end is returned.

    >>> round(sharpness_for(torch.tensor([[0.6, 0.4]]), 0.6923), 2)
    2.0
    """
    low, high = 0.05, 20.0
    for _ in range(25):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if sharpened(p, middle).amax(1).mean() < confidence else (low, middle)
    return low
