"""Empty clusters are given classes that share a cluster with another, where counts of bags speak for it."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from smidgen.evidence.bag_labels import labels_given_bags, sets_of_counts
from smidgen.evidence.resolved import Resolved
from smidgen.methods.empty_clusters import LEAST, refilled

SIZES = (60, 40, 20, 14)
CLASSES = torch.arange(4).repeat_interleave(torch.tensor(SIZES))
RANDOM = torch.Generator().manual_seed(0)
X = 3 * torch.eye(4)[CLASSES] + torch.randn(sum(SIZES), 4, generator=RANDOM)


def bags_of(classes, n_bags=60, size=6):
    """Return bags, every other of one class, and the others of two, with their counts."""
    n_classes = int(classes.max()) + 1
    members = []
    for bag in range(n_bags):
        held = torch.randperm(n_classes, generator=RANDOM)[: 1 + bag % 2]
        images = torch.isin(classes, held).nonzero().flatten()
        chances = 1 / classes.bincount()[classes[images]].float()
        members.append(images[chances.multinomial(size, generator=RANDOM)])
    counts = torch.tensor([len(classes[images].unique()) for images in members])
    known = {"count_bags": torch.arange(n_bags), "counts_min": counts, "counts_max": counts}
    names, offsets = tuple(map(str, range(n_bags))), torch.arange(n_bags + 1) * size
    return Resolved(len(classes), bag_names=names, members=torch.cat(members), offsets=offsets, **known)


def given_by(bags):
    return partial(labels_given_bags, bags, sets=sets_of_counts(bags, 4))


GIVEN = given_by(bags_of(CLASSES))


def soft(clusters, n_clusters=4):
    return 0.9 * F.one_hot(clusters, n_clusters).float() + 0.1 / n_clusters


def right(p):
    """Return the share of pairs of images that are rightly together or apart."""
    clusters = p.argmax(1)
    return float(((clusters[:, None] == clusters) == (CLASSES[:, None] == CLASSES)).float().mean())


def refill(p, *, worth=right):
    return refilled(p, X, given=GIVEN, worth=worth, gain=0.005, generator=torch.Generator().manual_seed(0))


def test_a_class_that_shares_a_cluster_gets_the_empty_one():
    found = refill(soft(CLASSES.clamp(max=2)))
    assert right(found) > 0.98
    torch.testing.assert_close(found.sum(1), torch.ones(len(X)))


def test_two_empty_clusters_are_filled():
    assert right(refill(soft(CLASSES.clamp(max=1)))) > 0.98


def test_halves_of_one_class_grow_together_again_as_their_bags_speak_against_them():
    classes, tried = CLASSES[CLASSES < 3], []
    how = {"given": given_by(bags_of(classes)), "worth": lambda p: tried.append(p.argmax(1)) or 0.0, "gain": 0}
    assert refilled(soft(classes), X[: len(classes)], generator=torch.Generator(), **how) is None
    assert not tried  # no half is left to be judged


@pytest.mark.parametrize("worth", [lambda p: -float(p[:, 3].sum()), lambda p: 0.0])
def test_nothing_changes_where_it_is_not_worth_it(worth):
    assert refill(soft(CLASSES.clamp(max=2)), worth=worth) is None


def test_nothing_changes_where_no_cluster_is_empty():
    assert refill(soft(CLASSES), worth=lambda p: float(torch.rand(()))) is None


def test_clusters_of_few_images_are_left_whole():
    asked = []

    def given(p):
        asked.append(p)
        return p, torch.ones(len(p), dtype=torch.bool)

    for n, is_halved in ((2 * LEAST - 1, False), (4 * LEAST, True)):
        p, x = soft(torch.zeros(n, dtype=torch.long)), torch.cat([X[: n // 2], X[-(n - n // 2) :]])
        refilled(p, x, gain=0, generator=torch.Generator(), given=given, worth=lambda p: 0.0)
        assert bool(asked) == is_halved


def test_a_cluster_of_which_no_bag_speaks_is_left_whole():
    def given(p):
        return p, torch.zeros(len(p), dtype=torch.bool)

    p = soft(CLASSES.clamp(max=2))
    assert refilled(p, X, gain=-1, generator=torch.Generator(), given=given, worth=lambda p: 0.0) is None
