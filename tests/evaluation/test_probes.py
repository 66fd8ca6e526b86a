from collections.abc import Callable

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from smidgen.errors import InputError
from smidgen.evaluation.probes import knn_probe, linear_probe

PROBES = (knn_probe, linear_probe)


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return x[:600], y[:600], x[600:800], y[600:800]


def test_knn_probe_is_scikit_learns_with_exponential_weights() -> None:
    x, y, queries, wanted = digits()
    theirs = KNeighborsClassifier(10, metric="cosine", algorithm="brute", weights=lambda d: np.exp(-d / 0.1))
    assert knn_probe(x, y, queries, wanted) == pytest.approx(theirs.fit(x, y).score(queries, wanted))


def test_a_cold_vote_is_the_nearest_neighbours_and_a_hot_one_the_majoritys() -> None:
    x = np.array([[1.0, 0.0], [0.9, 0.3], [0.9, -0.3]])
    y, query = np.array([0, 1, 1]), np.array([[1.0, 0.05]])
    assert knn_probe(x, y, query, np.array([0]), n_neighbours=3, temperature=1e-3) == 1
    assert knn_probe(x, y, query, np.array([1]), n_neighbours=3, temperature=1e3) == 1


def test_probes_read_digits() -> None:
    assert knn_probe(*digits()) > 0.9
    assert linear_probe(*digits()) > 0.85


@pytest.mark.parametrize("probe", PROBES)
def test_images_of_unknown_class_are_left_out(probe: Callable[..., float]) -> None:
    x, y, queries, wanted = digits()
    more = np.concatenate([x, np.full((5, x.shape[1]), np.nan)])
    assert probe(more, np.concatenate([y, [-1] * 5]), queries, wanted) == probe(x, y, queries, wanted)


@pytest.mark.parametrize("probe", PROBES)
def test_unusable_input_is_refused(probe: Callable[..., float]) -> None:
    x, y, queries, wanted = digits()
    with pytest.raises(InputError, match="training images"):
        probe(x, np.full_like(y, -1), queries, wanted)
    with pytest.raises(InputError, match="test images"):
        probe(x, y, queries * np.nan, wanted)
    with pytest.raises(InputError, match="one row per"):
        probe(x, y[:-1], queries, wanted)


def test_each_probe_refuses_what_it_cannot_do() -> None:
    x, y, queries, wanted = digits()
    with pytest.raises(InputError, match="two classes"):
        linear_probe(x, np.zeros_like(y), queries, wanted)
    with pytest.raises(InputError, match="temperature"):
        knn_probe(x, y, queries, wanted, temperature=0)
    with pytest.raises(InputError, match="fewer neighbours"):
        knn_probe(x[:5], y[:5], queries, wanted)
