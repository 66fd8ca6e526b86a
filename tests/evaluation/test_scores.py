from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from smidgen.errors import InputError
from smidgen.evaluation.scores import (
    CHANCE_ADJUSTED,
    FROM_ZERO_TO_ONE,
    SCORES,
    SYMMETRIC,
    accuracy_interval,
    bootstrap_interval,
    clustering_accuracy,
    confusion_counts,
    named_accuracy,
    per_cluster_table,
    purity,
    score_assignments,
)

CLASSES = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
CLUSTERS = np.array([1, 1, 0, 0, 0, 0, 2, 2, 3, 3])

EXPECTED = {"accuracy": 0.7, "purity": 0.9}
"""By hand: clusters 0, 1, 2 (or 3) match classes 1, 0, 2: 3 + 2 + 2 images; dominant classes hold 3 + 2 + 2 + 2."""


def labels(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    return random.integers(4, size=n), random.integers(6, size=n)


@pytest.mark.parametrize("name", EXPECTED)
def test_hand_computed(name: str) -> None:
    assert SCORES[name](CLASSES, CLUSTERS) == pytest.approx(EXPECTED[name])


def test_information_and_pair_scores_are_scikit_learns() -> None:
    classes, clusters = labels(0)
    assert SCORES["nmi"](classes, clusters) == metrics.normalized_mutual_info_score(classes, clusters)
    assert SCORES["ami"](classes, clusters) == metrics.adjusted_mutual_info_score(classes, clusters)
    assert SCORES["ari"](classes, clusters) == metrics.adjusted_rand_score(classes, clusters)


@pytest.mark.parametrize("name", SCORES)
def test_a_perfect_clustering_scores_one(name: str) -> None:
    assert SCORES[name](CLASSES, 7 - CLASSES) == pytest.approx(1)
    assert SCORES[name](np.zeros(3, int), np.full(3, 4)) == pytest.approx(1)
    assert SCORES[name](np.array([2]), np.array([0])) == pytest.approx(1)


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("seed", range(3))
def test_numbering_and_order_do_not_matter(name: str, seed: int) -> None:
    classes, clusters = labels(seed)
    order = np.random.default_rng(seed).permutation(len(classes))
    renumbered = np.array([3, 9, 0, 1, 5, 2])[clusters]
    expected = SCORES[name](classes, clusters)
    assert SCORES[name](classes[order], renumbered[order]) == pytest.approx(expected)
    assert SCORES[name](np.array([2, 0, 3, 1])[classes], clusters) == pytest.approx(expected)


@pytest.mark.parametrize("name", SCORES)
def test_symmetry_is_as_listed(name: str) -> None:
    same = SCORES[name](CLASSES, CLUSTERS) == pytest.approx(SCORES[name](CLUSTERS, CLASSES))
    assert same == (name in SYMMETRIC)


@pytest.mark.parametrize("name", FROM_ZERO_TO_ONE)
@settings(max_examples=15, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_bounded_scores_stay_between_zero_and_one(name: str, pairs: list[tuple[int, int]]) -> None:
    classes, clusters = np.array(pairs).T
    assert 0 <= SCORES[name](classes, clusters) <= 1 + 1e-12


@pytest.mark.parametrize("name", SCORES)
def test_chance_adjustment_is_as_listed(name: str) -> None:
    mean = np.mean([SCORES[name](*labels(seed)) for seed in range(40)])
    assert (abs(mean) < 0.02) == (name in CHANCE_ADJUSTED)


@pytest.mark.parametrize("name", SCORES)
def test_images_of_unknown_class_are_left_out(name: str) -> None:
    classes = np.concatenate([CLASSES, [-1, -1]])
    clusters = np.concatenate([CLUSTERS, [0, 9]])
    assert SCORES[name](classes, clusters) == SCORES[name](CLASSES, CLUSTERS)


@pytest.mark.parametrize("name", SCORES)
def test_without_known_class_or_with_cluster_minus_one_the_score_is_refused(name: str) -> None:
    for classes in (np.zeros(0, int), np.array([-1, -1])):
        with pytest.raises(InputError, match="none among"):
            SCORES[name](classes, np.zeros_like(classes))
    with pytest.raises(InputError, match="from 0"):
        SCORES[name](np.array([0]), np.array([-1]))
    with pytest.raises(InputError, match="one length"):
        SCORES[name](np.array([0]), np.array([0, 0]))
    with pytest.raises(InputError, match="argmax"):
        SCORES[name](np.array([0]), np.array([0.5]))


@settings(max_examples=15, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_accuracy_is_the_best_over_all_permutations_and_at_most_purity(pairs: list[tuple[int, int]]) -> None:
    classes, clusters = np.array(pairs).T
    best = max((np.array(p)[clusters] == classes).mean() for p in permutations(range(4)))
    assert clustering_accuracy(classes, clusters) == pytest.approx(best)
    assert best <= purity(classes, clusters) + 1e-12


def test_named_accuracy_takes_clusters_by_their_map() -> None:
    classes, clusters = np.array([0, 1, 1, -1]), np.array([1, 0, 2, 0])
    assert named_accuracy(classes, clusters) == 0
    assert named_accuracy(classes, clusters, cluster_map=np.array([1, 0, -1])) == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="cluster 2"):
        named_accuracy(classes, clusters, cluster_map=np.array([1, 0]))


def test_confusion_counts_has_classes_in_rows() -> None:
    counts = confusion_counts(CLASSES, CLUSTERS, n_classes=4, n_clusters=5)
    assert counts.tolist() == [[1, 2, 0, 0, 0], [3, 0, 0, 0, 0], [0, 0, 2, 2, 0], [0, 0, 0, 0, 0]]


def test_flat_scores_hold_each_score_and_an_interval_around_accuracy() -> None:
    classes, clusters = labels(1)
    found = score_assignments(classes, clusters, n_clusters=6)
    assert {name: found[name] for name in SCORES} == {name: score(classes, clusters) for name, score in SCORES.items()}
    assert found["accuracy_low"] < found["accuracy"] < found["accuracy_high"]
    assert all(type(value) is float for value in found.values())
    with pytest.raises(InputError, match="from 0 to 4"):
        score_assignments(classes, clusters, n_clusters=5)


def test_accuracy_interval_covers_the_truth_as_often_as_it_says() -> None:
    random, cluster_map = np.random.default_rng(0), np.array([0, 1])
    covered = []
    for _ in range(200):
        classes = random.integers(2, size=200)
        clusters = np.where(random.random(200) < 0.8, classes, 1 - classes)
        low, high = accuracy_interval(classes, clusters, cluster_map, level=0.9)
        covered.append(low <= 0.8 <= high)
    assert 0.84 < np.mean(covered) < 0.97


def test_the_fast_interval_is_that_of_slow_resampling() -> None:
    random = np.random.default_rng(0)
    classes = random.integers(3, size=500)
    clusters = np.where(random.random(500) < 0.7, classes, (classes + 1) % 3)
    fast = accuracy_interval(classes, clusters, np.arange(3), seed=1)
    slow = bootstrap_interval(named_accuracy, classes, clusters, seed=2)
    np.testing.assert_allclose(fast, slow, atol=0.01)
    assert bootstrap_interval(named_accuracy, classes, clusters, seed=2) == slow


@pytest.mark.parametrize("wrong", [{"n_resamples": 0}, {"level": 1.0}])
def test_bootstrap_refuses_settings_without_meaning(wrong: dict[str, float]) -> None:
    with pytest.raises(InputError, match="n_resamples must be"):
        bootstrap_interval(purity, CLASSES, CLUSTERS, **wrong)


def test_cluster_table_by_hand() -> None:
    confidences = np.linspace(0.1, 1, 10)
    table = per_cluster_table(CLASSES, CLUSTERS, n_clusters=5, confidences=confidences, class_names=("a", "b", "c"))
    assert table["cluster"].tolist() == [0, 1, 2, 3, 4]
    assert table["size"].tolist() == [4, 2, 2, 2, 0]
    assert table["class"].tolist() == ["b", "a", "c", "c", ""]
    np.testing.assert_allclose(table["purity"], [0.75, 1, 1, 1, np.nan])
    np.testing.assert_allclose(table["confidence"], [0.45, 0.15, 0.75, 0.95, np.nan])


def test_cluster_table_without_classes_or_images() -> None:
    assert set(per_cluster_table(None, CLUSTERS, n_clusters=4)) == {"cluster", "size"}
    assert set(per_cluster_table(np.full(10, -1), CLUSTERS, n_clusters=4)) == {"cluster", "size"}
    assert per_cluster_table(np.zeros(0, int), np.zeros(0, int), n_clusters=2)["size"].tolist() == [0, 0]
