"""Uniting groups of neighbours: against a slow loop, clusters of unequal sizes, the normalised cut."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans

from smidgen.errors import InputError
from smidgen.maths.agglomeration import association, neighbour_flow, united
from smidgen.maths.neighbours import nearest_neighbours


def random_flow(n, seed=0):
    flow = torch.rand(n, n, generator=torch.Generator().manual_seed(seed))
    return flow + flow.T


@pytest.mark.parametrize("n_clusters", [1, 3, 7, 8])
def test_it_unites_the_pair_that_is_nearest_to_the_smaller_one(n_clusters):
    flow = random_flow(8)
    groups = [{k} for k in range(8)]
    while len(groups) > n_clusters:
        sums = [[float(flow[sorted(a)][:, sorted(b)].sum()) for b in groups] for a in groups]
        size = [sum(row) for row in sums]
        pairs = [(a, b) for a in range(len(groups)) for b in range(a)]
        a, b = max(pairs, key=lambda pair: sums[pair[0]][pair[1]] / min(size[pair[0]], size[pair[1]]))
        groups[b] |= groups.pop(a)
    found = united(flow, n_clusters)
    assert {frozenset((found == k).nonzero().flatten().tolist()) for k in range(n_clusters)} == set(
        map(frozenset, groups)
    )


@pytest.mark.parametrize("n_clusters", [0, 5])
def test_more_clusters_than_groups_or_none_are_refused(n_clusters):
    with pytest.raises(InputError, match="from 1 to the 4 groups"):
        united(random_flow(4), n_clusters)


def test_flow_counts_the_groups_of_neighbours():
    p, neighbours = torch.eye(3)[[0, 0, 1, 2]], torch.tensor([[1, 2], [0, 2], [0, 3], [2, 2]])
    slow = np.zeros((3, 3))
    for image, row in enumerate(neighbours.tolist()):
        for other in row:
            slow[int(p[image].argmax()), int(p[other].argmax())] += 1 / 8
    np.testing.assert_allclose(neighbour_flow(p, neighbours).numpy(), (slow + slow.T) / 2, atol=1e-6)
    assert association(neighbour_flow(p, neighbours)) < 1
    assert association(torch.diag(torch.tensor([5.0, 1.0]))) == 1
    assert association(torch.zeros(2, 2)) == 0


def test_small_groups_of_equal_size_become_classes_of_unequal_size():
    generator = np.random.default_rng(0)
    classes = np.repeat(np.arange(4), [400, 120, 60, 30])
    x = 6 * np.eye(4)[classes] + generator.normal(size=(610, 4))
    groups = KMeans(20, n_init=3, random_state=0).fit_predict(x)
    near = nearest_neighbours(torch.from_numpy(x).float(), 10)[0]
    flow = neighbour_flow(torch.eye(20)[torch.from_numpy(groups).long()], near)
    found = united(flow, 4)[torch.from_numpy(groups).long()].numpy()
    sizes = sorted(np.bincount(found, minlength=4))
    np.testing.assert_allclose(sizes, [30, 60, 120, 400], atol=6)
