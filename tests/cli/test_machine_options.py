"""`--device` and `--threads` of every verb that runs a net, and what it finds in the cache."""

import pytest
import torch
from cli_samples import fill

from smidgen.data.datasets import open_dataset
from smidgen.embedding import run as embedding

FIT = ("--method", "kmeans", "--clusters", "3", "--threads", "1", "--quiet")


@pytest.mark.parametrize("device", ["foo", "meta", "xla", "cpu:x"])
@pytest.mark.parametrize("verb", ["fit", "predict", "eval", "eval its own", "check"])
def test_a_device_that_is_not_there_is_one_sentence(smidgen, run, tmp_path, verb, device):
    photos = run.parent / "photos"
    argv = {
        "fit": ("fit", photos, *FIT, "--out", tmp_path / "run"),
        "predict": ("predict", run, photos),
        "eval": ("eval", run, photos),
        "eval its own": ("eval", run),
        "check": ("check", photos),
    }[verb]
    assert smidgen(*argv, "--device", device).refusal().startswith(f"The device {device!r} cannot be used here (")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_predict_and_eval_take_a_device_and_threads(smidgen, run, monkeypatch, device):
    seen, before = [], torch.get_num_threads()
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda n: (seen.append(n), set_threads(n)))
    machine = ("--device", device, "--threads", "3")
    assert len(smidgen("predict", run, run.parent / "photos", *machine, "--json").json["images"]) == 60
    assert smidgen("eval", run, run.parent / "photos", *machine, "--json").json["all"]["accuracy"] == 1
    assert seen == [3, before, 3, before]


@pytest.fixture
def embedded(monkeypatch, tmp_path):
    """How many images were embedded each time that some were."""
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    counts, blocks = [], embedding._Runner.blocks

    def counted(runner, n_threads):
        counts.append(len(runner.source))
        return blocks(runner, n_threads)

    monkeypatch.setattr(embedding._Runner, "blocks", counted)
    return counts


def test_nothing_is_embedded_twice_whatever_splits_are_asked_for(smidgen, tmp_path, embedded):
    data, run = tmp_path / "photos", tmp_path / "run"
    fill(data / "train", per_class=6)
    fill(data / "test", per_class=3)
    assert smidgen("fit", data, *FIT, "--encoder", "lite0@32", "--out", run).code == 0
    assert embedded == [18, 9]
    assert smidgen("predict", run, data, "--out", tmp_path / "all.csv").code == 0
    assert smidgen("predict", run, data, "--split", "test", "--out", tmp_path / "test.csv").code == 0
    assert smidgen("eval", run, data, "--split", "all").code == 0
    assert smidgen("eval", run, data, "--split", "train").code == 0
    assert embedded == [18, 9]
    rows = (tmp_path / "all.csv").read_text().splitlines()
    assert set((tmp_path / "test.csv").read_text().splitlines()) <= set(rows)
    ids = open_dataset(data, split="all").ids.tolist()
    assert [row.split(",")[0] for row in rows[1:]] == ids
    fitted = (run / "assignments.csv").read_text().splitlines()[1:]
    assert {row.split(",")[0]: row.split(",")[2] for row in fitted} == dict(row.split(",")[:2] for row in rows[1:])


def test_splits_that_are_mixed_keep_their_order(smidgen, tmp_path, embedded):
    data, run = fill(tmp_path / "photos", per_class=6), tmp_path / "run"
    lines = [
        f"{name}/{k}.png,{name},{'test' if k % 3 == 0 else 'train'}"
        for k in range(6)
        for name in ("black", "grey", "white")
    ]
    manifest = data / "list.csv"
    manifest.write_text("\n".join(["path,label,split", *lines]))
    assert smidgen("fit", manifest, *FIT, "--encoder", "lite0@32", "--out", run).code == 0
    found = smidgen("predict", run, manifest, "--json", "--quiet").json["images"]
    assert [row["image"] for row in found] == [line.split(",")[0] for line in lines]
    assert len({(row["image"].split("/")[0], row["cluster"]) for row in found}) == 3
    assert embedded == [12, 6]
