"""`--fine-tune --init-from` a run on a frozen encoder: that encoder and the run's own net go on as one."""

import numpy as np
import pytest
import torch

from smidgen import fitting
from smidgen.config import Config, from_table
from smidgen.errors import InputError
from smidgen.evidence.evidence import Evidence
from smidgen.files import read_toml
from smidgen.fitting import fit
from smidgen.methods import make_config
from smidgen.model import Model
from smidgen.nets.composed import Chain, Projected
from smidgen.nets.pretrained import pretrained_encoder
from smidgen.nets.timm_encoder import PretrainedEncoder

CLASSES = np.arange(24) % 2
IMAGES = (
    np.random.default_rng(0).integers(0, 128, (24, 3, 8, 8), dtype=np.uint8)
    + (CLASSES * 100).astype(np.uint8)[:, None, None, None]
)
FLOATS = torch.from_numpy(IMAGES).float() / 255
EVIDENCE = Evidence.from_labels(CLASSES)
FUSION = {"steps": 4, "refine_steps": 2, "batch_size": 8, "refine_batch_size": 8, "components": 8, "hidden": 16}
FUSION |= {"small": 0, "sees": "components"}  # so that labels train the net
NAME = "lite0@32"


def config(method, **settings):
    return Config("array", method=method, n_clusters=2, threads=1, precision="float32", issues=False, **settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Frozen runs: `fusion` with labels, which has a net of its own, and k-means, which has none."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SMIDGEN_CACHE", str(folder / "cache"))
        patch.setattr(fitting, "write_page", lambda path: None)
        for name, method, options, evidence in (
            ("told", "fusion", FUSION, EVIDENCE),
            ("all numbers", "fusion", FUSION | {"sees": "embeddings"}, EVIDENCE),
            ("kmeans", "kmeans", {"n_init": 1}, None),
        ):
            fit(config(method, encoder=NAME, options=options), data=IMAGES, evidence=evidence, out=folder / name)
        yield folder


@pytest.fixture(scope="module")
def folded():
    """The pretrained net as it is when it begins to be trained."""
    return pretrained_encoder(NAME, flip=True).fold()


def tuned(method, run, *, evidence=EVIDENCE, **options):
    settings = {"fine_tune": True, "init_from": str(run), "options": options}
    return fit(config(method, **settings), data=IMAGES, evidence=evidence)


STILL = {"steps": 1, "batch_size": 8, "learning_rate": 0.0}


@pytest.mark.parametrize(
    ("run", "encoder"),
    [("told", Chain(NAME, Projected(8, 16))), ("all numbers", Chain(NAME, "vectors")), ("kmeans", NAME)],
)
def test_the_encoder_and_the_net_of_the_run_are_one_to_begin_with(runs, run, encoder):
    outcome = tuned("kmeans", runs / run, evidence=None, n_init=1)
    assert (outcome.config.encoder, outcome.config.options["encoder"]) == (None, encoder)
    assert outcome.model.extractor is None
    other = Model.load(runs / run)
    with torch.no_grad():
        vectors = other.extractor.eval()(FLOATS)
        wanted = vectors if run == "kmeans" else other.method.starting_point.net.eval()(vectors)
    np.testing.assert_allclose(outcome.model.encode(IMAGES), wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


def test_both_go_on_learning_and_are_saved_as_one(runs, folded, tmp_path):
    options = {"steps": 2, "bags": 2, "bag_size": "4", "ucc": "1-2", "alpha": 1.0, "frozen_stages": 2}
    outcome = tuned("ucc", runs / "told", **options)
    assert outcome.config.options["encoder"] == Chain(NAME, Projected(8, 16))
    encoder = outcome.model.method.starting_point.net
    assert isinstance(encoder.first, PretrainedEncoder)
    began = folded.state_dict()
    assert any(not value.equal(began[name]) for name, value in encoder.first.state_dict().items())
    assert encoder.then.projection.weights.equal(Model.load(runs / "told").method.projection.weights)
    outcome.model.save(tmp_path)
    again = Model.load(tmp_path)
    assert again.method.config == outcome.model.method.config
    np.testing.assert_array_equal(again.assign(IMAGES), outcome.assignments)


@pytest.mark.parametrize(("run", "net"), [("told", Projected(8, 16)), ("all numbers", "vectors")])
def test_self_training_goes_on_from_the_run_s_assignments(runs, run, net):
    still = {"learning_rate": 0.0, "head_rate": 0.0, "steps": 1, "batch_size": 8, "keep": "always"}
    outcome = tuned("self-training", runs / run, **still)
    other = Model.load(runs / run)
    assert outcome.config.options["encoder"] == Chain(NAME, net)
    with torch.no_grad():
        wanted = other.method.eval().assign(other.extractor.eval()(FLOATS))
        found = outcome.model.method.eval().assign(FLOATS)  # the model's are tempered
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    assert outcome.model.cluster_names == other.cluster_names
    first = outcome.model.method.net.encoder.first.trunk.net
    trained = [name for name, value in first.named_parameters() if value.requires_grad]
    assert {name.split(".")[1] for name in trained if name.startswith("blocks.")} == {"5", "6"}


def test_such_a_run_can_be_resumed_and_started_from(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(fitting, "write_page", lambda path: None)
    settings = {"fine_tune": True, "init_from": str(runs / "told"), "options": STILL}
    outcome = fit(config("supervised", **settings), data=IMAGES, evidence=EVIDENCE, out=tmp_path / "run")
    stored = from_table(read_toml(tmp_path / "run" / "config.toml"))
    assert make_config("supervised", stored.options) == outcome.config.options
    resumed = fit(stored, data=IMAGES, evidence=EVIDENCE, out=tmp_path / "run", resume=True)
    assert resumed.config.options == outcome.config.options
    third = fit(config("kmeans", init_from=str(tmp_path / "run"), options={"n_init": 1}), data=IMAGES)
    assert third.config.options["encoder"] == Chain(NAME, Projected(8, 16))
    np.testing.assert_allclose(third.model.encode(IMAGES), outcome.model.encode(IMAGES), atol=1e-5)


def test_another_encoder_than_the_run_s_is_refused(runs):
    with pytest.raises(InputError, match="works on the embeddings of 'lite0@32', and none of that goes with"):
        fit(config("supervised", fine_tune=True, init_from=str(runs / "kmeans"), encoder="lite0@64"), data=IMAGES)
