"""What is said of evidence is true: the judge tries every assignment of small collections to clusters."""

import itertools
import math

import numpy as np
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from smidgen.errors import InputError
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.feasibility import feasibility

NAMES = ("a", "b", "c")


# ----------------------------------------------------------------------------------------------------------- the judge


def class_range(share, size, *, whole):
    """The numbers of images that a share allows."""
    images = share * size
    if share == 0 or whole:
        return round(images), round(images)
    return max(0, math.floor(images - 0.005 * size)), math.ceil(images + 0.005 * size)


def shares_fit(shares, images):
    sizes = {name: share * len(images) for name, share in shares.items()}
    whole = all(abs(x - round(x)) <= 0.1 for x in sizes.values())
    whole = whole and sum(round(x) for x in sizes.values()) == len(images)
    for name in {*shares, *images}:
        low, high = class_range(shares.get(name, 0), len(images), whole=whole)
        if not low <= images.count(name) <= high:
            return False
    return True


def agrees(assigned, evidence):
    """Whether an assignment, a class for each image, fits every statement."""
    bags = {}
    for bag, image in evidence.bags:
        bags.setdefault(bag, []).append(assigned[image])
    shares, present = {}, evidence.presence
    for bag, name, share in evidence.proportions:
        shares.setdefault(bag, {})[name] = share
    return (
        all(assigned[image] == name for image, name in evidence.labels)
        and all((image, assigned[image]) in evidence.partial for image, _ in evidence.partial)
        and all((assigned[a] == assigned[b]) == same for a, b, same in evidence.pairs)
        and all(low <= len(set(bags[bag])) <= (high or 99) for bag, low, high in evidence.counts)
        and all((name in bags[bag]) == there for bag, name, there in present)
        and all(shares_fit(stated, bags[bag]) for bag, stated in shares.items())
    )


def judged(evidence, n, n_clusters):
    """All assignments that fit the evidence; clusters beyond the named classes are numbers."""
    named = sorted({name for _, _, name in evidence.class_mentions()})
    clusters = [*named, *range(n_clusters - len(named))]
    return [x for x in itertools.product(clusters, repeat=n) if agrees(x, evidence)]


# ----------------------------------------------------------------------------------------------------- random evidence


@st.composite
def bag_statements(draw, n):
    images = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=n))
    kinds = draw(st.sets(st.sampled_from(["counts", "proportions", "presence"]), max_size=2))
    count = shares = presence = None
    if "counts" in kinds:
        low = draw(st.integers(1, len(set(images))))
        count = draw(st.sampled_from([low, (low, low + 1), (low, None)]))
    if "proportions" in kinds:
        parts = draw(st.lists(st.integers(0, len(images)), min_size=2, max_size=2))
        exact = np.diff([0, *sorted(parts), len(images)]) / len(images)
        shares = dict(
            zip(NAMES, draw(st.sampled_from([exact.tolist(), [0.4, 0.35, 0.25], [0.9, 0.1, 0.0]])), strict=True)
        )
    if "presence" in kinds:
        presence = draw(st.dictionaries(st.sampled_from(NAMES), st.booleans(), min_size=1))
    return images, count, shares, presence


@st.composite
def evidences(draw, n):
    bags = draw(st.lists(bag_statements(n), max_size=3))
    labels = draw(st.lists(st.sampled_from([None, None, *NAMES]), min_size=n, max_size=n))
    labels = labels if draw(st.booleans()) else [None] * n
    pairs = draw(st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1), st.booleans()), max_size=4))
    sets = draw(st.lists(st.sets(st.sampled_from(NAMES), max_size=3), min_size=n, max_size=n))
    evidence = Evidence.from_labels(labels)
    if draw(st.booleans()):
        evidence |= Evidence.from_partial_labels([names if len(names) < 3 else None for names in map(list, sets)])
    if bags:
        images, counts, shares, presence = (list(column) for column in zip(*bags, strict=True))
        evidence |= Evidence.from_bags(images, counts=counts, proportions=shares, presence=presence)
    return evidence | Evidence.from_pairs(
        same=[(a, b) for a, b, same in pairs if same and a != b],
        different=[(a, b) for a, b, same in pairs if not same and a != b],
    )


def found(evidence, n, n_clusters):
    ids = [str(i) for i in range(n)]
    resolved = evidence.resolve(ids, n_clusters=n_clusters, keep_contradictory_pairs=True)
    return feasibility(resolved, n_clusters)


def differ_in_some(bag, low, high, n_clusters):
    """Whether a count of a bag leaves it open for all pairs of its images to be of two classes."""
    images = sorted(set(bag))
    fitting = [
        x for x in itertools.product(range(n_clusters), repeat=len(images)) if low <= len(set(x)) <= (high or 99)
    ]
    pairs = itertools.combinations(range(len(images)), 2)
    return all(any(x[i] != x[j] for x in fitting) for i, j in pairs)


def counts_allowed(bag, n_clusters):
    """All class counts that some assignment of a bag has."""
    return {len(set(x)) for x in itertools.product(range(n_clusters), repeat=len(set(bag)))}


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(evidences(5), st.integers(1, 4))
def test_what_is_said_is_true_of_all_assignments_that_fit(evidence, n_clusters):
    try:
        findings = found(evidence, 5, n_clusters)
    except InputError:  # refused before: too few clusters, or a count that its bag cannot show
        assume(False)
    fitting = judged(evidence, 5, n_clusters)
    texts = [str(finding) for finding in findings]
    assert any(finding.level == "problem" for finding in findings) == (not fitting), texts
    merged = any(len(set(x)) == 1 for x in fitting)
    says_merged = any("tell two classes apart" in t or "tells two" in t or "One cluster for all" in t for t in texts)
    stated = evidence.sizes().keys() - {"bags"}
    assert says_merged == (merged and n_clusters > 1 and bool(stated)), texts
    for text in texts:
        if " is in no bag" in text:
            absent = text.split(": ", 1)[1].split(" is in no bag")[0].split(", ")
            assert not any(x[image] in absent for x in fitting for _, image in evidence.bags), text
        if "not said to be in any bag" in text:
            unsaid = text.split(": ", 1)[1].split(" is not said")[0].split(", ")
            assert not any(name in unsaid and value for _, name, value in (*evidence.proportions, *evidence.presence))
            labels = dict(evidence.labels)
            assert not any(labels.get(image) in unsaid for _, image in evidence.bags), text
    bags = {}
    for bag, image in evidence.bags:
        bags.setdefault(bag, []).append(image)
    said = " ".join(texts)
    vague = [
        b for b, low, high in evidence.counts if counts_allowed(bags[b], n_clusters) <= {*range(low, (high or 9) + 1)}
    ]
    assert ("any count is allowed" in said) == bool(vague), texts
    if "none of them says that two images belong together" in said:
        assert not (evidence.labels)
        assert not (evidence.partial)
        assert not (evidence.pairs)
        assert not (evidence.proportions)
        assert not (evidence.presence)
        assert all(differ_in_some(bags[bag], low, high, n_clusters) for bag, low, high in evidence.counts)
    shares = {}
    for bag, name, share in evidence.proportions:
        shares.setdefault(bag, {})[name] = share
    table = np.array([[row.get(name, 0) for name in NAMES] for row in shares.values()]).reshape(-1, len(NAMES))
    unknown = np.linalg.matrix_rank(table, tol=1e-4) < table.any(0).sum()
    all_labelled = {name for _, name, share in evidence.proportions if share} <= {name for _, name in evidence.labels}
    assert ("averages over bags do not" in said) == (unknown and not all_labelled), texts
