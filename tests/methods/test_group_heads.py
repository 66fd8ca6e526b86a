"""Heads of many groups: united by neighbours into clusters of unequal sizes; the best head decides."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from smidgen.evaluation.scores import clustering_accuracy
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.methods.group_heads import HEADS, PER_CLUSTER, GroupHeads, association_of, has_groups

SIZES = (400, 120, 60, 30)
CLASSES = np.repeat(np.arange(4), SIZES)
X = torch.from_numpy(6 * np.eye(4)[CLASSES] + np.random.default_rng(0).normal(size=(610, 4))).float()
NEAR = nearest_neighbours(X, 10)[0]


@pytest.fixture(scope="module")
def heads():
    """Heads whose groups are cells of k-means, of the last head alone; the others' are random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = GroupHeads(4, 4)
    centres = torch.from_numpy(KMeans(PER_CLUSTER * 4, n_init=3, random_state=0).fit(X.numpy()).cluster_centers_)
    with torch.no_grad():
        last = slice((HEADS - 1) * PER_CLUSTER * 4, None)
        made.linear.weight[last] = 4 * centres
        made.linear.bias[last] = -2 * centres.square().sum(1)
    return made


def test_the_groups_of_the_best_head_are_united_to_classes_of_unequal_sizes(heads):
    p = max(heads.united(X, NEAR), key=lambda united: association_of(united, NEAR))
    torch.testing.assert_close(p.sum(1), torch.ones(610))
    assert clustering_accuracy(CLASSES, p.argmax(1).numpy()) > 0.97


def test_classes_of_unequal_sizes_have_a_higher_association_than_equal_clusters():
    classes = torch.eye(4)[torch.from_numpy(CLASSES)]
    parts = KMeans(3, n_init=3, random_state=0).fit_predict(X[:400].numpy())  # the rest is one
    equal = torch.eye(4)[torch.from_numpy(np.concatenate([parts, np.full(210, 3)])).long()]
    assert association_of(classes, NEAR) > association_of(equal, NEAR) + 0.1


@pytest.mark.parametrize(("n_images", "n_clusters", "wanted"), [(500, 10, True), (499, 10, False), (99, 1, False),
                                                                (10**6, 100, True), (10**6, 101, False)])  # fmt: skip
def test_there_are_groups_where_each_has_images_enough(n_images, n_clusters, wanted):
    assert has_groups(n_images=n_images, n_clusters=n_clusters) == wanted
