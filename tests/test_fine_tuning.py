"""`--fine-tune` with `fusion` is one command: a fit on the frozen encoder, then its last stages are trained further."""

import argparse
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from smidgen import fitting
from smidgen.cli.fit import _how_to_go_on
from smidgen.config import Config
from smidgen.errors import InputError, RunError
from smidgen.estimator import ImageClusterer
from smidgen.evidence.evidence import Evidence
from smidgen.experiments.recipes import parse_recipe
from smidgen.fine_tuning import _Heard, _Unheard
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.methods.tuning_judge import Judge
from smidgen.model import Model
from smidgen.nets.composed import Chain, Projected
from smidgen.reports.page import write_page
from smidgen.run_folder import RunFolder
from smidgen.setup import images
from smidgen.setup.fine_tuning import frozen_fit, has_two_fits, tuning_fit
from smidgen.setup.method import by_options
from smidgen.setup.options import with_options
from smidgen.setup.plan import plan_summary
from smidgen.training import embed

CLASSES = np.arange(24) % 2
IMAGES = (
    np.random.default_rng(0).integers(0, 128, (24, 3, 8, 8), dtype=np.uint8)
    + (CLASSES * 100).astype(np.uint8)[:, None, None, None]
)
NAME = "lite0@32"
QUICK = {"steps": 2, "batch_size": 8, "heads": 4, "kept": 2, "votes": 1}
QUICK |= {"frozen.steps": 4, "frozen.batch_size": 8, "components": 8, "refine_steps": 0}
QUICK |= {"small": 0}  # so that the frozen fit trains heads


@pytest.fixture(scope="module", autouse=True)
def _quick(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMIDGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(fitting, "write_page", lambda path: None)
        patch.setattr(embed, "EMBED_BATCH", 32)  # few images are padded to as many
        yield


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for row, label in enumerate(CLASSES):
        (folder / str(label)).mkdir(exist_ok=True)
        Image.fromarray(IMAGES[row].transpose(1, 2, 0)).save(folder / str(label) / f"{row:02}.png")
    return folder


def config(**settings):
    settings = {"encoder": NAME, "options": QUICK, "n_clusters": 2, "fine_tune": True} | settings
    return Config("array", threads=1, precision="float32", issues=False, **settings)


class Heard(Listener):
    def __init__(self, stop=None):
        self.said, self.stop = [], stop

    def log(self, text):
        self.said.append(text)

    def progress(self, what, done, total, note=""):
        if (what, done) == self.stop:
            raise KeyboardInterrupt


def both(photos, out, **settings):
    return fit(
        config(), data=str(photos), evidence=Evidence.from_labels(CLASSES[CLASSES.argsort()]), out=out, **settings
    )


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out, heard = tmp_path_factory.mktemp("run") / "out", Heard()
    return out, both(photos, out, listener=heard), heard.said


def test_one_command_fits_on_the_frozen_encoder_and_then_trains_it_further(run):
    out, outcome, _ = run
    first, second = RunFolder.open(out / "frozen"), RunFolder.open(out)
    assert first.finished
    assert second.finished
    assert (first.config["method"], first.config["encoder"]) == ("fusion-embeddings", NAME)
    assert (second.config["method"], second.config["init_from"]) == ("self-training", str(out / "frozen"))
    assert outcome.config.options["encoder"] == Chain(NAME, Projected(8))
    assert second.manifest["frozen"] == {"method": "fusion-embeddings", "encoder": NAME}
    assert second.manifest["method_choice"]["asked"] == "fusion"
    np.testing.assert_allclose(Model.load(out).assign(outcome.train.images), outcome.assignments, atol=1e-6)


def test_the_scores_before_are_beside_those_after(run):
    out, outcome, _ = run
    before, after = RunFolder.open(out / "frozen").metrics, RunFolder.open(out).metrics
    assert after["fine_tuning_kept"] in (True, False)
    assert after["fine_tuning"].startswith("kept: log-l" if after["fine_tuning_kept"] else "undone: log-l")
    assert after["seconds"] > before["seconds"] + last_seconds(out)
    assert after["frozen_seconds"] == before["seconds"]
    assert after["seconds_total"] > before["seconds_total"]
    assert after["frozen_train_accuracy"] == before["train_accuracy"]
    assert outcome.metrics["n_clusters"] == before["n_clusters"] == 2


def last_seconds(out):
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])["seconds"]


def test_it_is_said_in_words_and_nothing_twice(run):
    said = run[2]
    assert len(said) == len({*said})
    assert any("First the images are clustered" in text for text in said)
    assert "`fusion` is `self-training` here: a pretrained encoder is trained further." in said


def test_the_report_names_both_and_the_gain(run):
    out, outcome, _ = run
    page = write_page(out).read_text()
    assert f"fusion-embeddings on {NAME}, frozen; its report is in frozen/" in page
    assert outcome.metrics["fine_tuning"] in page


def test_it_goes_on_exactly_where_it_was_stopped(run, photos, tmp_path):
    for stop in (("select", 1), ("train", 1)):
        with pytest.raises(KeyboardInterrupt):
            both(photos, tmp_path / "out", resume=True, listener=Heard(stop))
        with pytest.raises(RunError, match="already holds a run"):
            both(photos, tmp_path / "out")
    resumed = both(photos, tmp_path / "out", resume=True)
    np.testing.assert_array_equal(resumed.assignments, run[1].assignments)
    assert both(photos, tmp_path / "out", resume=True).metrics == RunFolder.open(tmp_path / "out").metrics


def test_overwriting_begins_with_the_frozen_fit_and_leaves_nothing_of_what_went_on_from_it(run, photos, tmp_path):
    out = shutil.copytree(run[0], tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        both(photos, out, overwrite=True, listener=Heard(("select", 1)))
    assert not RunFolder.open(out / "frozen").finished
    assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["frozen"]


def test_an_ordinary_run_takes_the_place_of_both_unless_it_starts_from_one(run, tmp_path):
    out = shutil.copytree(run[0], tmp_path / "out")
    RunFolder.start(out, {"init_from": str(out / "frozen")}, resume=False, overwrite=True).close()
    assert RunFolder.open(out / "frozen").finished
    RunFolder.start(out, {}, resume=False, overwrite=True).close()
    assert not (out / "frozen").exists()


def test_a_folder_of_the_user_s_own_is_not_taken_for_the_frozen_run(photos, tmp_path):
    (tmp_path / "out" / "frozen").mkdir(parents=True)
    (tmp_path / "out" / "frozen" / "pizza.txt").write_text("margherita")
    with pytest.raises(RunError, match="holds files that are not a run's"):
        both(photos, tmp_path / "out", overwrite=True)
    assert (tmp_path / "out" / "frozen" / "pizza.txt").exists()


def test_a_frozen_run_that_was_stopped_is_refused_before_anything_is_read_or_removed(tmp_path):
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "config.toml").write_text("")
    with pytest.raises(RunError, match="already holds a run"):
        fit(config(), data="no such folder", out=tmp_path)
    again = _how_to_go_on(argparse.Namespace(argv=["fit", "x", "--fine-tune"], out=None), tmp_path)
    assert again.endswith(f"smidgen fit x --fine-tune --out {tmp_path} --resume")


def test_a_folder_of_the_user_s_own_is_found_before_a_run_is_removed(tmp_path):
    (tmp_path / "config.toml").write_text("")
    (tmp_path / "frozen").mkdir()
    (tmp_path / "frozen" / "pizza.txt").write_text("")
    with pytest.raises(RunError, match="not a run's"):
        fit(config(), data="no such folder", out=tmp_path, overwrite=True)
    assert (tmp_path / "config.toml").exists()


def test_an_encoder_that_is_an_option_is_that_of_the_first_fit():
    asked = config(encoder=None, options={"encoder": NAME})
    assert frozen_fit(asked).encoder == NAME
    assert "encoder" not in tuning_fit(asked).options


def test_a_run_without_fine_tuning_is_not_resumed_with_it(run, photos):
    with pytest.raises(RunError, match="was started without `fine_tune`"):
        both(photos, run[0] / "frozen", resume=True)


def test_a_run_whose_first_fit_is_missing_cannot_go_on(run, photos, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        both(photos, out, listener=Heard(("train", 1)))
    shutil.rmtree(out / "frozen")
    with pytest.raises(RunError, match=r"goes on from the one in .*frozen', which is missing"):
        both(photos, out, resume=True)


def test_the_folder_is_locked_while_the_first_fit_is_written(photos, tmp_path):
    refused = []

    class Rival(Heard):
        def progress(self, what, done, total, note=""):
            if what == "select" and not refused:
                with pytest.raises(RunError, match="Another process") as error:
                    RunFolder.start(tmp_path / "out", {}, resume=False, overwrite=False)
                refused.append(error.value)
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        both(photos, tmp_path / "out", listener=Rival())
    assert refused
    RunFolder.start(tmp_path / "out", {}, resume=False, overwrite=False).close()


def test_a_fine_tuning_that_is_undone_leaves_the_result_of_the_first_fit(photos, tmp_path, monkeypatch):
    worse = iter([0.0, -1.0])
    monkeypatch.setattr(Judge, "quality", lambda self, *given: next(worse))
    outcome = both(photos, tmp_path / "out")
    frozen, whole = (Model.load(tmp_path / "out" / part) for part in ("frozen", "."))
    assert outcome.metrics["fine_tuning"].startswith("undone")
    assert outcome.metrics["train_accuracy"] == outcome.metrics["frozen_train_accuracy"]
    assert (whole.name, whole.temperature) == (frozen.name, frozen.temperature)
    for found in (outcome.assignments, whole.assign(outcome.train.images)):
        np.testing.assert_allclose(found, frozen.assign(outcome.train.images), atol=1e-6)
    first = RunFolder.open(tmp_path / "out" / "frozen").assignments
    assert RunFolder.open(tmp_path / "out").assignments["cluster"] == first["cluster"]
    assert outcome.metrics["fine_tuning"] in write_page(tmp_path / "out").read_text()
    assert both(photos, tmp_path / "out", resume=True).metrics == RunFolder.open(tmp_path / "out").metrics


def test_a_message_of_the_first_fit_is_said_once_and_one_of_the_second_as_often_as_it_is_said():
    heard = Heard()
    first = _Heard(heard)
    for text in ("a", "b", "b"):
        first.log(text)
    second = _Unheard(first, first.said)
    for text in ("a", "c", "c"):
        second.log(text)
    assert heard.said == ["a", "b", "b", "c", "c"]


def test_a_run_to_start_from_is_the_first_fit(run):
    out, _, _ = run
    second = config(encoder=None, init_from=str(out / "frozen"), options={"steps": 1, "batch_size": 8})
    outcome = fit(second, data=IMAGES)
    assert (outcome.config.method, outcome.config.options["encoder"]) == ("self-training", Chain(NAME, Projected(8)))
    assert "frozen_seconds" not in outcome.metrics
    with pytest.raises(InputError, match="'heads' is an option of a fit on a frozen encoder, and the run"):
        fit(config(encoder=None, init_from=str(out / "frozen"), options={"heads": 3}), data=IMAGES)


def test_the_estimator_does_both_in_memory(run):
    model = ImageClusterer(2, encoder=NAME, fine_tune=True, random_state=0, n_threads=1, options=QUICK)
    model.fit(IMAGES, evidence=CLASSES)
    assert model.config_.method == "self-training"
    assert model.metrics_["frozen_seconds"] > 0
    assert (model.predict(IMAGES) == model.labels_).all()
    np.testing.assert_array_equal(model.cluster_names_, ["0", "1"])


def test_recipes_say_it_too():
    text = (
        'data = "cifar10"\nencoder = "lite0"\nfine_tune = true\n[options]\ntrust = 0.3\n[options.frozen]\nsteps = 9\n'
    )
    recipe = parse_recipe("r", text)
    assert has_two_fits(recipe.config)
    assert frozen_fit(recipe.config).options == {"steps": 9}
    assert tuning_fit(recipe.config).options == {"trust": 0.3}
    with pytest.raises(InputError, match="`steps` must be a whole number, 1 or above, got 0"):
        parse_recipe("r", text.replace("9", "0"))


def test_options_go_to_the_fit_that_has_them():
    options = {"heads": 9, "steps": 50, "frozen.steps": 20, "wrong": 0.2, "trust": 0.1, "frozen.wrong": 0.3}
    whole = config(options=options, weights="w.pt", max_seconds=60)
    assert frozen_fit(whole).options == {"heads": 9, "steps": 20, "wrong": 0.3}
    assert tuning_fit(whole).options == {"steps": 50, "wrong": 0.2, "trust": 0.1}
    assert (frozen_fit(whole).max_seconds, frozen_fit(whole).weights) == (30, "w.pt")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": 3}, "Unknown option of fusion with `fine_tune` 'head'. Did you mean 'heads'"),
        ({"frozen.trust": 0.5}, "Unknown option of fusion 'trust'"),
        ({"trust": 2}, "`trust` must be"),
        ({"frozen.steps": 0}, "`steps` must be a whole number"),
    ],
)
def test_what_neither_has_is_refused(options, words):
    with pytest.raises(InputError, match=words):
        with_options(config(options=options))


def test_embeddings_are_refused():
    with pytest.raises(InputError, match="these are embeddings: leave `--encoder`, and `--fine-tune`, out"):
        fit(config(encoder=None, options={}), data=np.random.default_rng(0).random((9, 5)))


@pytest.mark.parametrize(
    ("settings", "method"),
    [
        ({"encoder": None}, "self-training"),
        ({"encoder": "conv"}, "fusion-images"),
        ({"options": {"settle": 0.5}}, "fusion-images"),
        ({"options": {"encoder": "lite0"}, "encoder": None}, "self-training"),
        ({"method": "fusion-images"}, "fusion-images"),
        ({"method": "supervised"}, "supervised"),
    ],
)
def test_what_fine_tuning_means(settings, method):
    settings = config(**({"options": {}} | settings))
    assert has_two_fits(settings) is (method == "self-training")
    chosen = by_options(with_options(settings)) if settings.method == "fusion" else None
    assert (chosen.method if chosen else settings.method) == method


def test_the_plan_shows_both_and_reads_the_images_once(photos, monkeypatch):
    reads, read = [], images.open_splits
    monkeypatch.setattr(images, "open_splits", lambda *given, **options: reads.append(1) or read(*given, **options))
    plan = plan_summary(Config(str(photos), n_clusters=2, encoder=NAME, fine_tune=True), listener=Listener())
    assert (plan["method"], plan["frozen"]["method"]) == ("self-training", "fusion-embeddings")
    assert plan["stages"] == {"train": 200}
    assert len(reads) == 1
