"""Simulated evidence: it is true but for the wrong rate, has the wanted shape, and repeats from a seed."""

import itertools

import numpy as np
import pytest

from smidgen.errors import InputError
from smidgen.evidence.simulation import Simulation, draw_bags, simulate

N, K = 1000, 10
CLASSES = np.random.default_rng(1).permutation(np.arange(N) % K)
IDS = np.array([f"train/{i:05d}" for i in range(N)])
NAMES = tuple("abcdefghij")


def make(seed=0, *, classes=CLASSES, **options):
    return simulate(
        Simulation(**options), classes, ids=IDS, class_names=NAMES, generator=np.random.default_rng(seed)
    )  # fmt: skip


def members(evidence):
    bags = {}
    for bag, image in evidence.bags:
        bags.setdefault(bag, []).append(int(image[-5:]))
    return bags


def test_bags_of_the_paper_split_evenly_over_counts_and_classes():
    evidence, notes = make(n_bags=80, ucc=(1, 4), bag_size=32)
    counts = {bag: least for bag, least, _ in evidence.counts}
    assert notes == ()
    assert [list(counts.values()).count(u) for u in (1, 2, 3, 4)] == [20] * 4
    for bag, rows in members(evidence).items():
        held = np.bincount(CLASSES[rows])
        assert (held > 0).sum() == counts[bag]
        assert held[held > 0].max() - held[held > 0].min() <= 1
        assert len(set(rows)) == 32


def test_class_tuples_are_walked_before_one_comes_again():
    evidence, _ = make(n_bags=45, ucc=(2, 2), bag_size=4)
    tuples = {tuple(np.unique(CLASSES[rows])) for rows in members(evidence).values()}
    assert tuples == set(itertools.combinations(range(K), 2))


def test_random_compositions_and_sizes_keep_counts_true():
    evidence, _ = make(n_bags=100, ucc=(1, 10), bag_size=(8, 40), composition="random", proportions=True)
    bags, counts = members(evidence), {bag: least for bag, least, _ in evidence.counts}
    assert all(len(set(CLASSES[rows])) == counts[bag] for bag, rows in bags.items())
    assert min(map(len, bags.values())) < 12
    assert max(map(len, bags.values())) > 36
    share = {(bag, label): share for bag, label, share in evidence.proportions}
    for (bag, label), value in share.items():
        assert value == pytest.approx(np.mean(CLASSES[bags[bag]] == NAMES.index(label)), abs=1e-6)


def test_disjoint_bags_share_no_image_and_stop_when_images_run_out():
    evidence, notes = make(n_bags=100, bag_size=32, disjoint=True)
    rows = list(itertools.chain(*members(evidence).values()))
    assert len(rows) == len(set(rows))
    assert any("ran out" in note for note in notes)


def test_bags_overlap_only_once_a_class_has_been_walked():
    evidence, _ = make(n_bags=20, ucc=(2, 2), bag_size=32)
    rows = list(itertools.chain(*members(evidence).values()))
    uses = np.bincount(rows, minlength=N)
    for k in range(K):
        own = uses[k == CLASSES]
        assert own.max() - own.min() <= 1


@pytest.mark.parametrize(("short", "size"), [("smaller", 5), ("replace", 32)])
def test_too_few_images_make_smaller_bags_or_repeats_and_say_so(short, size):
    classes = np.full(N, -1)
    classes[:50] = np.arange(50) % 10
    evidence, notes = make(classes=classes, n_bags=10, ucc=(1, 1), bag_size=32, short=short)
    assert {len(rows) for rows in members(evidence).values()} == {size}
    assert len(notes) == 1
    assert "too few images" in notes[0]


def test_wrong_counts_come_at_the_rate_and_stay_in_range():
    evidence, _ = make(n_bags=2000, ucc=(1, 4), bag_size=8, wrong=0.1)
    bags = members(evidence)
    wrong = [len(set(CLASSES[bags[bag]])) != least for bag, least, _ in evidence.counts]
    assert np.mean(wrong) == pytest.approx(0.1, abs=0.03)
    assert {least for _, least, _ in evidence.counts} == {1, 2, 3, 4}


def test_wrong_counts_of_bags_that_repeat_images_can_be_resolved():
    classes = np.full(N, -1)
    classes[:20] = np.arange(20) % 10
    evidence, _ = make(classes=classes, n_bags=40, ucc=(1, 2), bag_size=32, short="replace", wrong=1.0)
    assert len(evidence.resolve(IDS).count_bags) == 40


def test_labels_per_class_and_fraction():
    evidence, _ = make(labels_per_class=3)
    assert all(NAMES[CLASSES[int(image[-5:])]] == label for image, label in evidence.labels)
    assert np.bincount([NAMES.index(label) for _, label in evidence.labels]).tolist() == [3] * K
    evidence, _ = make(label_fraction=0.2, wrong=0.5)
    right = [NAMES[CLASSES[int(image[-5:])]] == label for image, label in evidence.labels]
    assert len(right) == 200
    assert np.mean(right) == pytest.approx(0.5, abs=0.15)


@pytest.mark.parametrize("wrong", [0.0, 0.1])
def test_pairs_are_half_same_and_never_contradict_each_other(wrong):
    evidence, _ = make(pairs=200, wrong=wrong)
    evidence.resolve(IDS)  # refuses contradictions
    right = [(CLASSES[int(a[-5:])] == CLASSES[int(b[-5:])]) == same for a, b, same in evidence.pairs]
    assert len({frozenset(pair[:2]) for pair in evidence.pairs}) == 200
    assert np.mean(right) == pytest.approx(1 - wrong, abs=0.06)
    if not wrong:
        assert sum(same for *_, same in evidence.pairs) == 100


def test_more_pairs_than_there_are_is_said():
    classes = np.full(N, -1)
    classes[:4] = [0, 0, 1, 1]
    evidence, notes = make(classes=classes, pairs=50)
    assert len(evidence.pairs) == 6
    assert "Only 6 of 50 pairs" in notes[0]


def test_presence_is_true_and_half_of_it_present():
    evidence, _ = make(n_bags=50, presence=2, counts=False)
    bags = members(evidence)
    for bag, label, present in evidence.presence:
        assert present == (NAMES.index(label) in CLASSES[bags[bag]])
    assert sum(present for *_, present in evidence.presence) == 50


def test_everything_resolves_and_repeats_from_its_seed():
    options = {"n_bags": 30, "class_counts": True, "presence": 1, "labels_per_class": 1, "pairs": 20, "wrong": 0.1}
    one, two, other = make(3, **options)[0], make(3, **options)[0], make(4, **options)[0]
    assert (one.bags, one.counts, one.labels, one.pairs) == (two.bags, two.counts, two.labels, two.pairs)
    assert one.bags != other.bags
    assert one.bags == make(3, n_bags=30)[0].bags  # asking for more does not change the bags
    resolved = one.resolve(IDS, NAMES, n_clusters=K)
    assert len(resolved.proportion_bags) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ucc": (0, 4)}, "`ucc` must be a range like 1-4"),
        ({"n_bags": 5, "bag_size": 3}, "A bag of 3 images cannot hold 4 classes"),
        ({"wrong": 1.5}, "`wrong` must lie in 0 … 1"),
        ({"labels_per_class": 1, "label_fraction": 0.1}, "not both"),
        ({"n_bags": 5, "ucc": (1, 11)}, "there are 10 classes"),
    ],
)
def test_impossible_wishes_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        make(**options)


def test_many_classes_have_too_many_tuples_to_list_and_still_differ():
    classes = np.arange(1000) % 100
    bags = draw_bags(Simulation(n_bags=20, ucc=(4, 4), bag_size=8), classes, np.random.default_rng(0), [])
    assert all(len(np.unique(classes[bag])) == 4 for bag in bags)
