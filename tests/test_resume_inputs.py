"""A run goes on, or is left alone, only with the inputs that it was started with, each of them known by its content."""

import dataclasses
import json
import shutil
import signal

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from smidgen import fitting
from smidgen.config import Config
from smidgen.embedding import run as embedding
from smidgen.errors import RunError
from smidgen.files import read_json
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.model import Model
from smidgen.nets.pretrained import pretrained_encoder
from smidgen.run_folder import RunFolder
from smidgen.training.interrupts import Interrupted

COMMON = {"n_clusters": 2, "threads": 1, "checkpoint_every": 1, "method": "supervised"}
COMMON["options"] = {"steps": 4, "batch_size": 4}


@pytest.fixture(autouse=True)
def _no_report(monkeypatch, tmp_path):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fitting, "write_page", lambda path: None)
    monkeypatch.setattr(fitting, "write_thumbnails", lambda run, datasets: None)


def picture(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "weights.safetensors"
    net = pretrained_encoder("lite0@32").trunk.net.state_dict()
    save_file({name: value.contiguous() for name, value in net.items()}, path)
    return path


@pytest.fixture
def home(tmp_path, weights):
    """Training and test images, a manifest with classes, evidence, and weights."""
    for split, n in (("train", 12), ("test", 4)):
        for k in range(n):
            picture(tmp_path / "photos" / split / f"{k}.png", seed=k if split == "train" else 100 + k)
    rows = [f"train/{k}.png,{'ab'[k % 2]},train" for k in range(12)] + [f"test/{k}.png,a,test" for k in range(4)]
    (tmp_path / "photos" / "list.csv").write_text("\n".join(["path,label,split", *rows]))
    (tmp_path / "labels.csv").write_text("image,label\ntrain/0.png,a\ntrain/1.png,b\n")
    shutil.copy(weights, tmp_path / "weights.safetensors")
    return tmp_path


def settings(home, kind):
    """A quick configuration that has the input."""
    data = str(home / "photos" / "list.csv")
    if kind == "weights":
        return Config(data, encoder="lite0@32", weights=str(home / "weights.safetensors"), **COMMON)
    if kind == "init_from":
        if not (home / "first").exists():
            fit(Config(data, **COMMON), out=home / "first")
        return Config(data, init_from=str(home / "first"), **COMMON)
    return Config(data, evidence={"labels": str(home / "labels.csv")}, **COMMON)


def change_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def change_tensors(path):
    tensors = load_file(path)
    name = next(name for name, value in tensors.items() if value.dtype.is_floating_point and value.ndim > 1)
    tensors[name] = tensors[name] + 0.5
    save_file(tensors, path)


def start_anew(home):
    config = dataclasses.replace(settings(home, "init_from"), init_from=None, seed=1)
    fit(config, out=home / "first", overwrite=True)


CHANGES = {
    "training images": ("files", lambda home: picture(home / "photos" / "train" / "3.png", seed=999)),
    "test images": ("files", lambda home: picture(home / "photos" / "test" / "3.png", seed=999)),
    "classes of the training images": (
        "files",
        lambda home: change_text(home / "photos" / "list.csv", "train/11.png,b", "train/11.png,a"),
    ),
    "evidence": ("files", lambda home: change_text(home / "labels.csv", "train/1.png,b", "train/3.png,b")),
    "weights of the encoder": ("weights", lambda home: change_tensors(home / "weights.safetensors")),
    "run to start from": ("init_from", start_anew),
}


class Stop(Listener):
    """Stops a run after its second step."""

    def progress(self, what, done, total, note=""):
        if (what, done) == ("train", 2):
            signal.raise_signal(signal.SIGTERM)


def begin(config, out, *, finished):
    if finished:
        fit(config, out=out)
    else:
        with pytest.raises(Interrupted):
            fit(config, out=out, listener=Stop())


@pytest.mark.parametrize("finished", [True, False], ids=["finished", "stopped"])
@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_input_is_refused_with_the_difference(home, what, finished):
    kind, change = CHANGES[what]
    config, out = settings(home, kind), home / "run"
    begin(config, out, finished=finished)
    assert what in RunFolder(out).manifest["fingerprints"]
    change(home)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(RunError, match=rf"other inputs \(.*{what}: [0-9a-f]{{8}} → [0-9a-f]{{8}}.*\): resume it with"):
        fit(config, out=out, resume=True)
    assert (out / "manifest.json").read_bytes() == before


@pytest.mark.parametrize("kind", ["files", "weights", "init_from"])
def test_the_same_inputs_are_taken_wherever_they_lie(home, kind, monkeypatch):
    config, out = settings(home, kind), home / "run"
    begin(config, out, finished=False)
    (home / "elsewhere").mkdir()
    monkeypatch.chdir(home / "elsewhere")
    given = {name: getattr(config, name) for name in ("data", "weights", "init_from")}
    moved = {name: path.replace(str(home), "..") for name, path in given.items() if path is not None}
    evidence = {name: path.replace(str(home), "..") for name, path in config.evidence.items()}
    fit(dataclasses.replace(config, **moved, evidence=evidence), out="../run", resume=True)
    assert RunFolder(out).finished


@pytest.mark.parametrize("manifest", [None, "{}", '{"fingerprints": null}', '{"fingerprints": "all"}', "{"])
@pytest.mark.parametrize("finished", [True, False], ids=["finished", "stopped"])
def test_a_manifest_that_says_nothing_does_not_switch_the_check_off(home, manifest, finished):
    config, out = settings(home, "files"), home / "run"
    begin(config, out, finished=finished)
    if manifest is None:
        (out / "manifest.json").unlink()
    else:
        (out / "manifest.json").write_text(manifest)
    with pytest.raises(RunError, match=r"manifest\.json"):
        fit(config, out=out, resume=True)


def test_test_images_that_come_or_go_are_a_difference(home):
    config, out = settings(home, "files"), home / "run"
    fit(config, out=out)
    picture(home / "more" / "a.png", seed=5)
    with pytest.raises(RunError, match=r"test images: [0-9a-f]{8} → [0-9a-f]{8}"):
        fit(dataclasses.replace(config, test=str(home / "more")), out=out, resume=True)
    manifest = home / "photos" / "list.csv"
    manifest.write_text("".join(line for line in manifest.read_text().splitlines(True) if ",test" not in line))
    with pytest.raises(RunError, match=r"test images: [0-9a-f]{8} → none"):
        fit(config, out=out, resume=True)


def test_a_finished_run_is_compared_without_embedding_anything(home, monkeypatch):
    config, out = settings(home, "weights"), home / "run"
    fit(config, out=out)
    shutil.rmtree(home / "cache")
    monkeypatch.setattr(embedding._Runner, "blocks", lambda runner, n: pytest.fail("it embeds"))
    outcome = fit(config, out=out, resume=True)
    assert outcome.metrics == read_json(out / "metrics.json")


def test_the_run_to_start_from_is_loaded_once(home, monkeypatch):
    config, loaded, load = settings(home, "init_from"), [], Model.load
    monkeypatch.setattr(Model, "load", lambda folder, **how: (loaded.append(folder), load(folder, **how))[1])
    fit(config, out=home / "run")
    assert loaded == [str(home / "first")]


@pytest.mark.parametrize("function", ["explain", "score_bags", "write_issues"])
def test_whatever_fails_after_training_the_model_and_the_assignments_are_there(home, function, monkeypatch):
    def fail(*_given, **_named):
        raise ValueError("after training")

    config, out = settings(home, "weights"), home / "run"
    with monkeypatch.context() as patch:
        patch.setattr(fitting, function, fail)
        with pytest.raises(ValueError, match="after training"):
            fit(config, out=out)
    rows = (out / "assignments.csv").read_text().splitlines()[1:]
    assert len(rows) == 16
    assert json.loads((out / "model" / "model.json").read_text())["extractor"]["name"] == "lite0@32"
    assert len(np.load(out / "embeddings.npy")) == 16
    fit(config, out=out, resume=True)
    assert (out / "assignments.csv").read_text().splitlines()[1:] == rows
