"""The mean of several clusterings, whatever their numbers."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from smidgen.maths.consensus import consensus

ONE_HOT = torch.nn.functional.one_hot(torch.arange(12) % 3).float()


@given(st.lists(st.permutations(range(3)), min_size=1, max_size=5))
def test_clusters_are_found_again_whatever_their_order(orders):
    found = consensus([ONE_HOT, *(ONE_HOT[:, list(order)] for order in orders)])
    torch.testing.assert_close(found, ONE_HOT)


def test_a_majority_wins():
    other = ONE_HOT.clone()
    other[0] = torch.tensor([0.0, 1.0, 0.0])
    assert consensus([other, ONE_HOT, ONE_HOT[:, [1, 2, 0]]]).argmax(1).equal(ONE_HOT.argmax(1))
