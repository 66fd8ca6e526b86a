"""What images are likely to be by all bags that they are in."""

import pytest
import torch

from smidgen.evidence import bag_labels
from smidgen.evidence.bag_labels import labels_given_bags, sets_of_counts
from smidgen.evidence.resolved import Resolved
from smidgen.maths.bag_posteriors import labels_given_counts, labels_given_proportions

MEMBERS, OFFSETS = torch.tensor([0, 1, 2, 2, 3, 1, 4]), torch.tensor([0, 3, 5, 7])
P = torch.rand(6, 3, generator=torch.Generator().manual_seed(0)).softmax(1)


def evidence(**known):
    return Resolved(6, class_names=("a", "b"), bag_names=("x", "y", "z"), members=MEMBERS, offsets=OFFSETS, **known)


COUNTS = {"count_bags": torch.tensor([0, 2]), "counts_min": torch.tensor([1, 2]), "counts_max": torch.tensor([1, 2])}
SHARES = {"proportion_bags": torch.tensor([1, 2]), "proportions": torch.tensor([[0.5, 0.5], [1.0, 0.0]])}


@pytest.mark.parametrize("numbers", [20_000_000, 1])  # all bags at once, or each by itself
def test_it_is_the_mean_over_bags_as_far_as_their_counts_are_right(numbers, monkeypatch):
    monkeypatch.setattr(bag_labels, "_NUMBERS", numbers)
    given, right = evidence(**COUNTS, **SHARES), torch.tensor([0.8, 0.3])
    sets = sets_of_counts(given, 3)
    sums, weights = torch.zeros(6, 3), torch.zeros(6)
    for row, bag in enumerate((0, 2)):
        rows, count = MEMBERS[OFFSETS[bag] : OFFSETS[bag + 1]], COUNTS["counts_min"][row : row + 1]
        q = labels_given_counts(P[rows], torch.tensor([0, len(rows)]), count, count, sets=sets)
        for image, values in zip(rows, q, strict=True):
            sums[image] += right[row] * values
            weights[image] += right[row]
    for row, bag in enumerate((1, 2)):
        rows, share = MEMBERS[OFFSETS[bag] : OFFSETS[bag + 1]], torch.cat([SHARES["proportions"][row], torch.zeros(1)])
        q = labels_given_proportions(P[rows], torch.tensor([0, len(rows)]), share[None])
        for image, values in zip(rows, q, strict=True):
            sums[image] += values
            weights[image] += 1
    found, known = labels_given_bags(given, P, sets=sets, right=right)
    assert known.tolist() == [True] * 5 + [False]
    rest = (1 - weights).clamp_min(0)[:, None]  # as far as all counts are wrong, nothing is known
    torch.testing.assert_close(found, (sums + rest * P) / (weights[:, None] + rest))
    assert torch.equal(found[5], P[5])


def test_counts_whose_sets_are_too_many_say_nothing(monkeypatch):
    monkeypatch.setattr(bag_labels, "MOST_SETS", 3)
    given = evidence(**COUNTS)
    found, known = labels_given_bags(given, P, sets=sets_of_counts(given, 3))
    assert torch.equal(found, P)
    assert not known.any()
