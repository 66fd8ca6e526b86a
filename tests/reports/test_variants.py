"""Variants side by side: means in the right cells, tables that no name breaks, curves over steps and seconds."""

import json
import re

import pytest

from smidgen.csv_tables import read_csv
from smidgen.files import write_json, write_toml
from smidgen.reports.variants import columns, curves, differences, folders_in, markdown, numbers, rows, write_variants

HOSTILE = "a|b <script>alert(1)</script> *c*\u202e"


def finish(out, folder, seed, *, history=(), **metrics):
    run = out / folder / f"seed-{seed}"
    run.mkdir(parents=True)
    write_json(run / "metrics.json", metrics)
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in history))
    write_json(run / "manifest.json", {"threads": 2, "torch": "2", "trained_on": "digits", "finished": "2026-01-01T"})


def course(scale):
    """Two stages whose steps are each counted from 0."""
    return [
        {"stage": stage, "step": step, "seconds": at * scale, "total": 2.0 / at, "ucc_accuracy": 0.1 * at}
        for at, (stage, step) in enumerate([("one", 10), ("one", 20), ("two", 10), ("two", 30)], start=1)
    ]


@pytest.fixture
def summary(tmp_path):
    figures = {"test_accuracy": 0.8, "test_ucc_accuracy": 0.5, "seconds": 1234.0, "steps": 100, "train_nmi": 1.0}
    finish(tmp_path, "a", 0, history=course(1.0), **figures)
    finish(tmp_path, "a", 2, history=course(2.0), **(figures | {"test_accuracy": 0.9, "seconds": 1236.0}))
    finish(tmp_path, "b", 0, history=course(5.0), test_accuracy=0.7, seconds=60.0, steps=7, stopped_early=True)
    for folder, alpha in (("a", 0.5), ("b", 1.0)):
        write_toml(tmp_path / folder / "recipe.toml", {"data": "x", "seed": alpha, "options": {"alpha": alpha, "u": 1}})
    folders = {"first": "a", HOSTILE: "b", "third": "c", "gone": "d"}
    names = ["first", HOSTILE, "third"]
    return write_variants(tmp_path, folders, recipe="some", names=names, failures={"third": "It broke."})


def test_the_table_has_mean_and_spread_of_what_matters(summary):
    header, first, second, third = rows(summary)
    assert header == ["variant", "test accuracy", "ucc accuracy", "steps", "seconds", "seeds", "note"]
    assert first == ["first", ".8500 ± .0707", ".5000 ± .0000", "100", "1,235 ± 1", "0 2", ""]
    assert second[1:] == [".7000", "", "7", "60", "0", "time was up"]
    assert third == ["third", "", "", "", "", "", "failed: It broke."]


def test_without_classes_of_test_images_scores_are_those_of_training_images():
    figure = {"mean": 0.5, "spread": None}
    variants = {"x": {"figures": {"train_accuracy": figure, "train_ami": figure, "train_min_js": figure}}}
    titles = {"train_accuracy": "train accuracy", "train_ami": "AMI", "train_min_js": "min JS"}
    assert columns({"variants": variants}) == titles


def test_no_name_breaks_the_markdown(summary):
    lines = markdown(summary).splitlines()
    assert len(lines) == 5
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in lines} == {8}
    assert lines[3].startswith(r"| a\|b \<script>alert(1)\</script> \*c\*\\u202e |")


def test_files_hold_the_same_numbers(summary, tmp_path):
    assert json.loads((tmp_path / "summary.json").read_text()) == summary
    assert folders_in(tmp_path) == {"first": "a", HOSTILE: "b", "third": "c", "gone": "d"}
    table = read_csv(tmp_path / "table.csv")
    assert table["folder"] == ["a", "b", "c"]
    assert [*map(float, table["test_accuracy"][:2])] == pytest.approx([0.85, 0.7])
    assert table["test_accuracy_sd"][1:] == ["", ""]
    assert list(table) == list(numbers(summary))


def test_curves_lie_over_each_other_by_steps_and_by_seconds(summary, tmp_path):
    found = dict(curves(tmp_path, summary))
    assert list(found) == ["steps", "seconds"]
    for axis, last in (("steps", 50), ("seconds", 20)):  # stages follow each other; the slowest run takes 20 s
        assert [chart["name"] for chart in found[axis]] == ["loss", "ucc accuracy, training bags"]
        svg = str(found[axis][0]["svg"])
        assert f'text-anchor="end">{last}</text>' in svg
        assert [svg.count(f'class="line line{k}"') for k in range(3)] == [4, 2, 0]  # runs times stages


def test_only_settings_that_differ_are_shown(summary, tmp_path):
    table = differences(tmp_path, summary)
    assert table.header == ["name", "first", HOSTILE]
    assert table.rows == [["options.alpha", "0.5", "1"]]


def test_the_page_escapes_names_and_leads_to_the_reports(summary, tmp_path):
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert "\u202e" not in page
    assert 'href="a/seed-2/report.html"' in page
    assert not re.search(r"url\(|@import|https?://", page)
    assert page.count('class="key"') == 3
