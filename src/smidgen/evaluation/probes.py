"""Probes: how well a simple supervised classifier does on frozen embeddings, a measure of what they hold."""

from __future__ import annotations

import numpy as np
import torch

from smidgen.errors import InputError
from smidgen.maths.neighbours import nearest_neighbours


def knn_probe(
    train_embeddings: np.ndarray,
    train_classes: np.ndarray,
    test_embeddings: np.ndarray,
    test_classes: np.ndarray,
    *,
    n_neighbours: int = 10,
    temperature: float = 0.1,
) -> float:
    """Return the accuracy in [0, 1] of weighted k-nearest neighbours by cosine similarity.

    Each neighbour votes for its class with weight exp(similarity / temperature). Embeddings (images, features), finite;
    classes (images,) integers, -1 (unknown) left out. Source: Wu et al., CVPR 2018; SeLa (section 4) uses 10
    neighbours at temperature .1, and 50 at .5. Raises InputError without known classes or with fewer training images
    than neighbours.

    >>> x, y = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), np.array([0, 0, 1, 1])
    >>> knn_probe(x, y, np.array([[2.0, 0.1]]), np.array([0]), n_neighbours=2)
    1.0
    """
    if not temperature > 0:
        raise InputError(f"temperature must be above 0, got {temperature}.")
    x, y = _known(train_embeddings, train_classes, what="training")
    queries, wanted = _known(test_embeddings, test_classes, what="test")
    points, asked = torch.from_numpy(x), torch.from_numpy(queries)
    indices, distances = nearest_neighbours(points, n_neighbours, queries=asked, metric="cosine")
    # exp(-distance / t) is exp(similarity / t) but for a constant factor, and cannot overflow.
    votes = torch.zeros(len(queries), int(y.max()) + 1)
    votes.scatter_add_(1, torch.from_numpy(y)[indices], (-distances / temperature).exp())
    return float((votes.argmax(1).numpy() == wanted).mean())


def linear_probe(
    train_embeddings: np.ndarray,
    train_classes: np.ndarray,
    test_embeddings: np.ndarray,
    test_classes: np.ndarray,
    *,
    inverse_penalty: float = 1.0,
    max_iterations: int = 1000,
) -> float:
    """Return the accuracy in [0, 1] of scikit-learn's logistic regression on standardised embeddings.

    Embeddings (images, features), finite; classes (images,) integers, -1 (unknown) left out. inverse_penalty: `C` of
    `LogisticRegression`. Raises InputError without known classes, or with one class in training.

    >>> x, y = np.array([[0.0], [0.2], [1.0], [1.2]]), np.array([0, 0, 1, 1])
    >>> linear_probe(x, y, np.array([[-1.0], [2.0]]), np.array([0, 1]))
    1.0
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = _known(train_embeddings, train_classes, what="training")
    queries, wanted = _known(test_embeddings, test_classes, what="test")
    if (y == y[0]).all():
        raise InputError(f"A linear probe needs two classes or more, got class {y[0]} only; give more labelled images.")
    model = make_pipeline(StandardScaler(), LogisticRegression(C=inverse_penalty, max_iter=max_iterations))
    return float(model.fit(x, y).score(queries, wanted))


def _known(embeddings: np.ndarray, classes: np.ndarray, *, what: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the float32 embeddings and int64 classes of the images of known class."""
    embeddings, classes = np.asarray(embeddings, dtype=np.float32), np.asarray(classes, dtype=np.int64)
    if embeddings.ndim != 2 or len(embeddings) != len(classes):
        raise InputError(
            f"{what} embeddings must be a matrix with one row per class label, got shape {embeddings.shape} and"
            f" {len(classes)} labels."
        )
    known = classes >= 0
    if not known.any() or not np.isfinite(embeddings[known]).all():
        raise InputError(f"{what} images must have finite embeddings and some known classes; check the embeddings.")
    return embeddings[known], classes[known]
