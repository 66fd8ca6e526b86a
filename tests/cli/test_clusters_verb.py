import json
import re

import numpy as np
import pytest

import smidgen as smidgen_package
from smidgen.csv_tables import read_csv
from smidgen.errors import InputError
from smidgen.inspection.number import FILES

BLOBS = (12 * np.eye(4, 16)).repeat(25, axis=0) + np.random.default_rng(0).normal(size=(100, 16))


@pytest.fixture
def blobs(tmp_path):
    np.savez(tmp_path / "blobs.npz", x=BLOBS.astype(np.float32))
    return tmp_path / "blobs.npz"


def test_the_verb_prints_the_best_number_its_range_and_the_curve(smidgen, blobs):
    said = smidgen("clusters", blobs, "--threads", 1)
    assert said.code == 0
    assert said.out.startswith("4 clusters suit these images best")
    assert re.search(r"^ +4 +0\.\d+ +▪+  best$", said.out, re.MULTILINE)
    assert "100 images, compared as they are" in said.out


def test_it_writes_csv_json_svg_and_the_tree(smidgen, blobs, tmp_path):
    out = tmp_path / "out"
    printed = smidgen("clusters", blobs, "--out", out, "--json", "--most", 6, "--seed", 1, "--quiet").json
    assert sorted(path.name for path in out.iterdir()) == sorted(FILES)
    assert json.loads((out / "cluster_numbers.json").read_text()) == printed
    assert (printed["best"], printed["n_images"], printed["encoder"]) == (4, 100, None)
    assert [row["n_clusters"] for row in printed["curve"]] == [2, 3, 4, 5, 6]
    assert read_csv(out / "cluster_numbers.csv")["n_clusters"] == ["2", "3", "4", "5", "6"]
    assert "best: 4" in (out / "cluster_numbers.svg").read_text()
    assert read_csv(out / "cluster_merges.csv")["images"][-1] == "100"
    again = smidgen("clusters", blobs, "--out", out)
    assert again.code == 2
    assert "already: choose another --out, or pass --overwrite" in again.err
    assert smidgen("clusters", blobs, "--out", out, "--overwrite", "--quiet", "--most", 6).code == 0


def test_labels_are_a_floor_and_part_of_the_score(smidgen, blobs, tmp_path):
    rows = "".join(f"train/{row:05d},kind {row // 25 % 4}{row % 2}\n" for row in range(0, 100, 3))
    (tmp_path / "labels.csv").write_text("image,label\n" + rows)
    ids = smidgen("clusters", blobs, "--json", "--labels", tmp_path / "labels.csv")
    assert ids.code == 0, ids.err
    assert ids.json["least"] == 8 <= ids.json["best"]
    assert "labels" in ids.json["curve"][0]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("--most", 1), "`--most` must be a whole number, from 2 to 1000, got '1'"),
        (("--encoder", "lite2"), "wants images, and these are embeddings"),
        (("--out", "{file}"), "is a file: --out wants a folder"),
    ],
)
def test_what_is_wrong_is_one_sentence(smidgen, blobs, options, wanted):
    said = smidgen("clusters", blobs, *(str(option).format(file=blobs) for option in options))
    assert said.code == 2
    assert wanted in said.err
    assert len([line for line in said.err.splitlines() if line.startswith("smidgen: ")]) == 1


def test_too_few_images_are_one_sentence(smidgen, tmp_path):
    np.savez(tmp_path / "few.npz", x=BLOBS[:9])
    said = smidgen("clusters", tmp_path / "few.npz")
    assert (said.code, said.out) == (2, "")
    assert "for 10 images or more, and there are 9" in said.err


def test_fit_takes_auto_and_says_what_it_found(smidgen, blobs, tmp_path):
    fit = ("fit", blobs, "--clusters", "auto", "--method", "kmeans", "--out", tmp_path / "run", "--threads", 1)
    plan = smidgen(*fit, "--dry-run")
    assert "clusters   auto" in plan.out
    assert not (tmp_path / "run").exists()
    said = smidgen(*fit)
    assert said.code == 0, said.err
    assert "4 clusters suit these images best" in said.err
    page = (tmp_path / "run" / "report.html").read_text()
    assert 'id="numbers"' in page
    assert "best: 4" in page
    assert "found by the run, 4 to 4 within one standard error" in page
    assert smidgen("report", tmp_path / "run").code == 0
    assert 'id="numbers"' in (tmp_path / "run" / "report.html").read_text()
    assert smidgen(*fit, "--resume").code == 0


def test_a_recipe_may_say_auto(smidgen, blobs, tmp_path):
    (tmp_path / "r.toml").write_text(f'data = "{blobs}"\nmethod = "kmeans"\nn_clusters = "auto"\nissues = false\n')
    said = smidgen("run", tmp_path / "r.toml", "--out", tmp_path / "runs", "--threads", 1, "--quiet")
    assert said.code == 0, said.err
    metrics = json.loads(next((tmp_path / "runs").rglob("metrics.json")).read_text())
    assert metrics["n_clusters"] == 4


@pytest.mark.parametrize("verb", ["fit", "check", "sweep", "ladder"])
def test_other_words_than_auto_are_refused(smidgen, blobs, verb):
    said = smidgen(verb, blobs, "--clusters", "some")
    assert said.code == 2
    assert "`--clusters` must be a whole number, 1 or above, or auto, got 'some'" in said.err


def test_check_takes_auto(smidgen, photos):
    assert smidgen("check", photos, "--clusters", "auto", "--quiet").code == 0


def test_python_counts_clusters_too():
    found = smidgen_package.count_clusters(BLOBS.astype(np.float32), most=8, threads=1)
    assert found.number.curve.best == 4
    assert found.summary()["best"] == 4
    with pytest.raises(InputError, match="Unknown setting 'colour'"):
        smidgen_package.count_clusters(BLOBS.astype(np.float32), colour=True)
