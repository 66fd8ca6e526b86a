"""Wrong evidence comes first, whatever its kind; probabilities hold; every piece has its row."""

import numpy as np
import pytest

from smidgen.evaluation.bag_predictions import predict_bags
from smidgen.evaluation.explained import explain, images_of_worst_bags
from smidgen.evidence.bag_laws import Calibration
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.simulation import Simulation, simulate

N, CLUSTERS = 3000, 6
IDS = np.array([f"{i}.png" for i in range(N)], dtype=object)
NAMES = tuple(f"c{k}" for k in range(CLUSTERS))
RNG = np.random.default_rng(0)
CLASSES = RNG.integers(0, CLUSTERS, N)


def model(accuracy=0.99):
    """Assignments of a model that is sure of most images, and of some mistakes too."""
    rng = np.random.default_rng(1)
    seen = np.where(rng.random(N) < accuracy, CLASSES, rng.integers(0, CLUSTERS, N))
    logits = rng.normal(size=(N, CLUSTERS))
    logits[np.arange(N), seen] += rng.choice([4, 8], N, p=[0.1, 0.9])
    p = np.exp(logits)
    return (p / p.sum(1, keepdims=True)).astype(np.float32)


def simulated(**settings):
    settings = {"bag_size": 24, "ucc": (1, 4), **settings}
    generator = np.random.default_rng(2)
    return simulate(Simulation(**settings), CLASSES, ids=IDS, class_names=NAMES, generator=generator)[0]


def explained(evidence, p=None, **options):
    resolved = evidence.resolve(IDS, NAMES, CLUSTERS, keep_contradictory_pairs=True)
    return explain(model() if p is None else p, resolved, image_ids=IDS, cluster_names=NAMES, **options)


def truth_of_bags(evidence):
    held = {}
    for bag, image in evidence.bags:
        held.setdefault(bag, set()).add(int(CLASSES[int(str(image)[:-4])]))
    return {bag: len(classes) for bag, classes in held.items()}


@pytest.mark.parametrize(("composition", "least"), [("even", 0.99), ("random", 0.75)])
def test_bags_with_wrong_counts_come_first(composition, least):
    evidence = simulated(n_bags=300, wrong=0.05, composition=composition)
    truth = truth_of_bags(evidence)
    table = explained(evidence).tables["counts"]
    wrong = np.array([truth[bag] != u for bag, u in zip(table["bag"], table["ucc"], strict=True)])
    assert 5 < wrong.sum() < 30
    assert wrong[: wrong.sum()].mean() >= least
    called = np.array(table["wrong_probability"]) > 0.5
    assert wrong[called].mean() >= least
    assert wrong[~called].mean() < 0.02


def test_counts_of_a_model_that_errs_are_found_far_better_than_by_the_bare_law():
    evidence, p = simulated(n_bags=300, composition="random"), model(accuracy=0.9)
    table = explained(evidence, p).tables["counts"]
    resolved = evidence.resolve(IDS, NAMES, CLUSTERS)
    bare = predict_bags(p, resolved, calibration=Calibration(leak=0, gathering=0)).unique_counts
    right, sure = np.mean(table["agrees"]), np.mean(table["predicted_probability"])
    assert right > (bare == resolved.counts_min.numpy()).mean() + 0.3
    assert abs(right - sure) < 0.15


def test_calibration_is_found_only_where_counts_are_known():
    assert explained(simulated(labels_per_class=2)).bags is None
    calibration = explained(simulated(n_bags=200)).bags
    assert calibration is not None
    assert calibration.gathering >= 0.75  # these bags are shared evenly


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("labels", {"labels_per_class": 60}),
        ("pairs", {"pairs": 400}),
        ("proportions", {"n_bags": 200, "counts": False, "proportions": True}),
        ("presence", {"n_bags": 200, "counts": False, "presence": 2}),
    ],
)
def test_wrong_pieces_of_each_kind_come_first(kind, settings):
    table = explained(simulated(**settings, wrong=0.05)).tables[kind]
    good = explained(simulated(**settings)).tables[kind]
    called, spared = (np.array(t["wrong_probability"]) > 0.5 for t in (table, good))
    assert 0.02 < called.mean() < 0.1
    assert spared.mean() < 0.03
    assert called[: called.sum()].all()
    assert not any(table["agrees"][: int(called.sum())])


def test_every_piece_has_one_row_and_contradictions_stand_before_the_rest():
    evidence = simulated(n_bags=40, proportions=True, presence=2, labels_per_class=5, pairs=30, partial=2, wrong=0.1)
    tables = explained(evidence).tables
    assert set(tables) == set(LEARNED)
    sizes = {
        "partial": evidence.sizes()["partial"],
        "labels": 30,
        "counts": 40,
        "proportions": 40,
        "presence": 80,
        "pairs": 30,
    }
    for kind, table in tables.items():
        assert {len(column) for column in table.values()} == {sizes[kind]}
        assert table["agrees"] == sorted(table["agrees"])
        for name in ("probability", "wrong_probability", "predicted_probability"):
            assert all(0 <= value <= 1 for value in table.get(name, ()))


def test_a_range_is_probable_as_the_counts_in_it():
    p = np.eye(3)[[0, 0, 1]]
    evidence = Evidence.from_bags([[0, 1, 2], [0, 1]], counts=[(1, 2), 2]).resolve(["a", "b", "c"], n_clusters=3)
    table = explain(p, evidence, image_ids=["a", "b", "c"], cluster_names=["x", "y", "z"]).tables["counts"]
    assert (table["bag"][-1], table["ucc_min"][-1], table["ucc_max"][-1]) == ("bag0", 1, 2)
    assert table["probability"][-1] > 0.9


def test_only_the_kinds_asked_for_are_explained():
    evidence = simulated(labels_per_class=2, pairs=10)
    assert list(explained(evidence, kinds=("pairs", "bags")).tables) == ["pairs"]
    assert explained(Evidence()).tables == {}


def test_images_are_kept_of_the_bags_that_contradict_only_and_of_every_cluster():
    evidence = simulated(n_bags=100, wrong=0.05)
    resolved, p = evidence.resolve(IDS, NAMES, CLUSTERS), model()
    tables = explain(p, resolved, image_ids=IDS, cluster_names=NAMES).tables
    kept = images_of_worst_bags(tables, resolved, clusters=p.argmax(1), image_ids=IDS, bags=3, images=4)
    assert list(dict.fromkeys(kept["bag"])) == tables["counts"]["bag"][:3]
    members = {}
    for bag, image in evidence.bags:
        members.setdefault(bag, set()).add(image)
    assert all(image in members[bag] for bag, image in zip(kept["bag"], kept["image"], strict=True))
    clusters = dict(zip(IDS, p.argmax(1), strict=True))
    for bag in set(kept["bag"]):
        shown = [clusters[i] for b, i in zip(kept["bag"], kept["image"], strict=True) if b == bag]
        assert len(set(shown)) == min(4, len({clusters[i] for i in members[bag]}))


@pytest.mark.parametrize("wrong", [0.0, 0.1, 0.3])
def test_the_rate_of_wrong_counts_is_estimated(wrong):
    evidence = simulated(n_bags=300, wrong=wrong)
    truth = truth_of_bags(evidence)
    rates = explained(evidence).wrong_rates
    assert set(rates) == {"wrong_counts"}
    assert rates["wrong_counts"] == pytest.approx(np.mean([truth[bag] != u for bag, u, _ in evidence.counts]), abs=0.04)
