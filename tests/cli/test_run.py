"""`smidgen run`: a recipe's seeds are fitted once each, go on where they were stopped, and are summarised."""

import os
import signal

import pytest

from smidgen import fitting
from smidgen.experiments import seeds
from smidgen.experiments.recipes import read_recipe
from smidgen.experiments.seeds import run_recipe
from smidgen.files import read_json, read_toml
from smidgen.listener import Listener
from smidgen.run_folder import RunFolder
from smidgen.training.interrupts import Interrupted

TINY = """
data = "digits"
seeds = [0, 1]
images = 200
threads = 1

[options]
heads = 2
steps = 2
refine_steps = 2
batch_size = 16

[simulate]
bags = 10
ucc = [1, 2]
bag_size = 4
"""


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    monkeypatch.setattr(fitting, "write_page", lambda path: None)
    monkeypatch.setattr(fitting, "write_thumbnails", lambda run, datasets: None)
    monkeypatch.setattr(fitting, "write_issues", lambda run, datasets, progress: None)


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_each_seed_is_fitted_with_its_own_evidence_and_summarised(smidgen, tiny):
    said = smidgen("run", tiny)
    assert said.code == 0, said.err
    assert "tiny: 200 images of digits (train), seeds 0, 1" in said.out
    assert "\n# measured: test accuracy ." in said.out
    assert "The runs go to 'runs/tiny'" in said.err
    summary, (first, second) = (
        read_json("runs/tiny/summary.json"),
        (RunFolder(tiny.parent / f"runs/tiny/seed-{s}") for s in (0, 1)),
    )
    assert summary["figures"]["test_accuracy"]["values"] == [run.metrics["test_accuracy"] for run in (first, second)]
    assert (first.config["seed"], second.config["seed"]) == (0, 1)
    assert first.config["evidence"]["counts"] == "runs/tiny/evidence-0/counts.csv"
    assert first.manifest["evidence"]["counts"] == 10
    assert first.manifest["evidence"]["fingerprint"] != second.manifest["evidence"]["fingerprint"]
    assert first.manifest["data"]["train_images"] == 200
    assert first.manifest["data"]["fingerprint"] != second.manifest["data"]["fingerprint"]


def test_evidence_is_that_of_simulate_with_the_same_seed(smidgen, tiny, tmp_path):
    tiny.write_text(TINY.replace("images = 200", ""))
    made = smidgen(
        "simulate", "digits", "--bags", 10, "--ucc", "1-2", "--bag-size", 4, "--seed", 3, "--out", "known", "--quiet"
    )
    assert made.code == 0
    seeds.with_evidence(read_recipe(tiny), 3, tmp_path / "evidence-3", anew=True, listener=Listener())
    for name in ("bags.csv", "counts.csv"):
        assert (tmp_path / "evidence-3" / name).read_bytes() == (tmp_path / "known" / name).read_bytes()


def test_finished_seeds_are_left_and_others_added(smidgen, tiny, monkeypatch):
    assert smidgen("run", tiny, "--seed", 0, "--quiet").code == 0
    fitted = []
    fit = seeds.fit
    monkeypatch.setattr(
        seeds, "fit", lambda config, **how: fitted.append(config.seed) if config.seed else fit(config, **how)
    )
    assert "already holds runs" in smidgen("run", tiny).refusal()
    tiny.write_text(f"# measured: much\n{TINY}".replace("[0, 1]", "[0, 1, 2]"))  # another recipe only in name
    said = smidgen("run", tiny, "--resume", "--json")
    assert fitted == [1, 2]
    assert "The run in 'runs/tiny/seed-0' has finished already: nothing is left to do." in said.err
    assert said.json["seeds"] == [0]


def test_a_finished_seed_whose_evidence_has_changed_is_not_passed_over(smidgen, tiny):
    assert smidgen("run", tiny, "--seed", 0, "--quiet").code == 0
    counts = tiny.parent / "runs/tiny/evidence-0/counts.csv"
    counts.write_text(counts.read_text().replace(",1\n", ",2\n", 1))
    assert "started with other inputs (evidence: " in smidgen("run", tiny, "--seed", 0, "--resume", "--quiet").refusal()


def test_a_run_that_was_stopped_goes_on(tiny, tmp_path):
    class Stopping(Listener):
        def progress(self, what, done, total, note=""):
            if (what, done) == ("refine", 1):
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run_recipe(read_recipe(tiny), tmp_path / "out", listener=Stopping())
    assert not (tmp_path / "out" / "summary.json").exists()
    summary = run_recipe(read_recipe(tiny), tmp_path / "out", resume=True, seeds=[0])
    whole = run_recipe(read_recipe(tiny), tmp_path / "whole", seeds=[0])
    assert summary["figures"]["test_accuracy"] == whole["figures"]["test_accuracy"]


def test_another_recipe_is_not_mixed_in(smidgen, tiny, monkeypatch):
    monkeypatch.setattr(seeds, "fit", lambda config, **how: (how["out"]).mkdir(parents=True, exist_ok=True))
    assert smidgen("run", tiny, "--out", "runs/a", "--quiet").code == 0
    tiny.write_text(TINY.replace("bags = 10", "bags = 11"))
    assert "runs of another recipe" in smidgen("run", tiny, "--out", "runs/a", "--resume").refusal()
    assert "with seed 1 too" in smidgen("run", tiny, "--out", "runs/a", "--overwrite", "--seed", 0).refusal()
    assert read_toml("runs/a/recipe.toml")["simulate"]["bags"] == 10


def test_a_folder_of_other_things_is_refused(smidgen, tiny, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    for flags in ([], ["--resume"], ["--overwrite"]):
        assert "not a recipe's runs" in smidgen("run", tiny, "--out", tmp_path / "mine", *flags).refusal()
    assert "is a file" in smidgen("run", tiny, "--out", tiny).refusal()


def test_dry_run_says_what_would_run_and_writes_nothing(smidgen, tiny, tmp_path):
    said = smidgen("run", tiny, "--dry-run", "--seed", 5, 6, "--json")
    assert (said.json["seeds"], said.json["seed"], said.json["train_images"]) == ([5, 6], 5, 200)
    assert said.json["evidence"] == {"bags": 10, "counts": 10}
    assert "5, 6; what follows" in smidgen("run", tiny, "--dry-run", "--seed", 5, 6).out
    assert list(tmp_path.iterdir()) == [tiny]


def test_mistakes_are_one_sentence(smidgen, tiny):
    assert "There is no recipe 'none.toml'" in smidgen("run", "none.toml").refusal()
    assert "must be different numbers" in smidgen("run", tiny, "--seed", 1, 1).refusal()
    tiny.write_text(TINY.replace("digits", "digitz"))
    assert "Did you mean 'digits'" in smidgen("run", tiny).refusal()
    tiny.write_text(TINY.replace("bags", "bagz"))
    assert "tiny.toml: Unknown setting of [simulate] 'bagz'" in smidgen("run", tiny).refusal()


def test_a_dry_run_works_where_runs_are(smidgen, tiny):
    assert smidgen("run", tiny, "--seed", 0, "--quiet").code == 0
    assert smidgen("run", tiny, "--dry-run", "--json").json["seeds"] == [0, 1]
