"""The heads that vote: their loss, the temperature, which are kept, how they come to speak of the same clusters."""

import math

import pytest
import torch

from smidgen.methods.voting_heads import VotingHeads, swapped_loss, updated_temperature


def test_heads_that_say_nothing_lose_the_logarithm_of_the_clusters():
    nothing = torch.zeros(6, 3, 4)
    torch.testing.assert_close(swapped_loss(nothing, nothing, temperature=0.5), torch.full((3,), math.log(4)))


def test_sure_heads_that_agree_lose_nothing_and_that_disagree_much():
    sure = 30 * torch.eye(4)[torch.arange(8) % 4][:, None]
    assert swapped_loss(sure, sure, temperature=0.5) < 1e-3
    assert swapped_loss(sure, sure.roll(1, 0), temperature=0.5) > 10


def test_the_loss_is_the_same_from_either_side():
    first, second = torch.randn(2, 16, 2, 3, generator=torch.Generator().manual_seed(0))
    both = swapped_loss(first, second, temperature=0.7), swapped_loss(second, first, temperature=0.7)
    torch.testing.assert_close(*both)


def test_the_temperature_rises_while_heads_are_too_sure_and_never_above_one():
    at = torch.tensor(0.9)
    assert updated_temperature(at, torch.tensor(0.5), softness=0.7, gain=0.02) == pytest.approx(0.904)
    assert updated_temperature(at, torch.tensor(0.9), softness=0.7, gain=0.02) == pytest.approx(0.896)
    assert updated_temperature(at, torch.tensor(0.0), softness=1.0, gain=9.0) == 1


@pytest.fixture
def heads():
    """Three heads on three features, each of which is a cluster; the last two heads have turned them by one."""
    made = VotingHeads(3, 3, heads=3, kept=2, votes=2)
    eye = torch.eye(3)
    with torch.no_grad():
        made.linear.weight.copy_(4 * torch.cat([eye, eye.roll(1, 0), eye.roll(1, 0)]))
        made.linear.bias.zero_()
    return made


def test_the_heads_of_least_loss_are_kept(heads):
    heads.running_loss = torch.tensor([0.3, 0.9, 0.1])
    heads.keep_best()
    assert heads.kept.tolist() == [2, 0]


def test_voters_come_to_speak_of_the_same_clusters(heads):
    heads.scores = torch.tensor([0.2, 0.1, 0.3])
    features = torch.eye(3).repeat(5, 1)
    heads.align_heads(features)
    assert heads.voters.tolist() == [1, 0]
    votes = heads.ensemble(features)
    assert votes.argmax(1).tolist() == [1, 2, 0] * 5  # as the best of them has it
    assert votes.amax(1).min() > 0.9
    weight, bias = heads.as_layer()
    torch.testing.assert_close((features @ weight.T + bias).softmax(1), votes)


def test_clusters_are_put_into_the_order_of_the_classes(heads):
    features = torch.eye(3)
    heads.align_heads(features)
    evidence = heads.ensemble(features).T.double()  # the image of class k is image k
    heads.match_to_classes(evidence)
    assert heads.ensemble(features).argmax(1).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("neighbours", "agreement"), [([[1], [0], [3], [2]], 1.0), ([[2], [1], [0], [3]], 0.5)])
def test_votes_are_made_as_sure_as_neighbours_agree(heads, neighbours, agreement):
    features = torch.eye(3)[[0, 0, 1, 1]]
    heads.align_heads(features)
    heads.calibrate(features, torch.tensor(neighbours))
    assert heads.ensemble(features).amax(1).mean().item() == pytest.approx(agreement, abs=0.02)


def test_only_losses_that_count_are_scored(heads):
    images = torch.eye(3)
    options = {"step": 0, "kept_only": True, "softness": 0.7, "gain": 0.02}
    heads.losses(images, images, scored=False, **options)
    assert (heads.scores == 0).all()
    losses = heads.losses(images, images, scored=True, **options)
    assert losses.shape == (2,)
    assert heads.scores[heads.kept].equal(losses.detach())
    assert heads.scores[2] == 0
