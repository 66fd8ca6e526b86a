"""`smidgen run` of a recipe with variants: each in its own folder, one table, and a failure costs no other variant."""

import json
import signal

import pytest

from smidgen.csv_tables import read_csv
from smidgen.errors import TrainingError
from smidgen.experiments import seeds
from smidgen.files import read_json, read_toml, write_json, write_toml
from smidgen.run_folder import RunFolder
from smidgen.training.interrupts import Interrupted

TINY = """
data = "digits"
method = "ucc"
images = 200
threads = 1
seeds = [0, 1]

[options]
steps = 5

[variants."UCC"]
[variants."ucc"]
options.alpha = 1.0
[variants."a/b: 60k"]
seed = 7
options.steps = 6
"""

MANIFEST = {"threads": 1, "torch": "2", "trained_on": "x", "smidgen": "0", "finished": "2026-01-02T03:04:05+00:00"}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


@pytest.fixture
def fits(monkeypatch):
    """What is fitted, (variant's folder, seed): in place of it a finished run is written; `fits.trouble` may raise."""

    class Fits(list):
        trouble = staticmethod(lambda folder, seed: None)

    def fit(config, *, out, resume, overwrite, reader, listener):
        if resume and RunFolder(out).finished:
            return
        done.append((out.parent.name, config.seed))
        done.trouble(*done[-1])
        out.mkdir(parents=True, exist_ok=True)
        write_toml(out / "config.toml", {"seed": config.seed})
        write_json(out / "metrics.json", {"test_accuracy": 0.9 + 0.01 * config.seed, "seconds": 12.5, "steps": 5})
        write_json(out / "manifest.json", MANIFEST)

    done = Fits()
    monkeypatch.setattr(seeds, "fit", fit)
    return done


def raises(error, *where):
    def trouble(*at):
        if at == where:
            raise error

    return trouble


def test_every_variant_has_its_folder_and_a_line_in_the_table(smidgen, recipe, fits):
    said = smidgen("run", recipe)
    assert said.code == 0, said.err
    assert fits == [("UCC", 0), ("UCC", 1), ("ucc-2", 0), ("ucc-2", 1), ("a_b_ 60k", 7)]
    lines = said.out.splitlines()
    assert lines[1].split() == ["variant", "test", "accuracy", "steps", "seconds", "seeds"]
    assert lines[2].split() == ["UCC", ".9050", "±", ".0071", "5", "12", "0", "1"]
    assert "# measured: a/b: 60k: test accuracy .9700, 12 s; seeds 7; 2026-01-02" in said.out
    assert said.out.count("# measured: ") == 3
    assert read_json("runs/tiny/summary.json")["folders"] == {"UCC": "UCC", "ucc": "ucc-2", "a/b: 60k": "a_b_ 60k"}
    assert read_toml("runs/tiny/a_b_ 60k/recipe.toml")["options"] == {"steps": 6}
    assert read_csv("runs/tiny/table.csv")["test_accuracy"] == ["0.905", "0.905", "0.97"]
    assert (recipe.parent / "runs/tiny/table.md").read_text().startswith("| variant | test accuracy | steps |")
    assert "a/b: 60k" in (recipe.parent / "runs/tiny/report.html").read_text()


def test_a_variant_that_fails_costs_no_other_and_is_made_good_by_resume(smidgen, recipe, fits):
    fits.trouble = raises(TrainingError("It broke."), "ucc-2", 1)
    said = smidgen("run", recipe, "--json")
    assert said.code == 2
    assert said.err.endswith("smidgen: variant 'ucc' failed: It broke.\n")
    assert fits[-1] == ("a_b_ 60k", 7)
    assert said.json["variants"]["ucc"]["failed"] == "It broke."
    assert said.json["variants"]["ucc"]["seeds"] == [0]
    assert "| ucc | .9000 | 5 | 12 | 0 | failed: It broke. |" in (recipe.parent / "runs/tiny/table.md").read_text()

    fits.clear()
    fits.trouble = lambda *at: None
    said = smidgen("run", recipe, "--resume", "--variant", "UCC", "--json")
    assert (said.code, fits, said.json["variants"]["ucc"]["failed"]) == (0, [], "It broke.")
    said = smidgen("run", recipe, "--resume", "--json")
    assert (said.code, fits, "failed" in said.json["variants"]["ucc"]) == (0, [("ucc-2", 1)], False)


def test_what_was_stopped_goes_on_with_resume(smidgen, recipe, fits):
    fits.trouble = raises(Interrupted(signal.SIGTERM), "ucc-2", 0)
    said = smidgen("run", recipe)
    assert said.code == 128 + signal.SIGTERM
    assert "To go on where it stopped: smidgen run" in said.err
    assert read_json("runs/tiny/summary.json")["variants"]["UCC"]["seeds"] == [0, 1]
    fits.clear()
    fits.trouble = lambda *at: None
    assert smidgen("run", recipe, "--resume", "--quiet").code == 0
    assert fits == [("ucc-2", 0), ("ucc-2", 1), ("a_b_ 60k", 7)]


def test_variants_and_seeds_may_be_chosen(smidgen, recipe, fits):
    assert smidgen("run", recipe, "--variant", "a/b: 60k", "--variant", "ucc", "--seed", 4, "--quiet").code == 0
    assert fits == [("a_b_ 60k", 4), ("ucc-2", 4)]
    assert "| UCC |  |  |  |  | not run |" in (recipe.parent / "runs/tiny/table.md").read_text()
    assert "Unknown variant 'UC'. Did you mean 'UCC'" in smidgen("run", recipe, "--variant", "UC").refusal()
    recipe.write_text(TINY[: TINY.index("[variants")])
    assert "and '" + str(recipe) + "' has none" in smidgen("run", recipe, "--variant", "UCC").refusal()


def test_all_are_checked_before_the_first_runs(smidgen, recipe, fits):
    recipe.write_text(TINY + '[variants.last.evidence]\nlabels = "none.csv"\n')
    assert smidgen("run", recipe).refusal().startswith("tiny.toml: variant 'last': ")
    recipe.write_text(TINY + '[variants.last]\ndata = "digitz"\n')
    assert "Did you mean 'digits'" in smidgen("run", recipe).refusal()
    assert fits == []
    assert not (recipe.parent / "runs").exists()


def test_a_variant_may_be_added_but_none_changed(smidgen, recipe, fits):
    assert smidgen("run", recipe, "--quiet").code == 0
    assert "already holds runs" in smidgen("run", recipe).refusal()
    fits.clear()
    recipe.write_text(TINY.replace('[variants."UCC"]', '[variants.Ucc]\nseed = 0\n[variants."UCC"]'))
    assert smidgen("run", recipe, "--resume", "--quiet").code == 0
    assert fits == [("Ucc-3", 0)]  # the others keep their folders

    recipe.write_text(TINY.replace("alpha = 1.0", "alpha = 0.9"))
    assert "'runs/tiny/ucc-2' holds runs of another recipe" in smidgen("run", recipe, "--resume").refusal()
    assert "'runs/tiny/ucc-2'" in smidgen("run", recipe, "--resume", "--variant", "UCC").refusal()
    fits.clear()
    assert smidgen("run", recipe, "--overwrite", "--variant", "ucc", "--quiet").code == 0
    assert fits == [("ucc-2", 0), ("ucc-2", 1)]


def test_variants_and_single_runs_are_not_mixed(smidgen, recipe, fits):
    single = recipe.with_name("single.toml")
    single.write_text(TINY[: TINY.index("[variants")])
    assert smidgen("run", single, "--out", "runs/one", "--quiet").code == 0
    assert smidgen("run", recipe, "--out", "runs/many", "--quiet").code == 0
    for flag in ("--resume", "--overwrite"):
        assert "has no variants" in smidgen("run", recipe, "--out", "runs/one", flag).refusal()
        assert "holds the variants" in smidgen("run", single, "--out", "runs/many", flag).refusal()


def test_dry_run_says_what_would_run_and_writes_nothing(smidgen, recipe):
    said = smidgen("run", recipe, "--dry-run", "--json")
    plans = json.loads(said.out)["variants"]
    assert {name: plan["stages"]["train"] for name, plan in plans.items()} == {"UCC": 5, "ucc": 5, "a/b: 60k": 6}
    assert plans["a/b: 60k"]["seeds"] == [7]
    row = smidgen("run", recipe, "--dry-run", "--variant", "ucc").out.splitlines()[1]
    assert row.split()[:3] == ["ucc", "200", "ucc"]
    assert list(recipe.parent.iterdir()) == [recipe]
