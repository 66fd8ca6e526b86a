import dataclasses

import numpy as np
import pytest

from smidgen.config import Config
from smidgen.csv_tables import read_csv
from smidgen.data.dataset import Dataset
from smidgen.errors import InputError, RunError
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.resolved import Resolved
from smidgen.files import read_json, write_json
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.run_folder import RunFolder
from smidgen.setup.encoder import encoder_to_compare
from smidgen.setup.number_of_clusters import bounds_of_evidence, find_number_of_clusters
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
        "auto",
        "the images decide",
    ),
    "a large count": (Evidence.from_bags(BAGS, counts=[14, (11, 20)]), "auto", "the images decide"),
    "small counts": (Evidence.from_bags(BAGS, counts=[2, 1]), "auto", "No number of clusters was given"),
    "a single class": (Evidence.from_labels(["a", *[None] * 39]), "auto", "No number of clusters was given"),
    "nothing": (None, "auto", "No number of clusters was given"),
}


@pytest.mark.parametrize(("evidence", "expected", "why"), EVIDENCE.values(), ids=EVIDENCE)
def test_without_a_number_there_are_as_many_clusters_as_classes_are_known(evidence, expected, why):
    plan, said = planned(evidence)
    assert plan.config.n_clusters == expected
    assert expected == "auto" or plan.method.problem.n_clusters == expected
    assert why in said
    assert "(`--clusters` changes it)" in said


def test_a_range_of_counts_ends_at_the_number_of_clusters():
    bags = EVIDENCE["a large count"][0]
    assert planned(bags, n_clusters=15)[0].evidence.counts_max.tolist() == [14, 15]
    assert fit(AUTO, data=blobs(2, each=20), evidence=bags).config.n_clusters >= 14


def test_a_given_number_wins_and_too_few_are_refused():
    plan, said = planned(EVIDENCE["labels"][0], n_clusters=20)
    assert plan.config.n_clusters == 20
    assert "--clusters" not in said
    with pytest.raises(InputError, match="names 12 classes"):
        planned(EVIDENCE["labels"][0], n_clusters=10)


def test_classes_of_the_images_are_only_a_hint(tmp_path):
    np.savez(tmp_path / "a.npz", x=IMAGES, y=CLASSES)
    plan, said = planned(data=tmp_path / "a.npz")
    assert plan.config.n_clusters == "auto"
    assert "The images are of 3 known classes, used for scores only: `--clusters 3` looks for as many." in said


def test_a_named_dataset_keeps_its_own_number():
    evidence = Evidence.from_labels({"train/00000": "a", "train/00001": "b"})
    plan = make_plan(Config("digits", method="kmeans"), evidence=evidence, listener=Said())
    assert plan.config.n_clusters == 10


# ----------------------------------------------------------------------------------------------------- number "auto"


def blobs(n_clusters=3, each=30, features=12):
    generator = np.random.default_rng(0)
    centres = np.repeat(12 * np.eye(n_clusters, features), each, axis=0)
    return (centres + generator.normal(size=centres.shape)).astype(np.float32)


AUTO = Config("array", method="kmeans", n_clusters="auto", threads=1, issues=False)


def test_auto_finds_the_number_and_the_run_says_it(tmp_path):
    said = Said()
    outcome = fit(AUTO, data=blobs(), out=tmp_path / "run", listener=said)
    assert outcome.config.n_clusters == len(outcome.model.cluster_names) == 3
    assert any(line.startswith("3 clusters suit these images best") for line in said.lines)
    run = RunFolder.open(tmp_path / "run")
    assert run.config["n_clusters"] == run.metrics["n_clusters"] == 3
    chosen = run.manifest["clusters_choice"]
    assert (chosen["asked"], chosen["best"], chosen["clear"]) == ("auto", 3, True)
    assert run.metrics["n_clusters_low"] == chosen["low"] <= 3 <= chosen["high"] == run.metrics["n_clusters_high"]
    curve = read_csv(run.path / "tables" / "cluster_numbers.csv")
    scores = dict(zip(curve["n_clusters"], map(float, curve["score"]), strict=True))
    assert max(scores, key=scores.get) == "3"
    merges = read_csv(run.path / "tables" / "cluster_merges.csv")
    assert merges["images"][-1] == "90"
    assert merges["typical"][-1] in outcome.train.ids


def test_a_run_with_auto_is_resumed_with_its_number(tmp_path, monkeypatch):
    first = fit(AUTO, data=blobs(), out=tmp_path / "run")
    before = RunFolder.open(tmp_path / "run").manifest["clusters_choice"]
    monkeypatch.setattr("smidgen.setup.plan.find_number_of_clusters", None)  # it is not found again
    (tmp_path / "run" / "metrics.json").unlink()
    manifest = read_json(tmp_path / "run" / "manifest.json")
    del manifest["finished"]
    write_json(tmp_path / "run" / "manifest.json", manifest)
    again = fit(AUTO, data=blobs(), out=tmp_path / "run", resume=True)
    assert again.metrics["n_clusters_high"] == first.metrics["n_clusters_high"]
    assert RunFolder.open(tmp_path / "run").manifest["clusters_choice"] == before
    assert fit(AUTO, data=blobs(), out=tmp_path / "run", resume=True).metrics["n_clusters"] == 3


def test_a_run_without_a_number_is_resumed_with_the_one_it_found(tmp_path, monkeypatch):
    open_number = dataclasses.replace(AUTO, n_clusters=None)
    fit(open_number, data=blobs(), out=tmp_path / "run")
    monkeypatch.setattr("smidgen.setup.plan.find_number_of_clusters", None)
    assert fit(open_number, data=blobs(), out=tmp_path / "run", resume=True).config.n_clusters == 3
    manifest = read_json(tmp_path / "run" / "manifest.json")
    write_json(tmp_path / "run" / "manifest.json", manifest | {"clusters_choice": {"best": "many"}})
    with pytest.raises(RunError, match="manifest"):
        fit(open_number, data=blobs(), out=tmp_path / "run", resume=True)


def test_a_run_with_auto_is_not_resumed_where_the_dataset_states_another_number(tmp_path):
    nine = Config("digits", n_clusters=9, method="kmeans", threads=1, issues=False, options={"n_init": 1})
    fit(nine, out=tmp_path / "run")
    manifest = read_json(tmp_path / "run" / "manifest.json")
    chosen = {"asked": "auto", "best": 9, "low": 8, "high": 10, "clear": True, "least": 1, "most": 1438}
    write_json(tmp_path / "run" / "manifest.json", manifest | {"clusters_choice": chosen})  # as if it had been found
    assert fit(dataclasses.replace(nine, n_clusters="auto"), out=tmp_path / "run", resume=True).config.n_clusters == 9
    with pytest.raises(RunError, match="n_clusters"):
        fit(dataclasses.replace(nine, n_clusters=None), out=tmp_path / "run", resume=True)


def test_a_plan_with_auto_leaves_the_number_open():
    plan, _ = planned(n_clusters="auto")
    assert plan.config.n_clusters == plan.summary()["n_clusters"] == "auto"


def test_auto_never_goes_below_what_the_evidence_says():
    data, names = blobs(2, each=40), [f"class {row % 6}" for row in range(12)]
    assert fit(AUTO, data=data).config.n_clusters == 2
    labels = Evidence.from_labels(names + [None] * 68)
    assert fit(AUTO, data=data, evidence=labels).config.n_clusters >= 6
    apart = Evidence.from_pairs(different=[(a, b) for a in range(4) for b in range(a)])
    assert bounds_of_evidence(apart.resolve([f"{row}" for row in range(80)])) == (4, 80)
    assert fit(AUTO, data=data, evidence=apart).config.n_clusters >= 4


def test_pairs_of_one_class_bound_the_number_from_above():
    chain = Evidence.from_pairs(same=[(row, row + 1) for row in range(79) if row % 20 != 19])
    assert bounds_of_evidence(chain.resolve([f"{row}" for row in range(80)])) == (1, 4)


def test_bags_of_one_class_say_how_many_there_are():
    data = blobs(4, each=40, features=12) / 8  # too close to be told apart one by one
    generator = np.random.default_rng(1)
    data = (data + generator.normal(size=data.shape)).astype(np.float32)
    bags = [generator.choice(np.arange(40 * k, 40 * k + 40), 10).tolist() for k in range(4) for _ in range(8)]
    counted = Evidence.from_bags(bags, counts=[1] * len(bags))
    found = find_number_of_clusters(data, counted.resolve([f"{row}" for row in range(160)]), seed=0)
    assert found.curve.best == 4
    assert "bags_of_one_class" in found.curve.columns()


@pytest.mark.parametrize("said", [{}, {"counts": [(1, 3)] * 60}, {"presence": [{"a": True}] * 60}])
def test_bags_of_which_little_is_known_are_not_taken_for_bags_of_one_class(said):
    images = blobs(3, 60)
    bags = [np.random.default_rng(bag).choice(len(images), 12).tolist() for bag in range(60)]
    evidence = Evidence.from_bags(bags, **said).resolve([f"{row}" for row in range(len(images))])
    assert bounds_of_evidence(evidence) == (1, len(images))


def test_no_more_clusters_are_looked_for_than_there_are_different_images():
    found = find_number_of_clusters(np.repeat(np.eye(5, 12, dtype=np.float32), 30, 0), Resolved.nothing(150), seed=0)
    assert found.curve.n_clusters.max() == found.as_table()["most"] == 5


@pytest.mark.parametrize("given", [{}, {"n_clusters": "auto"}])
def test_a_prior_of_three_numbers_asks_for_three_clusters(given):
    said = Said()
    config = Config("array", method="fusion-images", options={"prior": "3,2,1"}, **given)
    assert make_plan(config, data=IMAGES, listener=said).config.n_clusters == 3
    assert "`prior` has 3 numbers: looking for as many clusters." in said.lines


@pytest.mark.parametrize(
    ("data", "wanted"),
    [
        (blobs(3, each=3), "for 10 images or more, and there are 9"),
        (np.ones((30, 4), dtype=np.float32), "All images are the same"),
    ],
)
def test_what_cannot_be_counted_is_a_sentence(data, wanted):
    with pytest.raises(InputError, match=wanted):
        fit(AUTO, data=data)


def test_pixels_of_images_are_compared_whatever_their_size():
    generator = np.random.default_rng(0)
    kinds = generator.integers(0, 256, (3, 3, 6, 6))
    images = np.repeat(kinds, 20, axis=0).repeat(8, axis=2).repeat(8, axis=3)  # 48 × 48, in colour
    images = np.clip(images + generator.normal(size=images.shape) * 20, 0, 255).astype(np.uint8)
    assert find_number_of_clusters(images, Resolved.nothing(60), seed=0).curve.best == 3


def test_photographs_are_compared_by_embeddings_whatever_the_method_is_given():
    colour = Dataset("a", "train", np.arange(3).astype(object), np.zeros((3, 3, 8, 8), dtype=np.uint8))
    grey = Dataset("a", "train", np.arange(3).astype(object), np.zeros((3, 1, 28, 28), dtype=np.uint8))
    vectors = Dataset("a", "train", np.arange(3).astype(object), np.zeros((3, 5), dtype=np.float32))
    assert encoder_to_compare(AUTO, colour) == "lite2"
    trained = Config("array", method="fusion-images", n_clusters="auto", options={"encoder": "lite0"})
    assert encoder_to_compare(trained, colour) == "lite0"
    assert encoder_to_compare(Config("array", method="sela", options={"encoder": "alexnet"}), colour) == "lite2"
    assert encoder_to_compare(AUTO, grey) is None
    assert encoder_to_compare(AUTO, vectors) is None


@pytest.mark.parametrize("features", [1, 2, 300])
def test_embeddings_of_any_length_are_counted(features):
    generator = np.random.default_rng(2)  # of one feature, the centres of seed 0 nearly coincide
    centres = 30 * np.array([[0, 1], [1, -1], [2, 0]]) @ generator.normal(size=(2, features))
    data = (np.repeat(centres, 12, axis=0) + generator.normal(size=(36, features))).astype(np.float32)
    found = find_number_of_clusters(data, Resolved.nothing(36), seed=0)
    assert found.curve.low <= 3 <= found.curve.high
    assert len(found.tree_columns(np.arange(36))["node"]) == 2 * found.tree.n_leaves - 1


def test_few_different_images_are_counted():
    data = np.repeat(10 * np.eye(3, 5, dtype=np.float32), [8, 4, 3], axis=0)
    assert find_number_of_clusters(data, Resolved.nothing(15), seed=0).tree.n_leaves == 3


def test_the_largest_number_that_is_tried_is_said_to_be_that():
    found = find_number_of_clusters(blobs(6, each=20), Resolved.nothing(120), seed=0, most=4)
    assert found.in_words().startswith("4 clusters suit these images best")
    assert found.in_words().endswith("It is the largest number tried: there may be more.")


def test_a_cloud_in_which_no_cluster_is_clear_is_said_to_be_that():
    cloud = np.random.default_rng(0).normal(size=(200, 20)).astype(np.float32)
    found = find_number_of_clusters(cloud, Resolved.nothing(200), seed=0, most=12)
    assert not found.as_table()["clear"]
    assert (
        "The number is not clear: these clusters are hardly better apart than cuts of a single cloud."
        in found.in_words()
    )


def test_colour_images_are_embedded_to_be_counted_by_a_method_of_pixels(monkeypatch):
    used = []

    def embeddings(train, name, **_):
        used.append(name)
        return dataclasses.replace(train, images=blobs(3, each=20), items=None)

    monkeypatch.setattr("smidgen.setup.plan.compared", embeddings)
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 3), dtype=np.uint8)
    assert fit(AUTO, data=images).config.n_clusters == 3
    assert used == ["lite2"]


def test_many_labels_pairs_and_bags_are_sampled():
    data, generator = blobs(3, each=60), np.random.default_rng(0)
    labels = Evidence.from_labels([f"{row // 60}" for row in range(180)])
    pairs = Evidence.from_pairs(same=[(0, row) for row in range(1, 60)], different=[(0, row) for row in range(60, 180)])
    bags = [generator.permutation(180)[:4].tolist() for _ in range(60)]
    counts = [len({row // 60 for row in bag}) for bag in bags]
    known = (labels | pairs | Evidence.from_bags(bags, counts=counts)).resolve([f"{row}" for row in range(180)])
    found = find_number_of_clusters(data, known, seed=0)
    assert found.curve.best == 3
    assert {"labels", "pairs", "counts"} <= found.curve.evidence.keys()
    assert (found.least, found.most) == (3, 3)


def test_a_few_clusters_of_a_few_images_are_counted():
    found = find_number_of_clusters(blobs(5, each=8), Resolved.nothing(40), seed=0)
    assert found.curve.best == 5
    only = find_number_of_clusters(blobs(2, each=5), Resolved.nothing(10), seed=0)
    assert only.in_words().startswith("2 clusters: no other number was left to try.")
