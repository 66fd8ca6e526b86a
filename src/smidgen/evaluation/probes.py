"""Probes: how well a simple supervised classifier does on frozen features, a measure of what they hold.

All take features (images, features), finite, and classes (images,), integers, -1 (unknown) left out; all return the
accuracy in [0, 1] on the test images, and raise InputError without known classes or where there are too few images.
Features may be arrays or tensors, also in half precision: they are computed with in float32, block by block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.errors import InputError

KNN_SETTINGS = ((10, 0.1), (50, 0.5))
"""Numbers of neighbours and temperatures of the published probes (Asano et al., ICLR 2020)."""

_EPOCHS, _LEAST_STEPS = 20, 800  # of a linear probe
_BLOCK = 1024  # images whose features are float32 at once
_ROUNDED = 1e-5  # deviations up to this share of the mean are rounding


def knn_probe(
    train_features: np.ndarray | Tensor,
    train_classes: np.ndarray,
    test_features: np.ndarray | Tensor,
    test_classes: np.ndarray,
    *,
    n_neighbours: int = 10,
    temperature: float = 0.1,
    device: torch.device | str = "cpu",
) -> float:
    """Return the accuracy of weighted k-nearest neighbours by cosine similarity.

    Each neighbour votes for its class with weight exp(similarity / temperature). Source: Wu et al., CVPR 2018.

    >>> x, y = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), np.array([0, 0, 1, 1])
    >>> knn_probe(x, y, np.array([[2.0, 0.1]]), np.array([0]), n_neighbours=2)
    1.0
    """
    settings = ((n_neighbours, temperature),)
    return knn_probes(train_features, train_classes, test_features, test_classes, settings=settings, device=device)[0]


def knn_probes(
    train_features: np.ndarray | Tensor,
    train_classes: np.ndarray,
    test_features: np.ndarray | Tensor,
    test_classes: np.ndarray,
    *,
    settings: Sequence[tuple[int, float]] = KNN_SETTINGS,
    device: torch.device | str = "cpu",
) -> list[float]:
    """Return the accuracies of `knn_probe` for several (neighbours, temperature), by one search."""
    x, y = _known(train_features, train_classes, what="training")
    queries, wanted = _known(test_features, test_classes, what="test")
    for n_neighbours, temperature in settings:
        _check_knn(n_neighbours, temperature, n_images=len(x))
    right = torch.zeros(len(settings))
    for rows in torch.arange(len(queries)).split(_BLOCK):
        similarities, neighbours = _most_similar(queries[rows], x, max(k for k, _ in settings), device=device)
        for i, (k, temperature) in enumerate(settings):
            # The nearest has weight 1: nothing overflows, and the winner is the same.
            weights = ((similarities[:, :k] - similarities[:, :1]) / temperature).exp()
            votes = torch.zeros(len(rows), int(y.max()) + 1).scatter_add_(1, y[neighbours[:, :k]], weights)
            right[i] += (votes.argmax(1) == wanted[rows]).sum()
    return [float(n) / len(queries) for n in right]


def _check_knn(n_neighbours: int, temperature: float, *, n_images: int) -> None:
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}.")
    if not 1 <= n_neighbours <= n_images:
        raise InputError(
            f"n_neighbours must be from 1 to the number of training images of known class ({n_images}), got"
            f" {n_neighbours}; ask for fewer neighbours or give more images."
        )


def _most_similar(queries: Tensor, points: Tensor, n: int, *, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return cosines (queries, n), the largest first, and which points they are to, on the CPU."""
    queries = F.normalize(queries.to(device).float())
    best, rows = queries.new_empty(len(queries), 0), torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    for start in range(0, len(points), _BLOCK):
        block = F.normalize(points[start : start + _BLOCK].to(device).float())
        numbers = torch.arange(start, start + len(block), device=device).expand(len(queries), -1)
        best, rows = torch.cat([best, queries @ block.T], 1), torch.cat([rows, numbers], 1)
        best, order = best.topk(min(n, best.shape[1]), dim=1)
        rows = rows.gather(1, order)
    return best.cpu(), rows.cpu()


def linear_probe(
    train_features: np.ndarray | Tensor,
    train_classes: np.ndarray,
    test_features: np.ndarray | Tensor,
    test_classes: np.ndarray,
    *,
    epochs: int | None = None,
    batch_size: int = 256,
    learning_rate: float | None = None,
    weight_decay: float = 5e-4,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> float:
    """Return the accuracy of batch norm without affine and a linear layer, trained by SGD.

    Batch norm has the statistics of all training images. The layer starts at zero; SGD with Nesterov's momentum of .9,
    the learning rate falling to zero as a cosine. epochs: None is 20, or as many as make 800 steps. learning_rate: None
    is 10 / features, at most .1: the curvature of the loss grows with the number of standardised features. Source: the
    probes after each stage of Zhang et al. (CVPR 2017) and Asano et al. (ICLR 2020), who have many more images.

    >>> x, y = np.array([[0.0], [0.2], [1.0], [1.2]]), np.array([0, 0, 1, 1])
    >>> linear_probe(x, y, np.array([[-1.0], [2.0]]), np.array([0, 1]))
    1.0
    """
    x, y = _known(train_features, train_classes, what="training")
    queries, wanted = _known(test_features, test_classes, what="test")
    _require_two(y)
    norm = _Standardised(x, device=device)
    steps, generator = -(-len(x) // batch_size), torch.Generator().manual_seed(seed)  # of an epoch
    epochs = max(_EPOCHS, -(-_LEAST_STEPS // steps)) if epochs is None else epochs
    layer = torch.nn.Linear(x.shape[1], int(y.max()) + 1, device=device)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
    rate = min(10 / x.shape[1], 0.1) if learning_rate is None else learning_rate
    sgd = torch.optim.SGD(layer.parameters(), lr=rate, momentum=0.9, nesterov=True, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        sgd, lambda step: (1 + math.cos(math.pi * step / (epochs * steps))) / 2
    )
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            loss = F.cross_entropy(layer(norm(x[rows])), y[rows].to(device))
            sgd.zero_grad()
            loss.backward()
            sgd.step()
            schedule.step()
    with torch.no_grad():
        found = torch.cat([layer(norm(block)).argmax(1).cpu() for block in queries.split(_BLOCK)])
    return float((found == wanted).float().mean())


class _Standardised:
    """Features on a device in float32, each with mean 0 and deviation 1 over the training images."""

    def __init__(self, features: Tensor, *, device: torch.device | str) -> None:
        self.device, n, blocks = device, len(features), features.split(_BLOCK)
        self.mean = torch.stack([block.to(device).float().sum(0) for block in blocks]).sum(0) / n
        squares = torch.stack([self._centred(block).square().sum(0) for block in blocks]).sum(0)
        std = (squares / n).sqrt()
        self.std = torch.where(std > _ROUNDED * self.mean.abs(), std, 1.0)

    def _centred(self, features: Tensor) -> Tensor:
        return features.to(self.device).float() - self.mean

    def __call__(self, features: Tensor) -> Tensor:
        return self._centred(features) / self.std


def logistic_probe(
    train_features: np.ndarray | Tensor,
    train_classes: np.ndarray,
    test_features: np.ndarray | Tensor,
    test_classes: np.ndarray,
    *,
    inverse_penalty: float = 1.0,
    max_iterations: int = 1000,
) -> float:
    """Return the accuracy of scikit-learn's logistic regression on standardised features, for up to some hundreds.

    inverse_penalty: `C` of `LogisticRegression`.

    >>> x, y = np.array([[0.0], [0.2], [1.0], [1.2]]), np.array([0, 0, 1, 1])
    >>> logistic_probe(x, y, np.array([[-1.0], [2.0]]), np.array([0, 1]))
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _known(train_features, train_classes, what="training")
    queries, wanted = _known(test_features, test_classes, what="test")
    _require_two(y)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=max_iterations))
    return float(model.fit(x.float().numpy(), y.numpy()).score(queries.float().numpy(), wanted.numpy()))


def _require_two(classes: Tensor) -> None:
    if bool((classes == classes[0]).all()):
        raise InputError(
            f"A linear probe needs two classes or more, got class {int(classes[0])} only; give more labelled images."
        )


def _known(features: np.ndarray | Tensor, classes: np.ndarray, *, what: str) -> tuple[Tensor, Tensor]:
    """Return the features and int64 classes of the images of known class; arrays become float32."""
    if not isinstance(features, Tensor):
        features = torch.from_numpy(np.asarray(features, dtype=np.float32))
    labels = torch.from_numpy(np.asarray(classes, dtype=np.int64))
    if features.ndim != 2 or len(features) != len(labels):
        raise InputError(
            f"{what} features must be a matrix with one row per class label, got shape {tuple(features.shape)} and"
            f" {len(labels)} labels."
        )
    known = labels >= 0
    if not bool(known.all()):
        features, labels = features[known], labels[known]
    if not len(labels) or not all(bool(block.isfinite().all()) for block in features.split(_BLOCK)):
        raise InputError(f"{what} images must have finite features and some known classes; check the features.")
    return features, labels
