"""Tables as people have them on the command line: read by every verb, and what is ignored is said on stderr."""

import json

import pytest


@pytest.fixture
def labels(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(
        ";image;label;notes\n0;.\\white\\3.png; light;x\n1;black/1.png;dark ;\n2;grey/7.png;NA;\n", "utf-16"
    )
    return path


def test_what_is_ignored_is_said_once_and_not_under_quiet(smidgen, photos, labels):
    plan = ("fit", photos, "--labels", labels, "--clusters", 3, "--dry-run", "--json")
    said = smidgen(*plan)
    assert said.json["evidence"] == {"labels": 2}
    assert said.err.count(f"{labels}: ignored the columns without a name, 'notes'.\n") == 1
    assert said.err.count(f"{labels}: 'NA' is read as a class that is not known (1 of 3); rename the class") == 1
    assert "Warning" not in said.err
    assert smidgen(*plan, "--quiet").err.replace("This was a dry run: nothing was trained or written.\n", "") == ""


def test_check_lists_what_is_ignored_among_its_results(smidgen, photos, labels):
    checked = smidgen("check", photos, "--labels", labels, "--clusters", 3, "--quiet")
    assert "2 labels" in checked.out
    assert f"  {labels}: ignored the columns without a name, 'notes'.\n" in checked.out
    labels.write_text(f"image,label\n{photos}/white/3.png,light\n")
    checked = smidgen("check", photos, "--labels", labels, "--clusters", 3, "--json")
    assert checked.json["notes"][-1].endswith(f"read without '{photos}/', which they begin with.")
    assert checked.json["evidence"]["sizes"] == {"labels": 1}
    assert checked.err == ""


def test_a_manifest_with_other_columns(smidgen, photos, tmp_path):
    manifest = photos / "list.csv"
    manifest.write_text("id,file,class,width\n7,white\\0.png,1.0,8\n8,black\\0.png,2,8\n9, grey/0.png,-1.0,8\n")
    said = smidgen("simulate", manifest, "--out", tmp_path / "known", "--labels-per-class", 1)
    assert said.err == f"{manifest}: ignored the columns 'id', 'width'.\n"
    assert (tmp_path / "known" / "labels.csv").read_text() == "image,label\nwhite/0.png,1\nblack/0.png,2\n"


def test_a_runs_own_tables_are_read(smidgen, run, tmp_path):
    photos, table = run.parent / "photos", run / "assignments.csv"
    assert smidgen("predict", run, photos, "--out", tmp_path / "new.csv").code == 0
    for labels in (table, tmp_path / "new.csv"):
        plan = smidgen("fit", photos, "--labels", labels, "--clusters", 3, "--dry-run", "--json")
        assert plan.json["evidence"]["labels"] == plan.json["train_images"]
        assert f"'{labels}' is a table of smidgen's: its column 'cluster' is read as labels." in plan.err
    plan = smidgen("fit", table, "--clusters", 3, "--dry-run", "--json")
    assert plan.json["train_images"] == len(table.read_text().splitlines()) - 1
    assert f"its images are read from {str(photos)!r}" in plan.err
    assert "give these instead" in smidgen("predict", run, tmp_path / "new.csv").refusal()


def test_bags_to_predict_are_read_alike(smidgen, run, tmp_path):
    photos, bags = run.parent / "photos", tmp_path / "bags.csv"
    bags.write_text(f"bag\timage\tby\n1.0\t{photos}/white/0.png\tme\n1\t{photos}/black/0.png\tme\n")
    said = smidgen("predict", run, photos, "--bags", bags, "--json")
    assert [bag["n_images"] for bag in json.loads(said.out)["bags"]] == [2]
    assert "ignored the column 'by'" in said.err
    assert f"read without '{str(photos)[1:]}/'" not in said.err
    assert f"read without '{photos}/', which they begin with." in said.err
