"""Evidence on the command line: made, checked, fitted, resumed, refused."""

import dataclasses
import os
import resource
import shutil
import signal

import pytest
from cli_samples import fill

from smidgen import fitting
from smidgen.config import Config, from_table
from smidgen.csv_tables import read_csv, write_csv
from smidgen.errors import InputError, RunError
from smidgen.evidence.evidence import Evidence
from smidgen.files import read_json, read_toml
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.training.interrupts import Interrupted

SHORT = {"heads": 2, "steps": 12, "refine_steps": 6, "batch_size": 16, "encoder": "conv"}
FUSION = ("--clusters", 3, "--threads", 1, *(w for k, v in SHORT.items() for w in ("--set", f"{k}={v}")))
EVERYTHING = ("--bags", 12, "--ucc", "1-2", "--bag-size", "4-6", "--counts", "--proportions", "--presence",
              "--labels-per-class", 2, "--pairs", 10)  # fmt: skip


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with `photos`."""
    home = tmp_path_factory.mktemp("home")
    fill(home / "photos")
    return home


@pytest.fixture
def photos(home):
    return home / "photos"


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    write_csv(path, {"image": ["white/3.png", "black/1.png", "grey/7.png"], "label": ["light", "dark", "medium"]})
    return path


@pytest.fixture
def _no_report(monkeypatch):
    monkeypatch.setattr(fitting, "write_page", lambda path: None)
    monkeypatch.setattr(fitting, "write_thumbnails", lambda run, datasets: None)
    monkeypatch.setattr(fitting, "write_issues", lambda run, datasets, progress: None)


def test_simulated_fitted_and_checked(smidgen, photos, tmp_path):
    made = smidgen("simulate", photos, "--out", tmp_path / "known", *EVERYTHING, "--json")
    assert made.json["sizes"] == {
        "labels": 6, "bags": 12, "counts": 12, "proportions": 12, "presence": 12, "pairs": 10}  # fmt: skip
    assert sorted(p.stem for p in (tmp_path / "known").iterdir()) == sorted(made.json["files"])
    said = smidgen("fit", photos, "--evidence", tmp_path / "known", "--out", tmp_path / "run", *FUSION)
    assert said.code == 0, said.err
    assert "Evidence: 6 labels, 12 bags, 12 counts, 12 proportions, 12 presence, 10 pairs." in said.err
    assert "by name" in said.out
    assert "AMI " in said.out
    assert set(read_csv(tmp_path / "run" / "assignments.csv")["cluster"]) <= {"black", "grey", "white"}
    known = read_json(tmp_path / "run" / "manifest.json")["evidence"]
    assert (known["labels"], known["bags"], len(known["fingerprint"])) == (6, 12, 64)
    assert "evidence: 6 labels, 12 bags" in (tmp_path / "run" / "report.html").read_text()
    config = from_table(read_toml(tmp_path / "run" / "config.toml"))
    assert config.evidence["pairs"] == str(tmp_path / "known" / "pairs.csv")
    checked = smidgen("check", photos, "--evidence", tmp_path / "known", "--clusters", 3, "--quiet")
    assert checked.code == 0
    assert "6 labels, 12 bags" in checked.out
    assert "about the evidence:" in checked.out


def test_simulated_bags_hold_what_their_counts_say(smidgen, photos, tmp_path):
    smidgen("simulate", photos, "--out", tmp_path / "a", "--bags", 20, "--ucc", "1-3", "--bag-size", 6)
    smidgen("simulate", photos, "--out", tmp_path / "b", "--bags", 20, "--ucc", "1-3", "--bag-size", 6)
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }
    bags, counts = read_csv(tmp_path / "a" / "bags.csv"), read_csv(tmp_path / "a" / "counts.csv")
    held = {name: set() for name in counts["bag"]}
    for bag, image in zip(bags["bag"], bags["image"], strict=True):
        held[bag].add(image.partition("/")[0])
    assert [str(len(held[bag])) for bag in counts["bag"]] == counts["ucc"]
    assert set(counts["ucc"]) == {"1", "2", "3"}


@pytest.mark.parametrize(
    ("options", "written"),
    [
        (["--labels-per-class", 2], ["labels.csv"]),
        (["--pairs", 4], ["pairs.csv"]),
        (["--ucc", 2], ["bags.csv", "counts.csv"]),
        (["--bags", 5, "--ucc", "1-2", "--proportions"], ["bags.csv", "proportions.csv"]),
        (["--bags", 5, "--ucc", "1-2", "--class-counts", "--counts"], ["bags.csv", "counts.csv", "proportions.csv"]),
    ],
)
def test_simulate_writes_what_was_asked_for(smidgen, photos, tmp_path, options, written):
    said = smidgen("simulate", photos, "--out", tmp_path / "known", *options, "--quiet")
    assert said.code == 0, said.err
    assert sorted(p.name for p in (tmp_path / "known").iterdir()) == written
    assert "To use it: smidgen fit" in said.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ([], "Nothing was asked for"),
        (["--ucc", "4-1"], "`--ucc` must be a number or a range like 1-4"),
        (["--bags", 3, "--ucc", "1-5"], "there are 3 classes"),
        (["--labels-per-class", 1, "--label-fraction", 0.5], "cannot be given together"),
        (["--bag-size", 2], "cannot hold 4 classes"),
    ],
)
def test_simulate_refuses_in_one_sentence(smidgen, photos, tmp_path, options, sentence):
    assert sentence in smidgen("simulate", photos, "--out", tmp_path / "known", *options, "--quiet").refusal()
    assert not (tmp_path / "known").exists()


def test_simulate_never_mixes_with_what_is_there(smidgen, photos, labels):
    said = smidgen("simulate", photos, "--out", labels.parent, "--pairs", 4)
    assert "is not empty" in said.refusal()
    assert [p.name for p in labels.parent.iterdir()] == ["labels.csv"]


@pytest.mark.usefixtures("_no_report")
def test_labels_name_clusters_whatever_the_order_of_the_classes(tmp_path):
    """The evidence has another name for zero, and so its classes are in another order than the dataset's."""
    from smidgen.data.datasets import open_splits

    train, _ = open_splits("digits")
    names = [train.class_names[k] if k else "also zero" for k in train.classes]
    write_csv(tmp_path / "labels.csv", {"image": list(train.ids), "label": names})
    options = {"heads": 2, "steps": 60, "refine_steps": 0, "batch_size": 64}
    outcome = fit(Config("digits", evidence={"labels": str(tmp_path / "labels.csv")}, threads=1, options=options))
    assert outcome.model.cluster_names == ("1", "2", "3", "4", "5", "6", "7", "8", "9", "also zero")
    assert outcome.metrics["test_accuracy"] > 0.5
    assert 0.3 < outcome.metrics["test_named_accuracy"] <= outcome.metrics["test_accuracy"]


@pytest.mark.usefixtures("_no_report")
def test_a_method_without_evidence_says_so_and_names_nothing(smidgen, photos, labels, tmp_path):
    said = smidgen("fit", photos, "--labels", labels, "--method", "kmeans", "--clusters", 3, "--out", tmp_path / "run")
    assert said.err.count("'kmeans' makes no use of evidence") == 1
    assert set(read_csv(tmp_path / "run" / "assignments.csv")["cluster"]) == {"0", "1", "2"}
    assert list(read_json(tmp_path / "run" / "manifest.json")["evidence"]) == ["fingerprint"]
    assert "train_named_accuracy" not in read_json(tmp_path / "run" / "metrics.json")


@pytest.mark.usefixtures("_no_report")
def test_supervised_learns_the_labels_that_it_is_given(smidgen, photos, labels, tmp_path):
    steps = ("--method", "supervised", "--clusters", 3, "--steps", 30, "--set", "batch_size=16", "--threads", 1)
    said = smidgen("fit", photos, "--labels", labels, *steps, "--out", tmp_path / "run", "--json")
    assert said.code == 0, said.err
    assert set(read_csv(tmp_path / "run" / "assignments.csv")["cluster"]) <= {"dark", "light", "medium"}
    assert read_json(tmp_path / "run" / "manifest.json")["evidence"]["labels"] == 3
    assert "train_named_accuracy" not in said.json  # the classes are called otherwise


@pytest.mark.usefixtures("_no_report")
def test_a_runs_clusters_train_another_net(smidgen, photos, tmp_path):
    """The clusters are numbers, and so is one of the classes: that of a number must not pass for that of its name."""
    known = tmp_path / "numbers"
    shutil.copytree(photos, known)
    for number, name in enumerate(("black", "grey", "white")):
        (known / name).rename(known / str((number + 1) % 3))
    smidgen("fit", known, "--method", "kmeans", "--clusters", 3, "--threads", 1, "--out", tmp_path / "first")
    table = read_csv(tmp_path / "first/assignments.csv")
    steps = ("--method", "supervised", "--clusters", 3, "--steps", 40)
    steps = (*steps, "--set", "batch_size=16", "--set", "augment=false", "--threads", 1)
    said = smidgen(
        "fit", known, *steps, "--labels", tmp_path / "first/assignments.csv", "--out", tmp_path / "run", "--json"
    )
    assert said.code == 0, said.err
    found = read_csv(tmp_path / "run/assignments.csv")
    assert found["cluster"] == [f"cluster {name}" for name in table["cluster"]]
    assert (said.json["train_accuracy"], "train_named_accuracy" in said.json) == (1.0, False)
    again = smidgen("fit", known, *steps, "--labels", tmp_path / "run/assignments.csv", "--out", tmp_path / "third",
                    "--dry-run", "--json")  # fmt: skip
    assert again.json["evidence"] == {"labels": 60}


@pytest.mark.usefixtures("_no_report")
def test_only_sure_clusters_are_learned_from(smidgen, photos, tmp_path):
    table = tmp_path / "assignments.csv"
    columns = {"image": [f"{name}/{i}.png" for name in ("black", "grey", "white") for i in range(20)],
               "cluster": [*["a"] * 20, *["b"] * 20, *["c"] * 20],
               "confidence": [f"{i / 20:.2f}" if i else "" for i in range(20)] * 3}  # fmt: skip
    write_csv(table, columns)
    plan = ("fit", photos, "--method", "supervised", "--clusters", 3, "--labels", table, "--dry-run", "--json")
    assert smidgen(*plan).json["evidence"] == {"labels": 60}
    said = smidgen(*plan, "--min-confidence", 0.9)
    assert said.json["evidence"] == {"labels": 6}
    assert "6 of 60 labels have a confidence of 0.9 or more and are taken" in said.err
    assert "confidence'" not in said.err  # it is not said to be ignored
    assert "None of the 60 labels" in smidgen(*plan, "--min-confidence", 0.99, "--quiet").refusal()
    write_csv(table, columns | {"confidence": ["2"] * 60})
    assert "line 2: confidence must be from 0 to 1" in smidgen(*plan, "--min-confidence", 0.5, "--quiet").refusal()


def test_a_least_confidence_is_refused_where_there_is_none(smidgen, photos, labels):
    assert (
        "has no column 'confidence'"
        in smidgen("fit", photos, "--labels", labels, "--min-confidence", 0.5, "--quiet").refusal()
    )
    assert "`--min-confidence` is about" in smidgen("fit", photos, "--min-confidence", 0.5, "--quiet").refusal()


@pytest.mark.usefixtures("_no_report")
def test_learning_sure_clusters_goes_on_where_it_stopped(photos, tmp_path):
    images = [f"{name}/{i}.png" for name in ("black", "grey", "white") for i in range(20)]
    columns = {"image": images, "cluster": [i // 20 for i in range(60)], "confidence": [0.5, 0.9] * 30}
    write_csv(tmp_path / "table.csv", columns)
    config = Config(
        str(photos), "supervised", n_clusters=3, threads=1, options={"steps": 8, "batch_size": 16},
        evidence={"labels": str(tmp_path / "table.csv")}, min_confidence=0.9,
    )  # fmt: skip
    fit(config, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(config, out=tmp_path / "run", listener=StopAt("train"))
    with pytest.raises(RunError, match="min_confidence"):
        fit(dataclasses.replace(config, min_confidence=0.5), out=tmp_path / "run", resume=True)
    fit(from_table(read_toml(tmp_path / "run" / "config.toml")), out=tmp_path / "run", resume=True)
    for name in ("assignments.csv", "model/weights.safetensors", "config.toml"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_supervised_is_not_shown_the_classes_instead_of_other_evidence(smidgen, photos, tmp_path):
    smidgen("simulate", photos, "--out", tmp_path / "known", "--pairs", 4)
    said = smidgen("fit", photos, "--pairs", tmp_path / "known/pairs.csv", "--method", "supervised", "--clusters", 3,
                   "--out", tmp_path / "run", "--quiet")  # fmt: skip
    assert "`supervised` needs labels" in said.refusal()
    assert not (tmp_path / "run").exists()


def test_findings_are_said_before_training(smidgen, photos, labels, tmp_path):
    said = smidgen("fit", photos, "--labels", labels, "--clusters", 5, "--dry-run", "--out", tmp_path / "run")
    assert "warning: The evidence names 3 classes, but 5 clusters are asked for" in said.err
    assert "evidence   3 labels" in said.out


class StopAt(Listener):
    def __init__(self, stage="refine"):
        self.stage = stage

    def progress(self, what, done, total, note=""):
        if (what, done) == (self.stage, 3):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.usefixtures("_no_report")
def test_stopped_and_resumed_with_evidence_is_the_whole_run(smidgen, photos, tmp_path):
    smidgen("simulate", photos, "--out", tmp_path / "known", *EVERYTHING)
    paths = {p.stem: str(p) for p in (tmp_path / "known").iterdir()}
    config = Config(str(photos), n_clusters=3, threads=1, evidence=paths, options=SHORT)
    fit(config, out=tmp_path / "whole")
    with pytest.raises(Interrupted):
        fit(config, out=tmp_path / "run", listener=StopAt())
    fit(from_table(read_toml(tmp_path / "run" / "config.toml")), out=tmp_path / "run", resume=True)
    for name in ("assignments.csv", "model/weights.safetensors", "config.toml"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    said = fit(dataclasses.replace(config, evidence={}), evidence=Evidence.from_folder(tmp_path / "known"))
    assert said.metrics["train_nmi"] == read_json(tmp_path / "whole" / "metrics.json")["train_nmi"]


@pytest.mark.usefixtures("_no_report")
def test_other_evidence_in_the_same_file_is_not_resumed(smidgen, photos, labels, tmp_path):
    config = Config(str(photos), n_clusters=3, threads=1, evidence={"labels": str(labels)}, options=SHORT)
    with pytest.raises(Interrupted):
        fit(config, out=tmp_path / "run", listener=StopAt())
    labels.write_text("image,label\nwhite/3.png,light\n")
    with pytest.raises(RunError, match=r"other inputs \(evidence: "):
        fit(config, out=tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("image,label\nblack/1.png,dark\nblack/99.png,dark\n", "labels.csv line 3"),
        ("image,lable\nblack/1.png,dark\n", "labels.csv line 1: Unknown column 'lable'. Did you mean 'label'?"),
        ("image,label\nblack/1.png,dark\nblack/1.png,light\n", "labels.csv line 3"),
        ("image,label\nblack/1.png\n", "labels.csv line 2: 1 cells, but 2 columns"),
    ],
)
@pytest.mark.parametrize("verb", ["fit", "check"])
def test_a_wrong_file_is_one_sentence_with_file_and_line(smidgen, photos, labels, tmp_path, verb, content, sentence):
    labels.write_text(content)
    where = ("--out", tmp_path / "run") if verb == "fit" else ()
    said = smidgen(verb, photos, "--labels", labels, "--clusters", 3, *where, "--quiet")
    assert said.code == 2
    assert sentence in (said.refusal() if verb == "fit" else said.out + said.err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--labels", "no.csv"], "`--labels` 'no.csv' is not a file"),
        (["--evidence", "."], "holds no evidence"),
        (["--counts", __file__], "`--counts` is evidence about bags: pass `--bags FILE` too"),
        (["--lables", "x.csv"], "Did you mean '--labels'?"),
    ],
)
def test_what_is_missing_is_said(smidgen, photos, tmp_path, monkeypatch, options, sentence):
    monkeypatch.chdir(tmp_path)
    assert sentence in smidgen("fit", photos, *options, "--quiet").refusal()


def test_an_unknown_kind_in_a_configuration_is_named():
    with pytest.raises(InputError, match=r"Unknown kind of evidence 'lables'\. Did you mean 'labels'"):
        fit(Config("digits", evidence={"lables": "x.csv"}))


def test_simulate_leaves_nothing_behind_where_writing_fails(smidgen, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        said = smidgen("simulate", "digits", "--bags", 50, "--out", tmp_path / "new" / "evidence", "--quiet")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert said.refusal() == f"File too large: {str(tmp_path / 'new' / 'evidence' / 'bags.csv')!r}."
    assert not [*tmp_path.iterdir()]
