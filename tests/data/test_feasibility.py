"""The feasibility check: each gap and each contradiction is found, and good evidence passes."""

import numpy as np
import pytest
import torch

from smidgen.data.bags import Simulation, simulate
from smidgen.data.evidence import Evidence
from smidgen.data.feasibility import feasibility
from smidgen.data.resolved import Resolved

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


def test_classes_in_no_bag_and_classes_that_never_meet_are_named():
    evidence = LABELLED | bags(None, None, proportions=[{"cat": 1.0}, {"dog": 1.0}])
    assert "owl is in no bag" in about(evidence, "owl is in no bag")
    assert "cat and dog" in about(evidence, "never meet")


def test_classes_whose_shares_go_together_are_named():
    shares = [{"cat": 0.2, "dog": 0.4, "owl": 0.4}, {"cat": 0.1, "dog": 0.2, "owl": 0.7}, {"owl": 1.0}]
    assert "cat and dog" in about(bags(None, None, None, proportions=shares), "go up and down together")


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
