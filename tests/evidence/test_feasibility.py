"""The feasibility check: each gap and each contradiction is found, and good evidence passes."""

import numpy as np
import pytest
import torch

from smidgen.evidence.evidence import Evidence
from smidgen.evidence.feasibility import feasibility
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.simulation import Simulation, simulate

IDS = [f"{i}.png" for i in range(12)]
LABELLED = Evidence.from_labels(["cat", "dog", "owl"])


def texts(evidence, n_clusters=3, **options):
    return [str(finding) for finding in feasibility(evidence.resolve(IDS, **options), n_clusters)]


def about(evidence, words, **options):
    found = [text for text in texts(evidence, **options) if words in text]
    assert len(found) == 1, texts(evidence, **options)
    return found[0]


def bags(*counts, **options):
    return Evidence.from_bags([[0, 1, 2, 3], [3, 4, 5], [6, 7, 8, 9, 10]][: len(counts)], counts=counts, **options)


def test_sound_evidence_has_nothing_against_it():
    classes = np.arange(600) % 6
    names = tuple("abcdef")
    settings = Simulation(n_bags=60, proportions=True, presence=2, labels_per_class=2, pairs=30, bag_size=12)
    ids = [str(i) for i in range(600)]
    evidence, _ = simulate(settings, classes, ids=ids, class_names=names, generator=np.random.default_rng(0))
    found = feasibility(evidence.resolve(ids, names, 6), 6)
    assert [finding for finding in found if finding.level != "note"] == []


@pytest.mark.parametrize(
    ("evidence", "words", "level"),
    [
        (bags(2, 2, 3), "No bag is known to hold a single class", "warning"),
        (bags(1, 1, 1), "Every bag holds a single class", "warning"),
        (bags(2, 2, 2), "Every bag holds exactly 2", "warning"),
        (bags((1, 3), 1, 2), "any count is allowed", "warning"),
        (bags(1, 2, 3), "Nothing names a class", "note"),
        (bags(1, 2, 3), "Bags overlap: 9%", "note"),
        (bags(1, 2, 3), "The largest bag has 5 images, and a class has about 4", "note"),
        (Evidence.from_bags([[0, 1], [2]]), "Nothing is said about the 2 bags", "warning"),
        (Evidence.from_bags([[0, 0, 1]], counts=[2]), "In 1 bag an image is there twice ('bag0')", "note"),
        (Evidence.from_bags([[0, 1], [1, 0]], counts=[1, 2]), "In 1 bag are exactly the images of another", "note"),
        (Evidence.from_pairs(same=[(0, 1)]), "All pairs are of the same class", "warning"),
        (Evidence.from_labels(["cat"] * 1 + ["dog"] * 11), "names 2 classes, but 3 clusters", "warning"),
        (Evidence.from_labels(["cat"] * 1 + ["dog"] * 11), "dog has 11, another class only 1", "note"),
        (LABELLED | Evidence.from_pairs(different=[(3, 4)]) | Evidence.from_pairs(same=[(0, 1)]),
         "1 pair against labels (first: images in rows 0 and 1, labelled cat and dog)", "problem"),
        (LABELLED | bags(1, 1, 2), "labelled images show more classes than the count says ('bag0')", "problem"),
        (LABELLED | bags(3, presence=[{"cat": False}]), "a labelled image of a class said to be absent", "problem"),
        (LABELLED | bags(None, proportions=[{"cat": 0.5, "dog": 0.5}]), "a class whose share is 0", "problem"),
        (bags(2, proportions=[{"cat": 1.0}]), "the number of shares above 0 is not the count", "problem"),
        (bags(1, presence=[{"cat": True, "dog": True}]), "more classes are said to be present", "problem"),
        (bags(1, proportions=[{"cat": 1.0}], presence=[{"dog": True}]), "shares and presence contradict", "problem"),
    ],
)  # fmt: skip
def test_each_gap_and_contradiction_is_found(evidence, words, level):
    assert about(evidence, words).startswith(level)


def test_pairs_kept_in_spite_of_a_chain_are_found():
    evidence = Evidence.from_pairs(same=[(0, 1), (1, 2)], different=[(0, 2)])
    assert about(evidence, "joined by a chain", keep_contradictory_pairs=True).startswith("problem")


def test_classes_whose_shares_go_together_are_named():
    shares = [{"cat": 0.2, "dog": 0.4, "owl": 0.4}, {"cat": 0.1, "dog": 0.2, "owl": 0.7}, {"owl": 1.0}]
    assert "cat and dog" in about(bags(None, None, None, proportions=shares), "go up and down together")


PURE = [{"cat": 1.0}, {"dog": 1.0}]
CAT_DOG = Evidence.from_labels(["cat", "dog"])


def some(*images, **options):
    return Evidence.from_bags(list(images), **options)


def pairs(same=(), different=()):
    return Evidence.from_pairs(same=list(same), different=list(different))


def pair_of_bags(shares, **options):
    return some([0, 1, 2, 3], [4, 5, 6, 7], proportions=shares, **options)


@pytest.mark.parametrize(
    ("words", "true", "false"),
    [
        ("No evidence", Evidence(), pairs([(0, 1)])),
        ("Nothing is said about the 1 bag", some([0, 1]), some([0, 1], presence=[{"cat": True}])),
        ("Nothing names a class", bags(1, 2), bags(1, 2) | Evidence.from_labels(["cat"])),
        ("names 2 classes, but 3 clusters", CAT_DOG, LABELLED),
        ("No image is labelled owl", CAT_DOG | bags(2, presence=[{"owl": True}]), LABELLED),
        ("Labels are uneven", Evidence.from_labels(["cat"] * 11 + ["dog"]),
         Evidence.from_labels(["cat"] * 10 + ["dog"])),
        # one cluster for all
        ("nothing tells two classes apart", bags(1, 1, 1), CAT_DOG | some([0, 2], [1, 3], counts=[1, 1])),
        ("nothing tells two classes apart", bags(1, 1, 1), some([0, 1], counts=[1]) | pairs(different=[(0, 2)])),
        ("nothing tells two classes apart", bags(1, 1, 1), pair_of_bags(PURE, counts=[1, 1])),
        ("nothing tells two classes apart", bags(1, 1, 1), some([0, 1], [2, 3], [6, 7], counts=[1, 1, None])),
        ("never tell two classes apart", pairs([(0, 1)]), pairs([(0, 1)], [(1, 2)])),
        ("never tell two classes apart", pairs([(0, 1)]), pairs([(0, 1)]) | LABELLED),
        ("One cluster for all images would fit", bags((1, 2), (1, 3)), bags((1, 2), (2, 3))),
        ("One cluster for all images would fit", Evidence.from_labels(["cat"]), CAT_DOG),
        ("One cluster for all images would fit", pair_of_bags([{"cat": 1.0}] * 2), pair_of_bags(PURE)),
        # bags
        ("an image is there twice", some([0, 0, 1], counts=[2]), some([0, 2, 1], counts=[2])),
        ("Bags overlap", some([0, 1], [1, 2], counts=[1, 2]), some([0, 1], [3, 2], counts=[1, 2])),
        ("of the images are in a bag", some(range(5), counts=[2]), some(range(6), counts=[2])),
        ("exactly the images of another", some([0, 1], [1, 0], counts=[1, 1]), some([0, 1], [1, 0, 0], counts=[1, 1])),
        ("The largest bag has 5 images, and a class has about 4", some(range(5), counts=[1]),
         some(range(4), counts=[1])),
        ("any count is allowed", some([0, 1], counts=[(1, 2)]), some([0, 1, 2], counts=[(1, 2)])),
        ("any count is allowed", some([0, 0], counts=[1]), some([0, 1], counts=[1])),
        ("No bag is known to hold a single class", bags(2, 2, 3), bags(2, 1)),
        ("No bag is known to hold a single class", bags(2, 2, 3), bags(2, 2, 3) | LABELLED),
        ("No bag is known to hold a single class", bags(2, 2, 3), bags(2, 2, 3) | pairs([(0, 11)])),
        ("No bag is known to hold a single class", bags(2, 2, 3), bags(2, 2, 3, presence=[{"cat": True}, None, None])),
        ("Every bag holds exactly 2", bags(2, 2, 2), bags(2, 2, 3)),
        ("Every bag holds exactly 2", bags(2, 2, 2), bags(2)),
        ("Every bag with a count holds exactly 2", bags(2, 2, None), bags(2, 2)),
        # classes of bags
        ("owl is in no bag", LABELLED | some([0, 3], [1, 4], proportions=PURE),
         LABELLED | some([0, 3], [1, 2], proportions=PURE)),
        ("dog, owl are in no bag", LABELLED | some([0, 3], proportions=[{"cat": 1.0}]),
         LABELLED | some([0, 3], proportions=[{"cat": 1.0}]) | Evidence.from_bags({"x": [5, 6]}, counts={"x": 2})),
        ("dog, owl are not said to be in any bag", LABELLED | some([0, 3], presence=[{"cat": True}]),
         LABELLED | some([0, 2], presence=[{"cat": True}])),
        ("and no image is labelled so", some([0, 3], presence=[{"cat": True, "dog": False}]),
         CAT_DOG | some([0, 3], presence=[{"cat": True, "dog": False}])),
        ("go up and down together", pair_of_bags([{"cat": 0.5, "dog": 0.5}, {"owl": 1.0}]),
         pair_of_bags([{"cat": 0.5, "dog": 0.5}, {"cat": 1.0}])),
        ("go up and down together", pair_of_bags([{"cat": 0.5, "dog": 0.5}, {"owl": 1.0}]),
         CAT_DOG | pair_of_bags([{"cat": 0.5, "dog": 0.5}, {"owl": 1.0}])),
        ("vary in 2 directions only, for 3 classes",
         pair_of_bags([{"cat": 0.5, "dog": 0.5}, {"dog": 0.5, "owl": 0.5}]),
         LABELLED | pair_of_bags([{"cat": 0.5, "dog": 0.5}, {"dog": 0.5, "owl": 0.5}])),
        ("never meet in a bag with shares (cat and dog)", pair_of_bags(PURE),
         pair_of_bags([{"cat": 0.5, "dog": 0.5}] * 2)),
        ("without a bag of one class or a label for each",
         pair_of_bags([{"cat": 0.5, "owl": 0.5}, {"dog": 0.5, "owl": 0.5}]), pair_of_bags(PURE)),
        ("without a bag of one class or a label for each",
         pair_of_bags([{"cat": 0.5, "owl": 0.5}, {"dog": 0.5, "owl": 0.5}]),
         CAT_DOG | some([0, 2], [1, 3], proportions=[{"cat": 0.5, "owl": 0.5}, {"dog": 0.5, "owl": 0.5}])),
        # contradictions
        ("against labels", CAT_DOG | pairs([(0, 1)]), CAT_DOG | pairs([(0, 2)])),
        ("joined by a chain", pairs([(0, 1), (1, 2)], [(0, 2)]), pairs([(0, 1), (1, 2)], [(0, 3)])),
        ("1 chain of pairs of the same class between images of different labels (first: images in rows 0 and 1",
         CAT_DOG | pairs([(0, 2), (2, 1)]), CAT_DOG | pairs([(0, 2), (3, 1)])),
        ("that labels and pairs of the same class make one class",
         Evidence.from_labels(["cat", "cat"]) | pairs([(1, 2)], [(0, 2)]), CAT_DOG | pairs([(1, 2)], [(0, 2)])),
        ("of one class there is a pair of different classes", some([0, 1, 2], counts=[1]) | pairs(different=[(0, 2)]),
         some([0, 1, 2], counts=[2]) | pairs(different=[(0, 2)])),
        ("of one class there is a pair of different classes",
         some([0, 1, 2], proportions=[{"cat": 1.0}]) | pairs(different=[(0, 2)]),
         some([0, 1, 2], proportions=[{"cat": 1.0}]) | pairs(different=[(0, 3)])),
        ("more classes are said to be present than it has images", some([0], presence=[{"cat": True, "dog": True}]),
         some([0, 1], presence=[{"cat": True, "dog": True}])),
        ("every class is said to be absent", some([0], presence=[dict.fromkeys(["cat", "dog", "owl"], False)]),
         some([0], presence=[{"cat": False, "dog": False}])),
        ("labelled images show more classes than the count says", CAT_DOG | some([0, 1], counts=[1]),
         CAT_DOG | some([0, 1], counts=[2])),
        ("leave room for fewer classes than the count says",
         Evidence.from_labels(["cat", "cat"]) | some([0, 1], counts=[2]),
         Evidence.from_labels(["cat", "cat"]) | some([0, 1, 2], counts=[2])),
        ("a labelled image of a class whose share is 0", CAT_DOG | some([0, 2], proportions=[{"dog": 1.0}]),
         CAT_DOG | some([1, 2], proportions=[{"dog": 1.0}])),
        ("more labelled images of a class than its share allows",
         Evidence.from_labels(["cat"] * 3) | some(range(4), proportions=[{"cat": 0.25, "dog": 0.75}]),
         Evidence.from_labels(["cat"] * 3) | some(range(4), proportions=[{"cat": 0.75, "dog": 0.25}])),
        ("a labelled image of a class said to be absent", LABELLED | some([0], presence=[{"cat": False}]),
         LABELLED | some([1], presence=[{"cat": False}])),
        ("leave too little room for the classes said to be present", LABELLED | some([0, 1], presence=[{"owl": True}]),
         LABELLED | some([0, 3], presence=[{"owl": True}])),
        ("the number of shares above 0 is not the count", some([0, 1], counts=[2], proportions=[{"cat": 1.0}]),
         some([0, 1], counts=[1], proportions=[{"cat": 1.0}])),
        ("more classes are said to be present than the count", some([0, 1], counts=[1],
         presence=[{"cat": True, "dog": True}]), some([0, 1], counts=[2], presence=[{"cat": True, "dog": True}])),
        ("more classes are said to be absent than the count leaves room for",
         LABELLED | some(range(3, 7), counts=[3], presence=[{"cat": False}]),
         LABELLED | some(range(3, 7), counts=[2], presence=[{"cat": False}])),
        ("shares and presence contradict", some([0], proportions=[{"cat": 1.0}], presence=[{"dog": True}]),
         some([0], proportions=[{"cat": 1.0}], presence=[{"dog": False}])),
        ("labels, counts and presence do not fit together",
         Evidence.from_labels(["cat"]) | some([0, 1, 2], counts=[2], presence=[{"dog": True, "owl": True}]),
         Evidence.from_labels(["cat"]) | some([0, 1, 2], counts=[3], presence=[{"dog": True, "owl": True}])),
        ("No assignment of the images to 3 clusters fits 6 pairs of different classes",
         pairs(different=[(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]),
         pairs(different=[(0, 1), (0, 2), (0, 3), (1, 2), (1, 3)])),
        ("fits 2 bags ('bag0', 'bag1') together", some([0, 1], [1, 2], proportions=PURE),
         some([0, 1], [2, 3], proportions=PURE)),
        ("fits 2 bags ('bag0', 'bag1') and 1 pair of different classes",
         some([0, 1], [1, 2], counts=[1, 1]) | pairs(different=[(0, 2)]),
         some([0, 1], [1, 2], counts=[1, 2]) | pairs(different=[(0, 2)])),
    ],
)  # fmt: skip
def test_each_sentence_is_said_where_it_is_true_and_only_there(words, true, false):
    about(true, words, keep_contradictory_pairs=True)
    assert not [text for text in texts(false, keep_contradictory_pairs=True) if words in text]


def test_images_that_could_not_be_read_make_no_contradiction():
    shares = {"cat": 0.5, "dog": 0.5}
    evidence = Evidence.from_labels(["dog", "dog"], ids=["0", "1"]) | Evidence.from_bags(
        [["0", "1", "2", "3"]], proportions=[shares]
    )
    for skipped, problems in ((["2", "3"], 0), ([], 0)):
        ids = [i for i in "0123" if i not in skipped]
        found = feasibility(evidence.resolve(ids, n_clusters=2, skipped=skipped), 2)
        assert sum(finding.level == "problem" for finding in found) == problems


def test_problems_come_first():
    found = texts(LABELLED | bags(1, 1, 1))
    levels = [text.split(":")[0] for text in found]
    assert levels == sorted(levels, key=["problem", "warning", "note"].index)


def test_labels_beside_bags_without_shares_are_no_error():
    built = Resolved(
        n_images=4,
        labels=torch.tensor([0, 1, -1, -1]),
        class_names=("a", "b"),
        bag_names=("x",),
        members=torch.tensor([0, 1]),
        offsets=torch.tensor([0, 2]),
        count_bags=torch.tensor([0]),
        counts_min=torch.tensor([1]),
        counts_max=torch.tensor([1]),
    )
    assert any("more classes than the count says" in str(finding) for finding in feasibility(built, 2))
