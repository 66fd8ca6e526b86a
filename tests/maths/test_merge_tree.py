import numpy as np
import pytest

from smidgen.errors import InputError
from smidgen.maths.merge_tree import merge_tree


def points(n_clusters=4, each=60):
    generator = np.random.default_rng(0)
    return np.repeat(20 * np.eye(n_clusters, 6), each, axis=0) + generator.normal(size=(n_clusters * each, 6))


def test_a_cut_into_the_clusters_there_are_finds_them():
    cut = merge_tree(points(), seed=0).cut(4)
    assert all(len(np.unique(cut[60 * k : 60 * (k + 1)])) == 1 for k in range(4))
    assert sorted(np.unique(cut).tolist()) == [0, 1, 2, 3]


def test_cuts_are_nested_and_every_number_is_there():
    tree = merge_tree(points(), seed=0)
    for k in range(1, tree.n_leaves):
        coarse, fine = tree.cut(k), tree.cut(k + 1)
        assert len(np.unique(coarse)) == k
        assert len(np.unique(coarse * 1000 + fine)) == k + 1  # each fine cluster lies in one coarse one


def test_sizes_and_typical_points_are_those_of_the_nodes():
    tree = merge_tree(points(), seed=0)
    for k in (1, 4, tree.n_leaves):
        cut = tree.cut(k)
        for number, node in enumerate(tree.nodes(k)):
            assert tree.sizes[node] == (cut == number).sum()
            assert cut[tree.typical[node]] == number


def test_there_are_a_fifteenth_as_many_leaves_and_600_at_most():
    assert merge_tree(points(), seed=0).n_leaves == 240 // 15
    assert merge_tree(points(), seed=0, least=30).n_leaves == 30
    assert merge_tree(np.random.default_rng(0).normal(size=(9300, 2)), seed=0).n_leaves == 600


def test_heights_never_fall():
    assert (np.diff(merge_tree(points(), seed=0).heights) >= 0).all()


def test_equal_points_fill_fewer_leaves():
    few = np.repeat(np.array([[0.0], [1.0], [5.0]]), 40, axis=0)
    tree = merge_tree(few, seed=0)
    assert tree.n_leaves == 3
    cut = tree.cut(2)
    assert cut.tolist() == [cut[0]] * 80 + [1 - cut[0]] * 40
    with pytest.raises(InputError, match="All images are the same"):
        merge_tree(np.ones((50, 2)), seed=0)
    with pytest.raises(InputError, match="from 1 to 3 clusters, got 4"):
        tree.cut(4)
