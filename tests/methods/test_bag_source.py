"""Bags for UCC and RCC: the evidence's as they are, fresh ones as in the paper, and never a ValueError."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from smidgen.data.batches import Part
from smidgen.errors import InputError
from smidgen.evidence.resolved import Resolved
from smidgen.methods.bag_source import BagSource, bag_view, span

LABELS = torch.arange(60) % 5


def fresh(labels=LABELS, n_clusters=5, **options):
    settings = {"bags": 20, "images": 1024, "ucc": "1-4", "bag_size": "8"} | options
    return BagSource(Resolved(len(labels), labels=labels), n_clusters, **settings)


def bags_of(source, step=0, seed=0):
    request = source.request(step, torch.Generator().manual_seed(seed), view=None)
    return [request.indices[a:b] for a, b in itertools.pairwise(request.offsets.tolist())]


def known(**tables):
    sizes = torch.tensor([2, 5, 3])
    return Resolved(
        10,
        labels=torch.full((10,), -1),
        bag_names=("a", "b", "c"),
        members=torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        offsets=F.pad(sizes.cumsum(0), (1, 0)),
        **tables,
    )


def as_part(request):
    return Part(torch.zeros(len(request.indices)), request.indices, request.offsets, request.items)


def test_fresh_bags_are_as_many_of_each_count_evenly_split_without_repeats():
    bags = bags_of(fresh(bag_size="9"))
    held = [torch.bincount(LABELS[bag], minlength=5) for bag in bags]
    assert [int((h > 0).sum()) for h in held] == [u for u in range(1, 5) for _ in range(5)]
    for bag, numbers in zip(bags, held, strict=True):
        assert len(bag) == len(bag.unique()) == 9
        assert int(numbers.max() - numbers[numbers > 0].min()) <= 1


@pytest.mark.parametrize(("ucc", "bags"), [("1-4", 20), ("2-4", 18), ("1-1", 20)])
def test_twenty_bags_are_shared_by_the_counts_as_in_the_paper(ucc, bags):
    assert len(bags_of(fresh(ucc=ucc))) == bags


def test_all_tuples_of_classes_are_walked_before_one_returns():
    source = fresh(ucc="2-2", bags=5)
    source.begin(torch.Generator().manual_seed(3))
    steps = [tuple(LABELS[bag].unique().tolist()) for step in range(4) for bag in bags_of(source, step, seed=step)]
    pairs = set(itertools.combinations(range(5), 2))
    assert set(steps[:10]) == set(steps[10:]) == pairs
    assert steps[:10] != steps[10:]


def test_a_class_with_too_few_images_repeats_them_evenly():
    bags = bags_of(fresh(torch.tensor([0, 0, 0, 1, 1]), ucc="1-2", bag_size="32"))
    pure = torch.bincount(bags[0])
    assert len(bags[0]) == 32
    assert int(pure[pure > 0].max() - pure[pure > 0].min()) <= 1


def test_counts_are_cut_to_the_classes_there_are():
    assert list(fresh(torch.zeros(3, dtype=torch.int64), n_clusters=1).counts) == [1]
    with pytest.raises(InputError, match="Bags of 2 classes or more were asked for"):
        fresh(torch.zeros(3, dtype=torch.int64), n_clusters=1, ucc="2-4")


def test_sizes_vary_and_random_shares_hold_every_class():
    bags = bags_of(fresh(bag_size="6-9", random_shares=True, ucc="3-3", bags=40))
    assert {len(bag) for bag in bags} == {6, 7, 8, 9}
    assert {len(LABELS[bag].unique()) for bag in bags} == {3}
    assert {int(torch.bincount(LABELS[bag]).max()) for bag in bags} >= {3, 4, 5, 6}


def test_what_is_known_of_fresh_bags_is_counted():
    source = fresh()
    part = as_part(source.request(0, torch.Generator().manual_seed(0), view=None))
    least, most, shares = source.known(part)
    for bag, (a, b) in enumerate(itertools.pairwise(part.offsets.tolist())):
        held = torch.bincount(LABELS[part.indices[a:b]], minlength=5)
        assert int(least[bag]) == int(most[bag]) == int((held > 0).sum())
        torch.testing.assert_close(shares[bag], held / held.sum())


def test_bags_of_the_evidence_come_with_their_range_of_counts():
    evidence = known(count_bags=torch.tensor([0, 2]), counts_min=torch.tensor([1, 2]), counts_max=torch.tensor([1, 3]))
    source = BagSource(evidence, 4, bags=20, images=1024, ucc="1-4", bag_size="8")
    part = as_part(source.request(0, torch.Generator().manual_seed(0), view=None))
    assert sorted(part.items.tolist()) == [0, 2]
    place = part.items.tolist().index(2)
    assert part.indices[part.offsets[place] : part.offsets[place + 1]].tolist() == [7, 8, 9]
    least, most, _ = source.known(part)
    assert (int(least[place]), int(most[place])) == (2, 3)
    assert source.admissible.tolist() == [True, True, True, False]


def test_a_step_s_bags_hold_no_more_images_than_asked_for_but_at_least_one_bag():
    evidence = known(count_bags=torch.arange(3), counts_min=torch.ones(3).long(), counts_max=torch.ones(3).long())
    source = BagSource(evidence, 4, bags=20, images=1, ucc="1-4", bag_size="8")
    assert len(bags_of(source)) == 1


def test_proportions_say_the_count_too_where_classes_are_wanted():
    evidence = known(class_names=("x", "y"), proportion_bags=torch.tensor([1]), proportions=torch.tensor([[0.4, 0.6]]))
    options = {"bags": 20, "images": 1024, "ucc": "1-4", "bag_size": "8"}
    source = BagSource(evidence, 3, with_classes=True, **options)
    least, most, shares = source.known(as_part(source.request(0, torch.Generator(), view=None)))
    assert least.tolist() == most.tolist() == [2]
    torch.testing.assert_close(shares, torch.tensor([[0.4, 0.6, 0.0]]))
    with pytest.raises(InputError, match="`ucc` needs counts: give --bags"):
        BagSource(evidence, 3, **options).validate("ucc", what="counts")


@pytest.mark.parametrize("text", ["", "0-4", "4-2", "a", "1-", "-3"])
def test_a_range_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="`ucc` must be a number or a range like 1-4"):
        span(text, what="ucc")


def test_writing_is_not_mirrored_and_embeddings_are_not_turned():
    assert bag_view((1, 8, 8), True).flip is False
    assert bag_view((3, 8, 8), True).flip is True
    assert bag_view((3, 8, 8), True, size=96).size == 96
    assert bag_view((64,), True) is bag_view((3, 8, 8), False) is None
