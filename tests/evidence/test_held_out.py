"""Evidence that is held out: one statement in five, or enough of them, is not learned from, and nothing is lost."""

import pytest
import torch

from smidgen.evidence.held_out import held_out_labels, images_of, without_held_out
from smidgen.evidence.resolved import Resolved

OFFSETS, MEMBERS = torch.arange(0, 121, 3), torch.arange(120) % 40
ABOUT_BAGS = {"members": MEMBERS, "offsets": OFFSETS, "bag_names": [f"bag {i}" for i in range(40)]}


@pytest.mark.parametrize(
    ("kind", "arrays"),
    [
        ("counts", {"count_bags": torch.arange(40), "counts_min": torch.arange(40), "counts_max": torch.arange(40)}),
        ("proportions", {"proportion_bags": torch.arange(40), "proportions": torch.rand(40, 2)}),
        ("presence", {"presence_bags": torch.arange(40), "presence": torch.ones(40, 2).long()}),
        ("pairs", {"pairs": torch.arange(80).view(40, 2) % 40, "same": torch.arange(40) % 2 == 0}),
        ("partial", {"partial_images": torch.arange(40), "partial_sets": torch.ones(40, 2).bool()}),
    ],
)  # fmt: skip
def test_every_fifth_statement_is_held_out(kind, arrays):
    labels = torch.arange(400) % 3 - 1
    evidence = Resolved(400, labels=labels, class_names=("a", "b"), **ABOUT_BAGS, **arrays)
    learned, judged = without_held_out(evidence)
    assert (learned.sizes()[kind], judged.sizes()[kind]) == (32, 8)
    assert learned.labels.equal(labels)
    assert "labels" not in judged.sizes()
    for name, values in arrays.items():
        assert judged.arrays[name].equal(values[4::5])
        assert torch.cat([learned.arrays[name], judged.arrays[name]]).sort(0)[0].equal(values.sort(0)[0])


def test_of_few_statements_none_is_held_out():
    evidence = Resolved(40, pairs=torch.arange(48).view(24, 2) % 40, same=torch.arange(24) > 3)
    learned, judged = without_held_out(evidence)
    assert learned.fingerprint() == evidence.fingerprint()
    assert judged.sizes() == {}


@pytest.mark.parametrize(("labels", "held_out"), [(100, 20), (400, 50), (5000, 50)])
def test_of_many_labels_about_five_hundred_are_enough(labels, held_out):
    rows = held_out_labels(torch.arange(10 * labels) % 10)
    assert (rows % 10).bincount().tolist() == [held_out] * 10


def test_of_many_classes_one_label_each_is_held_out():
    assert (held_out_labels(torch.arange(5000) % 1000) % 1000).bincount().tolist() == [1] * 1000


def test_of_many_statements_about_two_hundred_are_enough():
    evidence = Resolved(8000, pairs=torch.arange(8000).view(4000, 2), same=torch.arange(4000) > 3)
    assert without_held_out(evidence)[1].sizes() == {"pairs": 200}


def test_what_is_held_out_is_about_a_quarter_of_the_images_at_most():
    pairs = torch.randint(400, (2000, 2), generator=torch.Generator().manual_seed(0))
    learned, judged = without_held_out(Resolved(400, pairs=pairs, same=torch.arange(2000) > 3))
    assert 90 <= int(images_of(judged).sum()) <= 100
    assert learned.sizes()["pairs"] + judged.sizes()["pairs"] == 2000


def test_rare_classes_have_a_label_held_out_too():
    labels = torch.tensor([0] * 49_620 + [1] * 80 + [2] * 300 + [3] * 4)
    assert labels[held_out_labels(labels)].bincount(minlength=4).tolist() == [496, 1, 3, 0]


def test_the_images_that_evidence_is_about():
    pairs = Resolved(9, pairs=torch.tensor([[0, 5], [5, 7]]), same=torch.tensor([True, False]))
    assert images_of(pairs).nonzero().flatten().tolist() == [0, 5, 7]
    labels = torch.full((9,), -1).index_fill(0, torch.tensor([3]), 1)
    assert images_of(Resolved(9, labels=labels, class_names=("a", "b"))).nonzero().flatten().tolist() == [3]
    counts = {"count_bags": torch.tensor([1]), "counts_min": torch.tensor([1]), "counts_max": torch.tensor([2])}
    assert images_of(Resolved(40, **ABOUT_BAGS, **counts)).nonzero().flatten().tolist() == [3, 4, 5]
    assert not images_of(Resolved(40, **ABOUT_BAGS)).any()
