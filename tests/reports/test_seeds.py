"""Runs of several seeds in one summary."""

import json

import pytest

from smidgen.reports.seeds import measured, seeds_in, summarise


def finished(out, seed, *, done=True, **metrics):
    folder = out / f"seed-{seed}"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps(metrics))
    manifest = {"threads": 2, "torch": "2", "trained_on": "x", "smidgen": "0"}
    (folder / "manifest.json").write_text(
        json.dumps(manifest | ({"finished": f"2026-01-0{seed + 1}T"} if done else {}))
    )


def test_figures_are_means_with_the_spread_between_seeds(tmp_path):
    for seed, accuracy in ((0, 0.9), (2, 0.8), (1, 0.7)):
        finished(tmp_path, seed, test_accuracy=accuracy, seconds=10 + seed, method="fusion")
    summary = summarise(tmp_path, name="some")
    assert (summary["recipe"], summary["seeds"]) == ("some", [0, 1, 2])
    assert summary["figures"].keys() == {"test_accuracy", "seconds"}
    assert summary["figures"]["test_accuracy"] == {
        "mean": pytest.approx(0.8), "spread": pytest.approx(0.1), "values": [0.9, 0.7, 0.8]}  # fmt: skip
    assert measured(summary).startswith("measured: test accuracy .8000 ± .1000 (.9000 .7000 .8000), 11 s; seeds 0 1 2;")
    assert " 2026-01-03, " in measured(summary)


def test_runs_that_have_not_finished_do_not_count(tmp_path):
    finished(tmp_path, 0, seconds=1, test_accuracy=0.5, alarms=["Beware."])
    finished(tmp_path, 1, done=False, seconds=1)
    (tmp_path / "seed-x").mkdir()
    assert seeds_in(tmp_path) == {0, 1}
    summary = summarise(tmp_path)
    assert summary["seeds"] == [0]
    assert summary["figures"]["seconds"]["spread"] is None
    assert summary["alarms"] == {"0": ["Beware."]}
    assert "test accuracy .5000, 1 s; seeds 0;" in measured(summary)


def test_what_was_measured_says_which_variant_and_that_time_was_up(tmp_path):
    finished(tmp_path, 0, seconds=600.4, test_accuracy=0.5, test_ucc_accuracy=0.25, steps=40, stopped_early=True)
    finished(tmp_path, 1, seconds=600.6, test_accuracy=0.5, test_ucc_accuracy=0.25, steps=42)
    summary = summarise(tmp_path)
    assert summary["stopped_early"] == [0]
    line = measured(summary, variant="UCC2+")
    assert line.startswith("measured: UCC2+: test accuracy .5000 ± .0000 (.5000 .5000), ucc accuracy .2500 ± .0000")
    assert ", 600 s, stopped by time after 41 steps; seeds 0 1;" in line


def test_what_not_every_run_has_is_left_out(tmp_path):
    finished(tmp_path, 0, seconds=1, test_accuracy=0.5)
    finished(tmp_path, 1, seconds=3)
    assert summarise(tmp_path)["figures"].keys() == {"seconds"}
