"""The weights of members in a product of assignments."""

import pytest
import torch

from smidgen.maths.log_pool import log_pool_weights


@pytest.fixture(scope="module")
def members():
    """Two members, the first right and the second noise, and labels: (2, 300, 4), (300,)."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(300) % 4
    noise = torch.randn(2, 300, 4, generator=generator)
    return torch.stack([noise[0] + 2 * torch.eye(4)[labels], noise[1]]), labels


def test_without_labels_the_weights_are_those_expected():
    start = torch.tensor([0.7, 0.2])
    found = log_pool_weights(torch.zeros(2, 0, 3), torch.zeros(0, dtype=torch.int64), start=start, deviation=0.1)
    torch.testing.assert_close(found, start)


def test_many_labels_win_over_expected_weights(members):
    logits, labels = members
    found = log_pool_weights(logits, labels, start=torch.tensor([0.0, 1.0]), deviation=1.0)
    assert found[0] > 1.5  # logits of Gaussian noise of variance 1 and distance 2: weight 2
    assert found[1] < 0.3


def test_the_smaller_the_deviation_the_nearer_to_the_expected(members):
    logits, labels = members
    start = torch.tensor([0.0, 1.0])
    near, far = (log_pool_weights(logits, labels, start=start, deviation=deviation) for deviation in (0.01, 0.1))
    assert (near - start).norm() < (far - start).norm()


def test_no_weight_is_below_zero(members):
    logits, labels = members
    found = log_pool_weights(-logits[:1], labels, start=torch.tensor([0.5]), deviation=9.0)
    assert found.tolist() == [0]


def test_labels_that_count_twice_are_as_two(members):
    logits, labels = members
    start, counts = torch.tensor([0.5, 0.5]), torch.where(labels == 0, 2.0, 1.0)
    twice = torch.cat([torch.arange(300), (labels == 0).nonzero().flatten()])
    found = log_pool_weights(logits, labels, start=start, deviation=0.5, counts=counts)
    wanted = log_pool_weights(logits[:, twice], labels[twice], start=start, deviation=0.5)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
