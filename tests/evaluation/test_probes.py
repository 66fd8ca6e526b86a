from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from smidgen.errors import InputError
from smidgen.evaluation.probes import KNN_SETTINGS, knn_probe, knn_probes, linear_probe, logistic_probe

PROBES = (knn_probe, linear_probe, logistic_probe)


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
    assert logistic_probe(*digits()) > 0.85


def slow_vote(x: np.ndarray, y: np.ndarray, query: np.ndarray, k: int, temperature: float) -> int:
    cosine = [float(row @ query / np.linalg.norm(row) / np.linalg.norm(query)) for row in x]
    votes = [0.0] * 10
    for i in sorted(range(len(x)), key=lambda i: -cosine[i])[:k]:
        votes[y[i]] += np.exp(cosine[i] / temperature)
    return int(np.argmax(votes))


def test_the_votes_are_those_of_a_slow_loop() -> None:
    x, y, queries, wanted = digits()
    queries, wanted = queries[:40], wanted[:40]
    slow = [np.mean([slow_vote(x, y, q, *each) == c for q, c in zip(queries, wanted, strict=True)])
            for each in KNN_SETTINGS]  # fmt: skip
    assert knn_probes(x, y, queries, wanted) == pytest.approx(slow)


def test_neighbours_are_found_across_blocks() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(2500, 5))  # more than two blocks
    y = np.arange(2500) % 7
    assert knn_probe(x, y, 3 * x, y, n_neighbours=1) == 1


@pytest.mark.parametrize("probe", PROBES)
def test_half_precision_tensors_do_as_well(probe: Callable[..., float]) -> None:
    x, y, queries, wanted = digits()
    halves = torch.from_numpy(x).half(), y, torch.from_numpy(queries).half(), wanted
    assert probe(*halves) == pytest.approx(probe(x, y, queries, wanted), abs=0.011)


def test_a_linear_probe_separates_what_is_separable_in_any_scale_and_place() -> None:
    random = np.random.default_rng(0)
    y = np.arange(400) % 4
    x = np.concatenate([np.eye(4)[y] + 0.05 * random.normal(size=(400, 4)), random.normal(size=(400, 20))], axis=1)
    x = np.concatenate([1e-3 * x + 5, np.full((400, 1), 7.0)], axis=1)  # small, far from zero, and a constant
    assert linear_probe(x[:200], y[:200], x[200:], y[200:]) == 1.0
    again = linear_probe(x[:200], y[:200], x[200:], y[200:], epochs=1, seed=3)
    assert again == linear_probe(x[:200], y[:200], x[200:], y[200:], epochs=1, seed=3)


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
    for probe in (linear_probe, logistic_probe):
        with pytest.raises(InputError, match="two classes"):
            probe(x, np.zeros_like(y), queries, wanted)
    with pytest.raises(InputError, match="temperature"):
        knn_probe(x, y, queries, wanted, temperature=0)
    with pytest.raises(InputError, match="fewer neighbours"):
        knn_probe(x[:5], y[:5], queries, wanted)
