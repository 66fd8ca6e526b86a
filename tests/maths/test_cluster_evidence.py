import numpy as np

from smidgen.maths.cluster_evidence import (
    count_agreement,
    cuts_of_all,
    group_silhouettes,
    label_agreement,
    pair_agreement,
)

CUTS = np.array([[0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 2, 2], [0, 1, 2, 3, 4, 5]])


def test_labels_agree_best_with_the_cut_into_their_classes():
    np.testing.assert_allclose(label_agreement(np.array([5, 5, 7, 7, 8, 8]), CUTS), [1 / 3, 1, 1 / 2])


def test_pairs_of_both_kinds_weigh_alike():
    pairs, same = np.array([[0, 1], [0, 2], [0, 4], [2, 4]]), np.array([True, False, False, False])
    np.testing.assert_allclose(pair_agreement(pairs, same, CUTS), [0.5, 1, 0.5])
    np.testing.assert_allclose(pair_agreement(pairs[:1], same[:1], CUTS), [1, 1, 0])


def test_counts_are_explained_by_the_cut_that_tells_bags_apart():
    bags = [np.array([0, 1]), np.array([0, 2]), np.array([2, 3]), np.array([2, 4])]
    np.testing.assert_allclose(count_agreement(bags, np.array([1, 2, 1, 2]), CUTS), [0, 1, 0], atol=1e-9)


def test_means_of_groups_say_how_many_classes_there_are():
    generator = np.random.default_rng(0)
    means = np.repeat(np.eye(5, 8) * 3, 8, axis=0) + 0.1 * generator.normal(size=(40, 8))
    numbers = [2, 3, 4, 5, 6, 8, 13, 100]
    found = group_silhouettes(means, numbers)
    assert numbers[found.argmax()] == 5
    assert found[-1] == found[-2]  # beyond a third of the groups it says no more


def test_all_points_get_the_clusters_of_a_sample_s_tree():
    points = np.repeat(20 * np.eye(3, 12), 30, axis=0) + np.random.default_rng(0).normal(size=(90, 12))
    for cuts in cuts_of_all(points, points[::2], [2, 3], seed=0):
        assert cuts.shape == (2, 90)
        assert sorted(np.bincount(cuts[1]).tolist()) == [30, 30, 30]
