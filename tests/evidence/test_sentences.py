"""Sentences about evidence in plain English, whatever the numbers are."""

import pytest

from smidgen.errors import InputError
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.feasibility import feasibility
from smidgen.evidence.resolving import resolve

IDS = [str(i) for i in range(6)]


def said_of(evidence: Evidence, n_clusters: int) -> str:
    return " ".join(map(str, feasibility(resolve(evidence, IDS, n_clusters=n_clusters), n_clusters)))


def test_one_and_several_are_told_apart():
    bags = Evidence.from_bags([[0, 1]], presence=[{"cat": True}])
    assert "dog is not said to be in any bag. Add bags that hold it." in said_of(
        Evidence.from_labels(["cat"] + [None] * 5) | Evidence.from_labels([None, None, "dog"] + [None] * 3) | bags, 2
    )
    assert "dog, owl are not said to be in any bag. Add bags that hold them." in said_of(
        Evidence.from_labels([None, None, "dog", "owl", None, None]) | bags, 3
    )
    assert "Ask for 1 cluster, or" in said_of(Evidence.from_labels(["cat"] + [None] * 5), 2)


@pytest.mark.parametrize(
    ("names", "words"),
    [("abc", r"3 classes \(a, b, c\), more than the 1 cluster asked for"), ("abcdef", r"\(a, b, c, d, e, …\)")],
)
def test_classes_are_listed_whole_or_with_dots(names, words):
    labels = [*names] + [None] * (6 - len(names))
    with pytest.raises(InputError, match=words):
        resolve(Evidence.from_labels(labels), IDS, n_clusters=1)
