"""Scores of bags by hand, against SciPy, and the report's own definitions beside the right ones."""

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from smidgen.errors import InputError
from smidgen.evaluation.bag_scores import (
    balanced_bags,
    class_count_accuracy,
    class_densities,
    proportion_error,
    report_class_count_accuracy,
    spectral_accuracy,
    ucc_accuracy,
)
from smidgen.maths.divergence import js_divergences

RANDOM = np.random.default_rng(0)


def test_balanced_bags_are_as_many_of_each_count_and_evenly_split():
    classes = np.arange(60) % 4
    rows, offsets, counts = balanced_bags(
        classes, ucc=(1, 4), bag_size=8, n_bags=40, generator=np.random.default_rng(1)
    )
    assert np.bincount(counts).tolist() == [0, 10, 10, 10, 10]
    for a, b, u in zip(offsets[:-1], offsets[1:], counts, strict=True):
        held = np.bincount(classes[rows[a:b]], minlength=4)
        assert b - a == 8
        assert (held > 0).sum() == u
        assert held[held > 0].max() - held[held > 0].min() <= 1


def test_few_images_still_give_bags_of_full_size():
    _, offsets, _ = balanced_bags(
        np.array([0, 1, 1]), ucc=(1, 2), bag_size=10, n_bags=4, generator=np.random.default_rng(1)
    )
    assert np.diff(offsets).tolist() == [10] * 4


def test_accuracies_and_errors_by_hand():
    counts, predicted = np.array([[36, 0, 0], [12, 12, 12]]), np.array([[35.7, -0.3, 0.6], [12.2, 11.4, 12.4]])
    assert ucc_accuracy(np.array([1, 3, 2, 2]), np.array([1, 2, 2, 2])) == 0.75
    assert class_count_accuracy(counts, predicted) == pytest.approx(4 / 6)
    assert report_class_count_accuracy(counts, predicted) == pytest.approx((2 / 36 + 2 / 36) / 2)
    assert proportion_error(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == 1
    assert proportion_error(np.array([[0.6, 0.4], [0.5, 0.5]]), np.array([[0.5, 0.5], [0.5, 0.5]])) == pytest.approx(
        0.05
    )


def test_divergence_of_classes_is_scipy_s_on_densities_from_the_equation():
    features, classes = RANDOM.random((30, 2)), np.arange(30) % 3
    classes[:3] = -1
    points = np.linspace(0, 1, 11)
    found = class_densities(features, classes, n_classes=3, points=points, bandwidth=0.1)
    kernels = np.exp(-((features[:, :, None] - points) ** 2) / 0.02)
    by_hand = np.stack([kernels[classes == k].sum(0) for k in range(3)])
    by_hand /= by_hand.sum(2, keepdims=True)
    np.testing.assert_allclose(found, by_hand, rtol=1e-4, atol=1e-7)
    flat = by_hand.reshape(3, -1) / 2
    expected = jensenshannon(flat[0], flat[2], base=2) ** 2
    assert js_divergences(found)[0, 2] == pytest.approx(expected, rel=1e-3)


def test_spectral_clustering_finds_what_k_means_cannot():
    angles = RANDOM.random(300) * 2 * np.pi
    classes = np.arange(300) % 2
    rings = np.stack([np.cos(angles), np.sin(angles)], 1) * (1 + 3 * classes[:, None])
    assert spectral_accuracy(rings, classes, n_clusters=2) == (1.0, 300)
    assert spectral_accuracy(rings, np.where(classes == 1, -1, 0), n_clusters=2, sample=100)[1] == 100


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"one shape \(bags, classes\)"):
        proportion_error(np.ones((2, 3)), np.ones((2, 2)))
    with pytest.raises(InputError, match="3 clusters were wanted of 2 images"):
        spectral_accuracy(np.ones((2, 2)), np.array([0, 1]), n_clusters=3)


@pytest.mark.parametrize("features", [RANDOM.random((6, 3)), np.ones((6, 3)), np.eye(2)[np.arange(6) % 2]])
def test_few_images_are_clustered_spectrally_up_to_one_cluster_each(features):
    classes = np.arange(6) % 2
    for n in range(2, 7):
        for n_clusters in range(1, n + 1):
            accuracy, scored = spectral_accuracy(features[:n], classes[:n], n_clusters=n_clusters)
            assert scored == n
            assert 1 / n <= accuracy <= 1
        assert spectral_accuracy(features[:n], np.arange(n), n_clusters=n) == (1.0, n)
