"""Methods that learn from bags, from end to end: where their bags come from, what is said of it and what is written."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from smidgen.config import Config
from smidgen.csv_tables import read_csv
from smidgen.data.datasets import Dataset
from smidgen.evaluation.bag_methods import score_bags
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.resolved import Resolved
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.methods import METHODS, make_config
from smidgen.methods.ucc import UCC
from smidgen.model import Model
from smidgen.run_folder import RunFolder
from smidgen.setup.configuration import resolve

OPTIONS = {"encoder": "conv", "steps": 2, "bags": 4, "bag_size": "6", "reconstruction": "none", "augment": False}
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)


class Heard(Listener):
    """Remembers what is said."""

    def __init__(self):
        self.said = []

    def log(self, text):
        self.said.append(text)


def config(method, data="digits", **options):
    n_clusters = None if data == "digits" else 3
    return Config(data, method=method, threads=1, n_clusters=n_clusters, options=OPTIONS | options)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of ucc on digits, without evidence, and what was said."""
    folder, heard = tmp_path_factory.mktemp("bags") / "run", Heard()
    fit(config("ucc"), out=folder, listener=heard)
    return RunFolder.open(folder), heard.said


def test_bags_are_drawn_from_the_classes_and_this_is_said(run):
    folder, said = run
    assert any("Bags are sampled from the 1,438 labels at each step: 'ucc'" in text for text in said)
    assert not any("no use of" in text for text in said)
    assert folder.manifest["evidence"]["labels to draw bags from"] == 1438
    assert "labels" not in folder.manifest["evidence"]


def test_unique_counts_name_no_cluster_and_labels_are_not_explained(run):
    folder, _ = run
    assert "test_named_accuracy" not in folder.metrics
    assert not (folder.path / "tables" / "evidence_labels.csv").exists()


def test_scores_tables_and_figures_of_bags_are_written(run):
    folder, _ = run
    names = ("ucc_accuracy", "paper_ucc_accuracy", "kmeans_accuracy", "spectral_accuracy", "min_js")
    wanted = {f"test_{name}" for name in names}
    assert wanted <= folder.metrics.keys()
    assert len(read_csv(folder.path / "tables" / "js_divergences.csv")["bits"]) == 100
    page = (folder.path / "report.html").read_text()
    assert "Jensen–Shannon divergence of classes" in page
    assert "labels to draw bags from" in page


@pytest.mark.parametrize("counts", ["dllp", "mse"])
def test_class_counts_name_clusters_and_have_their_scores(counts):
    metrics = fit(config("rcc", counts=counts)).metrics
    assert {"test_named_accuracy", "test_proportion_error", "test_report_min_js"} <= metrics.keys()


def test_a_saved_model_scores_new_images_by_bags_of_the_sizes_it_was_trained_on(tmp_path):
    n = np.arange(30)
    evidence = Evidence.from_bags(
        [n[i : i + 5].tolist() for i in range(0, 30, 5)], proportions=[{"a": 0.6, "b": 0.4}] * 6
    )
    fit(config("rcc", data="array", counts="mse"), data=IMAGES, evidence=evidence, out=tmp_path / "run")
    saved = Model.load(tmp_path / "run")
    assert saved.method.bag_sizes.tolist() == [5, 5]
    classes = n % 2
    new = Dataset("x", "all", n.astype(str).astype(object), IMAGES[:, None], classes, ("b", "a"))
    scores = score_bags(
        saved, [new], [saved.assign_and_encode(IMAGES[:, None])], seed=0, n_bags=8, decode=False
    ).metrics
    assert {"all_ucc_accuracy", "all_proportion_error", "all_class_count_accuracy"} < scores.keys()


def test_test_images_of_a_single_class_have_no_divergence(tmp_path):
    fill_classes(tmp_path / "data" / "train", "abc")
    fill_classes(tmp_path / "data" / "test", "a")
    run = dataclasses.replace(config("ucc", data=str(tmp_path / "data"), ucc="1-2"), size=8)
    metrics = fit(run, out=tmp_path / "run").metrics
    assert "test_ucc_accuracy" in metrics
    assert "test_min_js" not in metrics
    assert (tmp_path / "run" / "report.html").is_file()


def fill_classes(folder, names):
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for k in range(9):
            Image.fromarray(IMAGES[9 * i + k]).save(folder / name / f"{k}.png")


def test_labels_are_spare_beside_bags():
    evidence = Resolved(
        30,
        labels=torch.arange(30) % 3,
        class_names=("a", "b", "c"),
        bag_names=("x", "y"),
        members=torch.arange(12),
        offsets=torch.tensor([0, 6, 12]),
        proportions=torch.zeros(0, 3),
        presence=torch.zeros(0, 3, dtype=torch.int64),
        count_bags=torch.tensor([0, 1]),
        counts_min=torch.tensor([3, 3]),
        counts_max=torch.tensor([3, 3]),
    )
    heard = Heard()
    fit(config("ucc", data="array"), data=IMAGES, evidence=evidence, listener=heard)
    assert "'ucc' makes no use of labels (`fusion` does)." in heard.said
    assert not any("Fresh bags" in text for text in heard.said)


def test_only_methods_that_need_classes_are_shown_them():
    from smidgen.methods import method_class

    need = {"consistency", "label-spreading", "logistic-regression", "rcc", "supervised", "ucc"}
    assert {name for name in METHODS if method_class(name).evidence_use.needs_labels} == need


def test_a_preset_is_resolved_before_it_is_written():
    settings = {"preset": "fast", "steps": 1, "bags": 4, "bag_size": "6"}
    chosen = resolve(dataclasses.replace(config("ucc"), options=settings))
    assert chosen.options == dataclasses.asdict(make_config("ucc", settings))


def test_every_image_is_looked_at_once_after_training(monkeypatch, tmp_path):
    seen = []
    both = UCC.assign_and_encode
    monkeypatch.setattr(UCC, "assign_and_encode", lambda self, images: seen.append("both") or both(self, images))
    for name in ("encode", "assign"):
        monkeypatch.setattr(UCC, name, _counted(getattr(UCC, name), name, seen))
    settings = {"preset": "fast", "steps": 1, "bags": 4, "bag_size": "6"}
    np.savez(tmp_path / "few.npz", x=IMAGES, y=np.arange(30) % 3)
    fit(
        Config(str(tmp_path / "few.npz"), method="ucc", n_clusters=3, threads=1, options=settings), out=tmp_path / "run"
    )
    start = seen.index("both")
    assert set(seen[start:]) == {"both", "encode"}  # the latter by the former: nothing is encoded twice
    assert seen.count("both") == seen[start:].count("encode")


def _counted(function, name, seen):
    def counted(self, images):
        seen.append(name)
        return function(self, images)

    return counted
