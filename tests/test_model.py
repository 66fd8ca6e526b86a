"""A saved model: what is refused on loading, and what travels with it."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from smidgen.errors import RunError
from smidgen.evidence.resolved import Resolved
from smidgen.files import read_json, write_json
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.model import Model, Preprocessing
from smidgen.model_file import FORMAT
from smidgen.nets import pretrained

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 3, 8, 8), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    problem = Problem(
        5, (3, 8, 8), 2, (0.1, 0.2, 0.3), (0.3, 0.2, 0.1), Resolved(5, labels=torch.tensor([0, 1, 0, 1, -1]))
    )
    method = make_method("supervised", make_config("supervised", {"steps": 7}), problem).eval()
    Model(method, "supervised", Preprocessing(8, 3, "pad"), ("cat", "dög")).save(tmp_path / "model")
    return tmp_path / "model"


def test_everything_that_prediction_needs_travels(folder):
    model = Model.load(folder)
    assert model.cluster_names == ("cat", "dög")
    assert model.preprocessing == Preprocessing(8, 3, "pad")
    assert model.method.config.steps == 7
    assert model.method.problem.std == (0.3, 0.2, 0.1)
    assert model.assign(IMAGES).shape == (5, 2)
    assert Model.load(folder.parent).assign(IMAGES).tolist() == model.assign(IMAGES).tolist()  # the run folder


def test_the_temperature_travels_and_leaves_the_clusters_as_they_are(folder):
    plain = Model.load(folder)
    dataclasses.replace(plain, temperature=3.0).save(folder)
    soft = Model.load(folder)
    wanted = plain.assign(IMAGES) ** (1 / 3)
    wanted /= wanted.sum(1, keepdims=True)
    assert soft.temperature == 3
    for found in (soft.assign(IMAGES), soft.assign_and_encode(IMAGES)[0]):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
        assert found.argmax(1).tolist() == plain.assign(IMAGES).argmax(1).tolist()


def test_loading_leaves_the_global_generator_alone(folder):
    before = torch.get_rng_state()
    Model.load(folder)
    assert torch.get_rng_state().equal(before)


def test_what_only_training_needs_stays_behind(folder):
    assert not {"labels", "labelled"} & set(load_file(folder / "weights.safetensors"))


def test_progress_is_told():
    problem = Problem(5, (3, 8, 8), 2, (0.1,) * 3, (0.3,) * 3, Resolved.nothing(5))
    method = make_method("supervised", make_config("supervised"), problem)
    seen = []
    Model(method, "supervised", Preprocessing(8, 3), ("0", "1")).assign(
        np.zeros((600, 3, 8, 8), np.uint8), progress=lambda *at: seen.append(at)
    )
    assert seen == [(512, 600), (600, 600)]


def test_a_folder_without_a_model_is_said(tmp_path):
    with pytest.raises(RunError, match="holds no trained model"):
        Model.load(tmp_path)


def test_another_format_is_said(folder):
    write_json(folder / "model.json", read_json(folder / "model.json") | {"format": 99})
    with pytest.raises(RunError, match=rf"of format 99; this smidgen reads format {FORMAT}: update smidgen"):
        Model.load(folder)
    write_json(folder / "model.json", read_json(folder / "model.json") | {"format": 1})
    with pytest.raises(RunError, match=rf"of format 1; this smidgen reads format {FORMAT}: fit it again"):
        Model.load(folder)


@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_damaged_weights_are_said(damage, folder):
    path = folder / "weights.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif damage == "missing":
        path.unlink()
    else:
        save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(RunError, match=r"cannot be read|of another model"):
        Model.load(folder)


def test_weights_that_share_memory_can_be_saved(folder, tmp_path):
    model = Model.load(folder)
    whole = torch.rand(4, 3)
    model.method.register_buffer("one", whole[:2])
    model.method.register_buffer("other", whole[1:])
    model.save(tmp_path / "shared")
    assert load_file(tmp_path / "shared" / "weights.safetensors")["other"].equal(whole[1:])


def test_a_fine_tuned_net_is_loaded_without_asking_for_the_weights_it_began_with(tmp_path, monkeypatch):
    problem = Problem(5, (3, 8, 8), 2, (0.1, 0.2, 0.3), (0.3, 0.2, 0.1), Resolved(5, labels=torch.tensor([0, 1] * 2 + [-1])))  # fmt: skip # noqa: E501
    method = make_method("supervised", make_config("supervised", {"encoder": "lite0@32", "steps": 1}), problem).eval()
    model = Model(method, "supervised", Preprocessing(8, 3, "pad"), ("cat", "dog"))
    model.save(tmp_path)
    monkeypatch.setattr(pretrained, "packaged_weights", lambda name: pytest.fail(f"asked for the weights of {name}"))
    assert Model.load(tmp_path).assign(IMAGES).tolist() == model.assign(IMAGES).tolist()
