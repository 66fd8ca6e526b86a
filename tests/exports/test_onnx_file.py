"""A model as ONNX gives what torch gives, says how to use it, and is refused where it does not."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from smidgen.errors import InputError
from smidgen.evidence.resolved import Resolved
from smidgen.exports.onnx_file import describe, largest_difference, to_onnx
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.model import Model, Preprocessing

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 3, 8, 8), dtype=np.uint8)


def make_model(name, **options):
    torch.manual_seed(0)
    problem = Problem(7, (3, 8, 8), 3, (0.1, 0.2, 0.3), (0.3, 0.2, 0.1), Resolved.nothing(7))
    method = make_method(name, make_config(name, options), problem).eval()
    if name == "kmeans":
        method.centroids, method.spread = torch.rand(3, 192), torch.tensor(2.0)
    return Model(method, name, Preprocessing(8, 3, "pad"), ("a", "b", "ç\n"))


@pytest.mark.parametrize(("name", "temperature"), [("fusion-images", 2.5), ("kmeans", 1.0)])
def test_onnx_gives_what_torch_gives_for_any_batch(name, temperature):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    model = dataclasses.replace(make_model(name), temperature=temperature)
    content, difference = to_onnx(model, images=IMAGES)
    assert difference <= 1e-4
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for n in (1, 7):
        images = IMAGES[:n].astype(np.float32) / 255
        assignments, embeddings = session.run(["assignments", "embeddings"], {"images": images})
        assert assignments == pytest.approx(model.assign(IMAGES[:n]), abs=1e-4)
        assert embeddings == pytest.approx(model.encode(IMAGES[:n]), abs=1e-4)
    about = json.loads(session.get_modelmeta().custom_metadata_map["smidgen"])
    assert about == describe(model)
    assert (about["cluster_names"], about["input"]["shape"]) == (["a", "b", "ç\n"], ["batch", 3, 8, 8])
    assert (about["input"]["colour"], about["input"]["resize"]) == ("RGB", "pad")


class Session:
    """Stands for ONNX Runtime, with a model that is off by some amount."""

    def __init__(self, off, model):
        self.off, self.model = off, model

    def run(self, names, given):
        assignments, embeddings = self.model.method.assign_and_encode(torch.from_numpy(given["images"]))
        return [assignments.numpy(), embeddings.numpy() + np.float32(self.off)]


@pytest.mark.parametrize("off", [float("nan"), float("inf"), 0.01])
def test_a_model_that_differs_is_refused(off, monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    model = make_model("kmeans")
    monkeypatch.setattr("smidgen.exports.onnx_file._translated", lambda *given: b"")
    monkeypatch.setattr("onnxruntime.InferenceSession", lambda *given, **options: Session(off, model))
    with pytest.raises(InputError, match=r"differs from the run's by \S+, .*it is not written"):
        to_onnx(model)


def test_differences_are_shares_of_what_is_compared():
    for scale in (1e-12, 1.0, 1e6):
        assert largest_difference(np.array([1.0, -2.0]) * scale, np.array([1.0, -2.001]) * scale) == pytest.approx(5e-4)
    assert largest_difference(np.zeros((2, 3)), np.zeros((2, 3))) == 0
    assert np.isnan(largest_difference(np.ones(2), np.array([1.0, np.nan])))


def test_the_missing_extra_is_named(monkeypatch):
    monkeypatch.setattr("smidgen.exports.onnx_file._NEEDED", ("onnx_of_another_world",))
    with pytest.raises(InputError, match=r"needs onnx_of_another_world: `pip install 'smidgen\[onnx\]'`"):
        to_onnx(make_model("kmeans"))


def test_the_models_own_method_stays_where_it_is(monkeypatch):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    model, moved = make_model("kmeans"), []
    apply = torch.nn.Module._apply
    monkeypatch.setattr(torch.nn.Module, "_apply", lambda net, *given: (moved.append(net), apply(net, *given))[1])
    to_onnx(model)
    assert moved
    assert not any(net is model.method for net in moved)
