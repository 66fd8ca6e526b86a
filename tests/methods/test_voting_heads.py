"""The heads that vote: their loss, the temperature, which are kept, how they come to speak of the same clusters."""

import math

import pytest
import torch

from smidgen.evaluation.scores import clustering_accuracy
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.methods.priors import read_prior
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


def gaussians(ratio, *, n=3000, clusters=10):
    """Return points (n, 16) and classes of overlapping Gaussians, the first `ratio` times as large as the last."""
    generator = torch.Generator().manual_seed(0)
    means = torch.nn.functional.normalize(torch.randn(clusters, 16, generator=generator)) * 3.6
    shares = ratio ** -(torch.arange(clusters) / (clusters - 1))
    classes = torch.arange(clusters).repeat_interleave((n * shares / shares.sum()).round().long())
    x = means[classes] + torch.randn(len(classes), 16, generator=generator)
    x = (x - x.mean(0)) / x.std(0)
    return 4 * torch.nn.functional.normalize(x), classes


def accuracy_of_heads(ratio, prior, *, steps=400):
    """Return the accuracy of heads that are trained, and made surer at the end, as `fusion-embeddings` does."""
    x, classes = gaussians(ratio)
    near = nearest_neighbours(x, 10)[0].long()
    generator, known = torch.Generator().manual_seed(0), read_prior(prior, 10, of="clusters")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        heads = VotingHeads(16, 10, heads=16, kept=8, votes=5)
    optimiser = torch.optim.AdamW(heads.parameters(), lr=3e-3)
    for step in range(steps):
        late, surer, exponent = step >= steps // 2, step >= 0.8 * steps, known.exponent(step / steps)
        if step == steps // 2:
            heads.keep_best()
        rows = torch.randint(len(x), (512,), generator=generator)
        others = near[rows, torch.randint(10, rows.shape, generator=generator)]
        losses = heads.losses(
            *(x[rows], x[others]), step=step, kept_only=late, scored=exponent == 1, softness=0.5 if surer else 0.7,
            gain=0.02, prior=known.shares, exponent=exponent,
        )  # fmt: skip
        optimiser.zero_grad()
        losses.sum().backward()
        optimiser.step()
    heads.align_heads(x)
    return clustering_accuracy(classes.numpy(), heads.ensemble(x).argmax(1).numpy())


@pytest.mark.parametrize(("ratio", "gain"), [(1, -0.03), (10, 0.04)])
def test_released_sizes_follow_unequal_classes_and_keep_equal_ones(ratio, gain):
    assert accuracy_of_heads(ratio, "learned") > accuracy_of_heads(ratio, "uniform") + gain
