import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.maths.bag_posteriors import labels_given_counts, labels_given_proportions
from smidgen.maths.counts import cluster_subsets, n_subsets


def some_p(images, clusters, seed):
    return torch.randn(images, clusters, generator=torch.Generator().manual_seed(seed)).mul(2).softmax(1)


@pytest.mark.parametrize(("n_clusters", "most"), [(1, 1), (4, 2), (10, 4), (6, 6)])
def test_every_set_of_clusters_is_there_once(n_clusters, most):
    table = cluster_subsets(n_clusters, most).T
    assert len(table) == n_subsets(n_clusters, max_count=most) == len({tuple(row) for row in table.tolist()})
    assert set(table.sum(1).tolist()) == set(range(1, most + 1))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999), least=st.integers(1, 3), more=st.integers(0, 2), leak=st.floats(0.01, 0.5))
def test_labels_given_counts_are_the_sum_over_all_sets_written_out(seed, least, more, leak):
    p, most = some_p(5, 4, seed), least + more
    most = min(most, 4)
    wanted, total = torch.zeros(5, 4), 0.0
    for size in range(least, most + 1):
        for chosen in itertools.combinations(range(4), size):
            inside = p[:, chosen].sum(1)
            weight = float(((1 - leak) * inside + leak).prod()) / math.comb(4, size)
            total += weight
            for k in chosen:
                wanted[:, k] += weight * p[:, k] / inside
    found = labels_given_counts(
        p,
        torch.tensor([0, 5]),
        torch.tensor([least]),
        torch.tensor([most]),
        sets=cluster_subsets(4, 4).float(),
        leak=leak,
    )
    torch.testing.assert_close(found, wanted / total, atol=1e-5, rtol=1e-4)


def test_one_mistaken_image_does_not_decide_what_a_pure_bag_holds():
    p = torch.tensor([[0.6, 0.4]] * 9 + [[1e-6, 1 - 1e-6]])
    one = torch.tensor([1])
    q = labels_given_counts(p, torch.tensor([0, 10]), one, one, sets=cluster_subsets(2, 1).float(), leak=0.1)
    assert (q[:, 0] > 0.6).all()


def test_bags_of_other_sizes_do_not_touch_each_other():
    p, sets = some_p(7, 3, 0), cluster_subsets(3, 2).float()
    counts = torch.tensor([1, 2])
    both = labels_given_counts(p, torch.tensor([0, 2, 7]), counts, counts, sets=sets)
    alone = labels_given_counts(p[2:], torch.tensor([0, 5]), counts[1:], counts[1:], sets=sets)
    torch.testing.assert_close(both[2:], alone)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 999))
def test_labels_given_proportions_have_those_shares(seed):
    p, offsets = some_p(9, 3, seed), torch.tensor([0, 4, 9])
    shares = torch.tensor([[0.5, 0.25, 0.25], [0.2, 0.8, 0.0]])
    q = labels_given_proportions(p, offsets, shares, iterations=200)
    torch.testing.assert_close(q.sum(1), torch.ones(9))
    for bag, (start, stop) in enumerate([(0, 4), (4, 9)]):
        torch.testing.assert_close(q[start:stop].mean(0), shares[bag], atol=2e-2, rtol=0)


def test_shares_that_assignments_have_already_change_nothing():
    p = torch.tensor([[0.7, 0.3], [0.3, 0.7]])
    torch.testing.assert_close(labels_given_proportions(p, torch.tensor([0, 2]), torch.tensor([[0.5, 0.5]])), p)


def test_no_iteration_is_refused():
    with pytest.raises(InputError, match="iterations"):
        labels_given_proportions(some_p(2, 2, 0), torch.tensor([0, 2]), torch.ones(1, 2) / 2, iterations=0)
