"""`smidgen eval --audit`: random images into a file, the interval from its answers."""

import json

import pytest

from smidgen.csv_tables import read_csv, write_csv
from smidgen.files import write_json, write_toml

MANIFEST = {"smidgen": "0", "finished": "2026-01-02T03:04:05+00:00"}


@pytest.fixture
def run(tmp_path):
    """A finished run of 200 images, of which nothing is known."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_toml(folder / "config.toml", {"data": "photos"})
    write_json(folder / "manifest.json", MANIFEST)
    write_json(folder / "metrics.json", {"n_images": 200})
    images = [f"{n}.png" for n in range(200)]
    columns = {"image": images, "split": ["all"] * 200, "cluster": ["0", "1"] * 100, "confidence": ["0.9"] * 200}
    write_csv(folder / "assignments.csv", columns)
    return folder


def test_images_are_drawn_and_their_answers_give_an_interval(smidgen, run):
    said = smidgen("eval", run, "--audit", 30)
    assert said.code == 0, said.err
    assert "30 images wait in" in said.out
    drawn = read_csv(run / "audit.csv")
    assert len(set(drawn["image"])) == 30
    assert set(drawn["right"]) == {""}
    answers = ["1"] * 26 + ["yes", "0", "no", ""]
    write_csv(run / "audit.csv", {**drawn, "right": answers})
    said = smidgen("eval", run, "--audit", 30)
    assert "27 of 29 random images are right: 77.2 to 99.2 % of all images" in said.out.replace("0 %", " %")
    assert "1 images wait" in said.out
    found = json.loads(smidgen("eval", run, "--audit", 30, "--json").out)
    assert (found["checked"], found["right"]) == (29, 27)


def test_known_classes_are_the_answers(smidgen, run):
    table = read_csv(run / "assignments.csv")
    write_csv(run / "assignments.csv", {**table, "class": ["a", "b"] * 90 + ["b", "a"] * 10})
    said = smidgen("eval", run, "--audit", 200)
    assert "180 of 200 random images are right" in said.out
    assert "wait" not in said.out


def test_an_answer_that_is_none_is_refused_with_its_line(smidgen, run):
    assert smidgen("eval", run, "--audit", 3).code == 0
    drawn = read_csv(run / "audit.csv")
    write_csv(run / "audit.csv", {**drawn, "right": ["1", "perhaps", "0"]})
    assert "line 3: `right` must be 1 or 0, or empty, got 'perhaps'" in smidgen("eval", run, "--audit", 3).refusal()
    assert "leave out the other data" in smidgen("eval", run, "digits", "--audit", 3).refusal()
