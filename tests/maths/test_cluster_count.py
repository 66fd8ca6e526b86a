import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import pdist, squareform
from sklearn.metrics import silhouette_score

from smidgen.errors import InputError
from smidgen.maths.cluster_count import Views, numbers_to_try, scored, silhouette, views_of_cuts


def blobs(n_clusters, each=40, *, distance=8.0, seed=0, features=16):
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(n_clusters, features))
    centres *= distance / np.linalg.norm(centres, axis=1, keepdims=True)
    points = np.repeat(centres, each, axis=0) + generator.normal(size=(n_clusters * each, features))
    points -= points.mean(0)
    return points @ np.linalg.svd(points, full_matrices=False)[2].T  # principal components


def curve_of(points, most=20):
    numbers = numbers_to_try(len(points), most=most)
    return scored(views_of_cuts(points, numbers, seed=0), numbers)


@pytest.mark.parametrize("n_clusters", [2, 3, 7, 15])
def test_well_separated_clusters_are_counted(n_clusters):
    curve = curve_of(blobs(n_clusters, distance=12))
    assert curve.best == n_clusters
    assert curve.low <= n_clusters <= curve.high
    assert curve.is_clear


def test_points_without_clusters_are_not_clear_and_their_range_is_wide():
    curve = curve_of(np.random.default_rng(0).normal(size=(300, 16)))
    assert not curve.is_clear
    assert curve.low == 2


def test_clusters_of_unequal_sizes_are_counted():
    points = blobs(4, each=120, distance=14)
    kept = np.concatenate([np.arange(120), np.arange(120, 180), np.arange(240, 270), np.arange(360, 380)])
    assert curve_of(points[kept]).best == 4


def test_the_same_seed_gives_the_same_curve_and_another_one_nearly():
    points, numbers = blobs(5, each=30), [2, 4, 5, 6, 9]
    one, again, other = (scored(views_of_cuts(points, numbers, seed=seed), numbers) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.score, again.score)
    assert one.best == other.best
    assert np.abs(one.score - other.score).max() < 0.15


@given(st.integers(10, 50_000), st.integers(2, 9), st.integers(2, 300))
@settings(max_examples=60, deadline=None)
def test_numbers_rise_from_the_least_to_the_most(n_points, least, most):
    numbers = numbers_to_try(n_points, least=least, most=most)
    assert numbers[0] == least
    assert (np.diff(numbers) > 0).all()
    assert numbers[-1] <= max(least, min(most, n_points))
    assert (numbers[1:] <= np.ceil(numbers[:-1] * 1.1) + 1).all()


def test_a_least_number_is_tried_however_few_points_there_are():
    assert numbers_to_try(30, least=12).tolist() == [12]
    with pytest.raises(InputError, match="The evidence needs at least 31 clusters, and there are only 30 images"):
        numbers_to_try(30, least=31)


def test_too_few_points_are_a_sentence():
    with pytest.raises(InputError, match="for 10 images or more, and there are 9: say how many you want"):
        numbers_to_try(9)


def test_silhouettes_are_scikit_learns():
    points = blobs(4, each=12, distance=4)
    labels = np.random.default_rng(0).integers(0, 5, len(points))
    labels[0] = 5  # a cluster of one
    own = silhouette(squareform(pdist(points)).astype(np.float32), labels)
    assert own == pytest.approx(silhouette_score(points, labels), abs=1e-5)


def test_equal_points_have_no_silhouette():
    assert silhouette(np.zeros((4, 4), dtype=np.float32), np.array([0, 0, 1, 1])) == 0


def test_the_score_is_its_formula_and_evidence_is_added():
    views = Views(*(np.array([[a, b], [a, b]]) for a, b in ((0.5, 0.4), (0.2, 0.1), (0.9, 0.8), (0.6, 0.4))))
    plain = scored(views, [2, 4])
    np.testing.assert_allclose(
        plain.score, [0.5 - 0.2 + 0.2 * (0.9 - 0.3) - 0.03, 0.4 - 0.1 + 0.2 * (0.8 - 0.2) - 0.06]
    )
    np.testing.assert_allclose(plain.error, 0.05)  # both views say the same
    assert (plain.best, plain.low, plain.high) == (2, 2, 4)
    told = scored(views, [2, 4], evidence={"labels": np.array([0.0, 0.3])})
    np.testing.assert_allclose(told.score, [plain.score[0], plain.score[1] + 0.3])
    assert (told.best, told.low, told.high) == (4, 4, 4)
    assert list(told.columns())[-1] == "labels"


def test_views_that_differ_widen_the_range():
    silhouettes = np.array([[0.5, 0.3], [0.1, 0.3]])
    views = Views(silhouettes, np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 2)))
    assert scored(views, [2, 3]).error[1] == pytest.approx(np.hypot(np.std([-0.2, 0.2], ddof=1), 0.05))
