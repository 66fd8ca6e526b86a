"""The whole of a fit: what it writes, what it refuses, and that it goes on where it was stopped."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from smidgen import fitting
from smidgen.config import Config, as_table, from_table
from smidgen.csv_tables import read_csv
from smidgen.errors import InputError, RunError
from smidgen.evidence.evidence import Evidence
from smidgen.evidence.resolved import Resolved
from smidgen.files import read_json
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.model import Model
from smidgen.run_folder import RunFolder
from smidgen.setup.configuration import resolve
from smidgen.setup.options import with_options
from smidgen.setup.problem import _channel_statistics
from smidgen.training.interrupts import Interrupted

QUICK = {"supervised": {"steps": 12, "batch_size": 32}, "fusion": {"steps": 8, "refine_steps": 6, "batch_size": 32}}
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)


def config(method="supervised", data="digits", **changes):
    changes.setdefault("options", QUICK.get(method, {}))
    return Config(data, method=method, threads=1, checkpoint_every=5, **changes)


@pytest.fixture
def _no_report(monkeypatch):
    """Leave the report and its pictures out: they have tests of their own."""
    monkeypatch.setattr(fitting, "write_page", lambda path: None)
    monkeypatch.setattr(fitting, "write_thumbnails", lambda run, datasets: None)


class StopAt(Listener):
    """Sends a signal at a moment of the progress, or remembers what is said."""

    def __init__(self, what=None, done=None, number=signal.SIGTERM):
        self.where, self.number, self.said = (what, done), number, []

    def progress(self, what, done, total, note=""):
        if (what, done) == self.where:
            os.kill(os.getpid(), self.number)

    def log(self, text):
        self.said.append(text)


def results(folder):
    """All that a run must give again bit for bit."""
    run = RunFolder.open(folder)
    scores = {k: v for k, v in run.metrics.items() if not k.startswith(("seconds", "peak"))}
    log = [{k: v for k, v in line.items() if k != "seconds"} for line in run.history()]
    files = ["assignments.csv", "embeddings.npy", "model/weights.safetensors", "model/model.json", "config.toml"]
    return scores, log, {name: (run.path / name).read_bytes() for name in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Uninterrupted runs, the first with its report."""
    folder = tmp_path_factory.mktemp("whole")
    fit(config("supervised"), out=folder / "supervised")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "write_page", lambda path: None)
        fit(config("fusion"), out=folder / "fusion")
    return folder


# -------------------------------------------------------------------------------------------------------- the folder


def test_a_finished_run_holds_everything(whole):
    run = RunFolder.open(whole / "supervised")
    assert run.finished
    held = {path.name for path in run.path.iterdir()}
    assert held >= {"config.toml", "manifest.json", "metrics.jsonl", "metrics.json", "checkpoints", "model"}
    assert held >= {"assignments.csv", "embeddings.npy", "thumbnails.parquet", "report.html"}
    assert with_options(from_table(run.config)) == with_options(resolve(config()))
    assert (run.manifest["data"]["train_images"], run.manifest["data"]["test_images"]) == (1438, 359)
    assert run.manifest["threads"] == 1
    assert run.metrics["n_images"] == 1438
    assert all(np.isfinite(value) for value in run.metrics.values() if not isinstance(value, (str, list)))


def test_its_tables_have_one_row_per_image(whole):
    table = read_csv(whole / "supervised" / "assignments.csv")
    assert list(table) == ["image", "split", "cluster", "confidence", "class"]
    assert table["split"] == ["train"] * 1438 + ["test"] * 359
    assert len(set(table["image"])) == 1797
    embeddings = np.load(whole / "supervised" / "embeddings.npy", allow_pickle=False)
    assert embeddings.shape == (1797, 128)
    assert embeddings.dtype == np.float32
    right = [c == k for s, c, k in zip(table["split"], table["class"], table["cluster"], strict=True) if s == "test"]
    assert np.mean(right) == pytest.approx(read_json(whole / "supervised" / "metrics.json")["test_named_accuracy"])


def test_the_saved_model_gives_the_assignments_of_the_table(whole):
    model = Model.load(whole / "supervised")
    table = read_csv(whole / "supervised" / "assignments.csv")
    from smidgen.data.datasets import open_dataset

    soft = model.assign(open_dataset("digits").images)
    assert [model.cluster_names[k] for k in soft.argmax(1)] == table["cluster"][:1438]
    assert [f"{c:.6f}" for c in soft.max(1)] == table["confidence"][:1438]


@pytest.mark.parametrize("method", QUICK)
@pytest.mark.usefixtures("_no_report")
def test_with_a_folder_or_without_the_result_is_the_same(method, whole):
    outcome = fit(config(method))
    scores = results(whole / method)[0]
    assert {k: outcome.metrics[k] for k in scores} == scores


# ------------------------------------------------------------------------------------------------------- interruptions


@pytest.mark.parametrize(
    ("method", "what", "done"),
    [
        ("supervised", "train", 1),
        ("supervised", "train", 5),
        ("supervised", "train", 12),
        ("fusion", "cluster", 7),
        ("fusion", "cluster", 8),
        ("fusion", "refine", 3),
        ("fusion", "assign", 512),
        ("fusion", "assign", 1024),
    ],
)
@pytest.mark.usefixtures("_no_report")
def test_stopped_by_a_signal_and_resumed_is_the_whole_run(method, what, done, whole, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(Interrupted) as stopped:
        fit(config(method), out=out, listener=StopAt(what, done))
    assert stopped.value.signal == signal.SIGTERM
    assert not RunFolder.open(out).finished
    fit(config(method), out=out, resume=True)
    assert results(out) == results(whole / method)


@pytest.mark.parametrize("function", ["write_assignments", "write_page", "write_json", "write_thumbnails"])
def test_killed_while_the_results_are_written_and_resumed_is_the_whole_run(function, whole, tmp_path, monkeypatch):
    def die(*_args, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fitting, "write_page", lambda path: None)
    monkeypatch.setattr(fitting, "write_thumbnails", lambda run, datasets: None)
    with monkeypatch.context() as patch:
        patch.setattr(fitting, function, die)
        with pytest.raises(KeyboardInterrupt):
            fit(config(), out=tmp_path / "run")
    fit(config(), out=tmp_path / "run", resume=True)
    assert results(tmp_path / "run") == results(whole / "supervised")


@pytest.mark.usefixtures("_no_report")
def test_a_run_without_a_checkpoint_starts_fresh(whole, tmp_path):
    RunFolder.start(tmp_path, as_table(resolve(config())), resume=False, overwrite=False).close()
    (tmp_path / "metrics.jsonl").write_text('{"stage": "train", "step": 1}\n')
    fit(config(), out=tmp_path, resume=True)
    assert results(tmp_path) == results(whole / "supervised")


def test_a_finished_run_says_so_and_is_left_alone(whole):
    before = {p: p.stat().st_mtime_ns for p in (whole / "supervised").rglob("*") if p.is_file() and p.name != ".lock"}
    listener = StopAt()
    outcome = fit(config(), out=whole / "supervised", resume=True, listener=listener)
    assert "has finished already" in listener.said[-1]
    assert outcome.metrics == read_json(whole / "supervised" / "metrics.json")
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_a_run_that_time_stops_says_so_with_its_steps():
    metrics = fit(config(max_seconds=1e-6)).metrics
    assert (metrics["steps"], metrics["stopped_early"]) == (1, True)
    assert metrics["alarms"][0].startswith("The result is rough: time was up after 1 of the 12 steps of stage 'train'")
    metrics = fit(config()).metrics
    assert (metrics["steps"], "stopped_early" in metrics) == (12, False)


def test_two_wrong_labels_of_fifty_come_first_though_they_were_learned(tmp_path):
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 5, 600)
    vectors = ((rng.normal(size=(5, 20)) * 2.5)[classes] + rng.normal(size=(600, 20))).astype(np.float32)
    rows = np.concatenate([np.flatnonzero(classes == k)[:10] for k in range(5)])
    given = classes[rows]
    given[[3, 27]] = (given[[3, 27]] + 2) % 5
    ids = [f"train/{row:05d}" for row in rows]
    evidence = Evidence.from_labels([f"class {k}" for k in given], ids=ids)
    options = {"steps": 80, "refine_steps": 300, "batch_size": 256, "refine_batch_size": 128}
    quick = Config("array", n_clusters=5, options=options, threads=1)
    fit(quick, data=vectors, evidence=evidence, out=tmp_path / "run")
    table = read_csv(tmp_path / "run" / "tables" / "evidence_labels.csv")
    assert set(table["image"][:2]) == {ids[3], ids[27]}
    assert table["agrees"][:3] == ["0", "0", "1"]
    assert float(table["wrong_probability"][1]) > 0.2 > 5 * float(table["wrong_probability"][2])


# ------------------------------------------------------------------------------------------------------------ refusals


def test_another_configuration_is_refused_with_the_difference(whole):
    changed = config(seed=3, options={"steps": 12, "batch_size": 64})
    with pytest.raises(RunError, match=r"options.batch_size: 32 → 64; seed: 0 → 3"):
        fit(changed, out=whole / "supervised", resume=True)


@pytest.mark.usefixtures("_no_report")
def test_other_images_or_other_evidence_are_refused(tmp_path):
    mine = config("kmeans", "array", n_clusters=2)
    fit(mine, data=IMAGES, out=tmp_path / "run")
    with pytest.raises(RunError, match=r"started with other inputs .training images: "):
        fit(mine, data=IMAGES[::-1], out=tmp_path / "run", resume=True)
    some = Resolved(30, labels=torch.arange(30) % 2)
    with pytest.raises(RunError, match=r"started with other inputs .evidence: none → [0-9a-f]{8}\)"):
        fit(mine, data=IMAGES, evidence=some, out=tmp_path / "run", resume=True)
    fit(mine, data=IMAGES, out=tmp_path / "run", resume=True)


def test_a_full_folder_is_refused_before_any_image_is_read(whole):
    with pytest.raises(RunError, match="already holds a run"):
        fit(config(data="no-such-data"), out=whole / "supervised")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fussion"}, r"Unknown method 'fussion'\. Did you mean 'fusion'"),
        ({"options": {"stepps": 3}}, r"Unknown option of supervised 'stepps'\. Did you mean 'steps'"),
        ({"n_clusters": 0}, "`n_clusters` must be a whole number, 1 or above, got 0"),
        ({"n_clusters": 9}, "evidence names 10 classes, and there are 9 clusters"),
        ({"n_clusters": 2000}, "2000 clusters were wanted of 1438 images"),
        ({"seed": -1}, "`seed` must be a whole number, 0 or above, got -1"),
        ({"max_seconds": 0}, "`max_seconds` must be a number above 0, got 0"),
        ({"device": "tpu9"}, "device 'tpu9' cannot be used here"),
        ({"data": "digitz"}, r"Unknown dataset 'digitz'\. Did you mean 'digits'"),
        ({"options": {"encoder": "konv"}}, "Unknown encoder 'konv'"),
    ],
)
def test_what_is_wrong_is_said_before_a_folder_is_made(change, message, tmp_path):
    given = {"data": "digits", "method": "supervised", "threads": 1} | change
    with pytest.raises(InputError, match=message):
        fit(Config(**given), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("threads", 0, "a whole number from 1 to 4096, got 0"),
        ("checkpoint_every", 0, "a whole number, 1 or above, got 0"),
        ("allow_bad", 1.5, "a number from 0 to 1, got 1.5"),
        ("images", 0, "a whole number, 1 or above, got 0"),
        ("imbalance", 0.5, "a number, 1 or above, got 0.5"),
        ("size", 5000, "a whole number from 1 to 4096, got 5000"),
        ("n_clusters", "most", "a whole number, 1 or above, or auto, got 'most'"),
        ("n_clusters", 2.5, "a whole number, 1 or above, got 2.5"),
        ("fine_tune", "yes", "true or false, got 'yes'"),
    ],
)
def test_settings_out_of_range_are_named(name, value, wanted):
    with pytest.raises(InputError) as refused:
        Config("digits", **{name: value})
    assert str(refused.value) == f"`{name}` must be {wanted}."


def test_settings_from_numpy_and_paths_become_what_a_file_can_hold():
    made = Config(Path("photos"), n_clusters=np.int64(3), images=30.0)
    assert (made.data, made.n_clusters, made.images) == ("photos", 3, 30)
    assert from_table(as_table(made)) == made


def test_evidence_about_other_images_is_refused():
    with pytest.raises(InputError, match=r"about 7 images, and there are 30 training images"):
        fit(config("kmeans", "array", n_clusters=2), data=IMAGES, evidence=Resolved.nothing(7))


# ------------------------------------------------------------------------------------------------------------- choices


def test_the_number_of_clusters_is_the_dataset_s_and_otherwise_open_until_the_evidence_is_read():
    assert resolve(Config("digits")).n_clusters == 10
    assert resolve(Config("digits", classes=("3", "8"))).n_clusters == 2
    assert resolve(Config("photos/")).n_clusters is None


def test_resolving_twice_changes_nothing():
    once = resolve(config("fusion"))
    assert resolve(once) == once
    assert from_table(as_table(once)) == once


def test_statistics_are_those_of_the_pixels():
    images = np.random.default_rng(1).integers(0, 256, (7, 3, 5, 5), dtype=np.uint8)
    mean, std = _channel_statistics(images)
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)) / 255)
    np.testing.assert_allclose(std, images.std((0, 2, 3)) / 255)


def test_test_images_are_made_like_the_training_images():
    outcome = fit(config("kmeans", "array", n_clusters=2), data=IMAGES, test=np.zeros((4, 16, 16, 3), np.uint8))
    assert outcome.model.preprocessing.channels == 1
    assert outcome.metrics["n_images"] == 30


def test_a_run_starts_from_another_one_s_encoder(whole):
    for source in QUICK:
        started = fit(config("kmeans", init_from=str(whole / source), options={"features": "encoder"})).model
        images = np.random.default_rng(2).integers(0, 256, (5, 1, 8, 8), dtype=np.uint8)
        assert (started.encode(images) == Model.load(whole / source).encode(images)).all()


def test_threads_are_set_for_the_fit_and_put_back():
    before, seen = torch.get_num_threads(), []

    class Look(Listener):
        def progress(self, what, done, total, note=""):
            seen.append(torch.get_num_threads())

    mine = Config("array", method="kmeans", n_clusters=2, threads=before + 1)
    fit(mine, data=IMAGES, listener=Look())
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def test_a_fit_works_in_another_thread():
    found = []
    mine = config("kmeans", "array", n_clusters=2)
    thread = threading.Thread(target=lambda: found.append(fit(mine, data=IMAGES)))
    thread.start()
    thread.join()
    assert found[0].metrics["n_clusters"] == 2


@pytest.mark.usefixtures("_no_report")
@pytest.mark.parametrize(("issues", "most", "looked"), [(True, 30, True), (True, 29, False), (False, 30, False)])
def test_issues_are_looked_for_unless_switched_off_or_among_too_many_images(
    tmp_path, monkeypatch, issues, most, looked
):
    monkeypatch.setattr(fitting, "MOST_INSPECTED", most)
    images, listener = np.concatenate([IMAGES[:29], IMAGES[:1]]), StopAt()
    fit(config("kmeans", n_clusters=2, issues=issues), data=images, out=tmp_path / "run", listener=listener)
    assert (tmp_path / "run/tables/issues.csv").is_file() == looked
    assert any("among at most 29 images, and these are 30" in text for text in listener.said) == (issues and not looked)


@pytest.mark.usefixtures("_no_report")
def test_a_run_can_be_resumed_without_looking_for_issues(tmp_path):
    fit(config("kmeans", n_clusters=2), data=IMAGES, out=tmp_path / "run")
    assert fit(config("kmeans", n_clusters=2, issues=False), data=IMAGES, out=tmp_path / "run", resume=True).metrics
