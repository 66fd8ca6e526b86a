"""`smidgen sweep` and `ladder`: a fit for each method and amount of supervision, one table, one plot; side by side."""

import os
import signal
from pathlib import Path

import pytest
from PIL import Image

from smidgen.csv_tables import read_csv
from smidgen.errors import TrainingError
from smidgen.experiments import seeds, side_by_side
from smidgen.experiments.sweeps import Sweep, label_levels, variants_of
from smidgen.files import read_json, read_toml, write_json, write_toml
from smidgen.run_folder import RunFolder
from smidgen.training.interrupts import Interrupted

ACCURACY = {"": 0.5, "1": 0.7, "10": 0.9, "1.0": 0.95}
MANIFEST = {"threads": 1, "torch": "2", "trained_on": "x", "smidgen": "0", "finished": "2026-01-02T03:04:05+00:00"}


@pytest.fixture
def fits(monkeypatch, tmp_path):
    """What is fitted, (folder, seed); in place of it a finished run is written that is better with more labels."""
    monkeypatch.chdir(tmp_path)

    class Fits(list):
        trouble = staticmethod(lambda folder: None)

    def fit(config, *, out, resume, overwrite, reader, listener):
        if resume and RunFolder(out).finished:
            return
        done.append((out.parent.name, config.seed))
        done.trouble(out.parent.name)
        out.mkdir(parents=True, exist_ok=True)
        write_toml(out / "config.toml", {"seed": config.seed})
        simulated = read_toml(out.parent / "recipe.toml").get("simulate", {"": ""})
        accuracy = ACCURACY.get(str(next(iter(simulated.values()))), 0.8) + 0.02 * config.seed
        write_json(out / "metrics.json", {"test_accuracy": accuracy, "seconds": 1.5, "steps": 5})
        (out / "assignments.csv").write_text("image,split,cluster,confidence,class\na,test,0,0.9,x\nb,test,1,0.8,y\n")
        write_json(out / "manifest.json", MANIFEST)

    done = Fits()
    monkeypatch.setattr(seeds, "fit", fit)
    return done


def test_every_method_runs_with_every_amount_that_it_learns_from(smidgen, fits):
    given = ("sweep", "digits", "--method", "fusion", "supervised", "kmeans", "--labels-per-class", "all", 0, 10)
    said = smidgen(*given, "--seed", 0, 1, "--out", "s")
    assert said.code == 0, said.err
    assert [folder for folder, seed in fits if seed == 0] == [
        "fusion, 0", "fusion, 10", "fusion, all", "supervised, 10", "supervised, all", "kmeans, 0",
    ]  # fmt: skip
    lines = [line.split("  ") for line in said.out.splitlines()]
    assert said.out.splitlines()[0] == "accuracy of 6 fits over labels per class"
    assert any(".9100 ± .0141" in cell for cell in lines[2])
    table = read_csv("s/sweep.csv")
    assert table["method"][:2] == ["fusion", "fusion"]
    assert table["test_accuracy"][:4] == ["0.5", "0.52", "0.9", "0.92"]
    assert "| kmeans | .5100 ± .0141 | – | – |" in Path("s/sweep.md").read_text()
    assert Path("s/sweep.svg").read_text().startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    page = Path("s/report.html").read_text()
    assert "Confusion matrix of fusion, 10" in page
    assert page.count('stroke-dasharray="3 5"') == 1  # kmeans: a level for the others
    assert read_toml("s/recipe.toml")["variants"]["fusion, 10"] == {
        "method": "fusion",
        "simulate": {"labels_per_class": 10},
    }


@pytest.mark.parametrize(("given", "n_clusters"), [((), 2), (("--clusters", "3"), 3), (("--clusters", "auto"), "auto")])
def test_all_fits_look_for_as_many_clusters_as_there_are_classes(given, n_clusters, smidgen, fits, tmp_path):
    for name in ("cat", "dog"):
        for number in range(3):
            path = tmp_path / "pets" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), 40 * number).save(path)
    said = smidgen("sweep", tmp_path / "pets", "--method", "fusion", "--labels-per-class", 0, 1, *given, "--out", "s")
    assert said.code == 0, said.err
    assert len(fits) == 2
    assert read_toml("s/recipe.toml")["n_clusters"] == n_clusters


def test_a_fit_that_fails_leaves_a_gap_that_resume_fills(smidgen, fits):
    def trouble(folder):
        if folder == "fusion, 10":
            raise TrainingError("It broke.")

    fits.trouble = trouble
    said = smidgen("sweep", "digits", "--method", "fusion", "--labels-per-class", 0, 10, "--out", "s")
    assert said.code == 2
    assert "'fusion, 10' failed: It broke." in said.err
    assert "failed" in said.out
    fits.clear()
    fits.trouble = lambda folder: None
    again = smidgen("sweep", "digits", "--method", "fusion", "--labels-per-class", 0, 10, "--out", "s", "--resume")
    assert (again.code, fits) == (0, [("fusion, 10", 0)])
    assert "already holds runs" in smidgen("sweep", "digits", "--out", "s").refusal()


def test_the_ladder_has_a_rung_for_each_kind_of_evidence(smidgen, fits):
    said = smidgen("ladder", "digits", "--labels-per-class", 5, "--bags", 20, "--bag-size", 4, "--quiet")
    assert said.code == 0, said.err
    assert [folder for folder, _ in fits] == [
        "fusion, nothing", "fusion, counts", "fusion, proportions", "fusion, 5 a class", "fusion, all labels",
    ]  # fmt: skip
    recipe = read_toml("runs/digits-ladder/recipe.toml")
    assert recipe["variants"]["fusion, proportions"]["simulate"] == {
        "bags": 20, "bag_size": 4, "ucc": [1, 3], "counts": False, "proportions": True,
    }  # fmt: skip
    assert read_json("runs/digits-ladder/summary.json")["variants"]["fusion, counts"]["seeds"] == [0]
    plot = Path("runs/digits-ladder/sweep.svg").read_text()
    assert plot.count('stroke-width="1.2" opacity=".4"') == 3  # nothing, counts and proportions are not joined
    assert plot.count('stroke-width="2"') == 1
    assert ">0.500</text>" in plot


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (("--set", "steps=3", "--set", "steps=4"), "set more than once"),
        (("--set", "ucc.steps=3"), "'ucc' is none of the methods that run"),
        (("--set", "stepz=3"), "has an option 'stepz'"),
        (
            ("--method", "consistency", "kmeans", "--set", "preset=smal"),
            "none of consistency, kmeans has a preset 'smal'",
        ),
        (("--labels-per-class", "1", "1"), "'1' is given more than once"),
        (("--labels-per-class", "some"), "must be a whole number, 0 or above, got 'some'; or all"),
        (("--method", "supervised", "--labels-per-class", "0"), "learns from what is swept"),
        (("--method", "fusion", "fusion"), "must be different ones"),
        (("--method", "fusoin"), "Did you mean 'fusion'"),
        (("--seed", "1", "1"), "must be different ones"),
    ],
)
def test_what_cannot_be_swept_is_refused(smidgen, fits, given, sentence):
    assert sentence in smidgen("sweep", "digits", *given).refusal()
    assert fits == []


def test_options_go_to_the_methods_that_have_them():
    sweep = Sweep("s", {"data": "digits"}, ["kmeans", "supervised"], label_levels([0, 1]), "labels",
                  options={"": {"steps": 5}, "kmeans": {"n_init": 2}})  # fmt: skip
    variants, grid = variants_of(sweep)
    assert variants.recipes["kmeans, 0"].config.options == {"n_init": 2}
    assert variants.recipes["supervised, 1"].config.options == {"steps": 5}
    assert grid.cells == {("kmeans", "0"): "kmeans, 0", ("supervised", "1"): "supervised, 1"}


def test_side_by_side_a_fit_runs_in_a_process_of_its_own(tmp_path):
    said = []
    listener = side_by_side.Listener()
    listener.log = said.append
    sweep = Sweep("s", {"data": "digits", "images": 60, "issues": False}, ["kmeans"], label_levels([0]), "labels")
    recipe = variants_of(sweep)[0].recipes["kmeans, 0"]
    recipes = {"kmeans, 0": (recipe, tmp_path / "run")}
    found = list(side_by_side.run_side_by_side(recipes, jobs=2, resume=False, overwrite=False, listener=listener))
    assert found == [("kmeans, 0", None)]
    assert RunFolder(tmp_path / "run" / "seed-0").finished
    assert any(text.startswith("kmeans, 0: Seed 0, 1 of 1") for text in said)
    assert not (tmp_path / "run" / "recipe.toml").read_text().count("threads")  # they are the machine's business


class _Process:
    """A process that ended as `code` says."""

    def __init__(self, code):
        self.exitcode = code

    def join(self):
        pass


class _Closed:
    def recv(self):
        raise EOFError


def test_a_process_that_was_killed_is_a_failure_with_a_reason():
    _, why = side_by_side._heard(_Closed(), "kmeans, 0", _Process(-9), None)
    assert why == "Its process ended before its time (signal 9): memory may have run out, try fewer `--jobs`."
    _, why = side_by_side._heard(_Closed(), "kmeans, 0", _Process(1), None)
    assert why == "Its process ended before its time (exit code 1)."


def test_a_signal_ends_the_processes_too(monkeypatch, tmp_path):
    """SIGTERM while two wait: both are told, and it is raised as Interrupted."""
    started = []

    class Sleeper:
        exitcode = None

        def __init__(self, **_):
            self.told = False
            started.append(self)

        def start(self):
            if len(started) == 2:
                os.kill(os.getpid(), signal.SIGTERM)

        def terminate(self):
            self.told = True

        def join(self):
            pass

    class Context:
        Process = Sleeper
        Pipe = staticmethod(os_pipe)

    monkeypatch.setattr(side_by_side.multiprocessing, "get_context", lambda kind: Context)
    sweep = Sweep("s", {"data": "digits"}, ["kmeans"], label_levels([0]), "labels", seeds=(0,))
    recipe = variants_of(sweep)[0].recipes["kmeans, 0"]
    recipes = {name: (recipe, tmp_path / name) for name in "abc"}
    how = {"resume": False, "overwrite": False, "listener": side_by_side.Listener()}
    with pytest.raises(Interrupted):
        list(side_by_side.run_side_by_side(recipes, jobs=2, **how))
    assert any(process.told for process in started)


def os_pipe(duplex):
    import multiprocessing

    ours, theirs = multiprocessing.Pipe(duplex=duplex)
    keep.append(theirs)
    return ours, multiprocessing.Pipe(duplex=False)[1]


keep = []


def test_a_preset_goes_to_the_methods_that_have_it():
    sweep = Sweep("s", {"data": "digits"}, ["consistency", "supervised"], label_levels([1]), "labels",
                  options={"": {"preset": "small", "steps": 5}})  # fmt: skip
    recipes = variants_of(sweep)[0].recipes
    assert recipes["supervised, 1"].config.options == {"steps": 5}
    assert recipes["consistency, 1"].config.options == {"preset": "small", "steps": 5}
