import numpy as np
import pytest

from smidgen.config import Config
from smidgen.errors import InputError
from smidgen.evidence.evidence import Evidence
from smidgen.listener import Listener
from smidgen.setup.plan import make_plan

TWELVE = [f"class {row % 12}" for row in range(24)]
IMAGES = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
CLASSES = np.arange(40) % 3
BAGS = [list(range(15)), list(range(15, 40))]


class Said(Listener):
    def __init__(self):
        self.lines = []

    def log(self, text):
        self.lines.append(text)


def planned(evidence=None, data=IMAGES, **settings):
    said = Said()
    plan = make_plan(Config("array", method="kmeans", **settings), data=data, evidence=evidence, listener=said)
    return plan, " ".join(said.lines)


EVIDENCE = {
    "labels": (Evidence.from_labels(TWELVE + [None] * 16), 12, "names 12 classes"),
    "proportions": (Evidence.from_bags(BAGS, proportions=[{"a": 0.5, "b": 0.5}, {"c": 1}]), 3, "names 3 classes"),
    "class counts": (Evidence.from_bags(BAGS, class_counts=[{"a": 15}, {"b": 25}]), 2, "names 2 classes"),
    "presence": (Evidence.from_bags(BAGS, presence=[{"a": True, "b": False}, None]), 2, "names 2 classes"),
    "partial labels": (Evidence.from_partial_labels([("a", "b"), ("b", "c"), *[None] * 38]), 3, "names 3 classes"),
    "labels and a larger count": (
        Evidence.from_labels(["a", "b", *[None] * 38]) | Evidence.from_bags(BAGS, counts=[5, 4]),
        5,
        "holds images of 5 classes",
    ),
    "a large count": (Evidence.from_bags(BAGS, counts=[14, (11, 20)]), 14, "holds images of 14 classes"),
    "small counts": (Evidence.from_bags(BAGS, counts=[2, 1]), 10, "No number of clusters was given"),
    "a single class": (Evidence.from_labels(["a", *[None] * 39]), 10, "No number of clusters was given"),
    "nothing": (None, 10, "No number of clusters was given"),
}


@pytest.mark.parametrize(("evidence", "expected", "why"), EVIDENCE.values(), ids=EVIDENCE)
def test_without_a_number_there_are_as_many_clusters_as_classes_are_known(evidence, expected, why):
    plan, said = planned(evidence)
    assert plan.config.n_clusters == plan.method.problem.n_clusters == expected
    assert why in said
    assert f"looking for {expected} clusters (`--clusters` changes it)" in said


def test_a_range_of_counts_ends_at_the_number_of_clusters():
    assert planned(EVIDENCE["a large count"][0])[0].evidence.counts_max.tolist() == [14, 14]


def test_a_given_number_wins_and_too_few_are_refused():
    plan, said = planned(EVIDENCE["labels"][0], n_clusters=20)
    assert plan.config.n_clusters == 20
    assert "looking for" not in said
    with pytest.raises(InputError, match="names 12 classes"):
        planned(EVIDENCE["labels"][0], n_clusters=10)


def test_classes_of_the_images_are_only_a_hint(tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES, y=CLASSES)
    plan, said = planned(data=tmp_path / "a.npz")
    assert plan.config.n_clusters == 10
    assert "The images are of 3 classes, used for scores only: `--clusters 3` uses that." in said


def test_a_named_dataset_keeps_its_own_number():
    evidence = Evidence.from_labels({"train/00000": "a", "train/00001": "b"})
    plan = make_plan(Config("digits", method="kmeans"), evidence=evidence, listener=Said())
    assert plan.config.n_clusters == 10
