"""A run on ready embeddings that starts from one of `fusion`: it begins with what that run knows, and saves it."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from smidgen.config import Config
from smidgen.data.datasets import open_dataset
from smidgen.errors import InputError
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.simulation import Simulation, simulate
from smidgen.exports.onnx_file import to_onnx
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.model import Model
from smidgen.nets.composed import Projected
from smidgen.setup.configuration import resolve
from smidgen.setup.encoder import choose_encoder

N, CENTRES = 150, 3
X, CLASSES = make_blobs(n_samples=N, centers=CENTRES, n_features=12, cluster_std=3.0, random_state=1)
DATA = open_dataset(X)
FUSION = {"steps": 40, "refine_steps": 150, "batch_size": 64, "refine_batch_size": 64, "components": 9, "hidden": 24}
SOFTMAX = {"activation": "softmax", "feature_bias": True, "features": CENTRES, "reconstruction": "none"}
STILL = {"learning_rate": 0.0, "freeze_encoder": True, "steps": 1}


def bags():
    told = Simulation(n_bags=30, ucc=(1, 3), bag_size=(4, 9), proportions=True)
    return simulate(told, CLASSES, ids=DATA.ids, class_names=("a", "b", "c"), generator=np.random.default_rng(0))[0]


def config(method, **settings):
    return Config("array", method=method, n_clusters=CENTRES, threads=1, precision="float32", **settings)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs of `fusion`, with and without evidence."""
    folder = tmp_path_factory.mktemp("runs")
    for name, evidence in (("told", bags()), ("alone", None)):
        fit(config("fusion", options=FUSION), data=X, evidence=evidence, out=folder / name)
    return folder


def started(method, run, **options):
    warm = {"preset": "warm", "features": CENTRES} if method == "ucc" else SOFTMAX
    return fit(config(method, init_from=str(run), options=warm | options), data=X, evidence=bags())


@pytest.mark.parametrize("method", ["ucc", "rcc"])
def test_features_begin_as_the_assignments_of_the_run_they_start_from(method, runs):
    outcome = started(method, runs / "told", **STILL)
    assert outcome.config.options["encoder"] == Projected(9, 24)
    wanted = Model.load(runs / "told").assign(DATA.images)
    np.testing.assert_allclose(outcome.model.encode(DATA.images), wanted, atol=1e-6)
    clusters = outcome.assignments.argmax(1)
    assert clustering_accuracy(wanted.argmax(1), clusters) > 0.95
    assert clustering_accuracy(CLASSES, clusters) > 0.9


def test_without_evidence_features_begin_as_the_vote(runs):
    outcome = started("ucc", runs / "alone", **STILL)
    assert outcome.config.options["encoder"] == Projected(9)
    wanted = Model.load(runs / "alone").assign(DATA.images).argmax(1)
    assert clustering_accuracy(wanted, outcome.model.encode(DATA.images).argmax(1)) > 0.9


def test_what_was_taken_goes_on_learning_at_its_own_rate(runs):
    wanted = Model.load(runs / "told").assign(DATA.images)
    slow, fast = (
        np.abs(started("ucc", runs / "told", steps=5, encoder_rate=rate).model.encode(DATA.images) - wanted).max()
        for rate in (1e-3, 10.0)
    )
    assert 1e-7 < slow < fast / 2


def test_it_is_saved_and_can_be_started_from_again(runs, tmp_path):
    outcome = started("ucc", runs / "told", steps=2)
    outcome.model.save(tmp_path / "model")
    again = Model.load(tmp_path / "model")
    np.testing.assert_array_equal(again.assign(DATA.images), outcome.model.assign(DATA.images))
    third = started("ucc", tmp_path / "model", **STILL).model
    np.testing.assert_allclose(third.encode(DATA.images), again.encode(DATA.images), atol=1e-6)


def test_its_onnx_gives_what_it_gives(runs):
    pytest.importorskip("onnxruntime", reason="the extra `onnx` is not installed")
    assert to_onnx(started("ucc", runs / "told", steps=2).model)[1] < 1e-4


def test_k_means_clusters_what_the_other_run_has_learned(runs):
    outcome = fit(config("kmeans", init_from=str(runs / "told")), data=X)
    assert outcome.config.options["encoder"] == Projected(9, 24)
    assert outcome.model.encode(DATA.images).shape == (N, 24)
    assert clustering_accuracy(CLASSES, outcome.assignments.argmax(1)) > 0.9


def test_fusion_looks_at_embeddings_anew_wherever_it_starts(runs):
    resolved = resolve(config("fusion", init_from=str(runs / "told")))
    chosen, _ = choose_encoder(resolved, DATA, Listener())
    assert chosen.method == "fusion-embeddings"
    outcome = fit(config("fusion", init_from=str(runs / "told"), options=FUSION), data=X)
    assert clustering_accuracy(CLASSES, outcome.assignments.argmax(1)) > 0.9


def test_a_projected_encoder_is_refused_where_there_is_nothing_to_take_it_from():
    table = {"type": "projected", "components": 9, "hidden": 24}
    for encoder in (Projected(9, 24), table, {"type": "chain", "first": "lite0", "then": table}):
        with pytest.raises(InputError, match="a layer of 24 units' comes from another run: name that one, `--init-fr"):
            resolve(config("ucc", options={"encoder": encoder}))


@pytest.mark.parametrize("wrong", [{}, {"type": "projected"}, {"type": "net"}, {"type": "gradients", "net": 3}])
def test_a_table_that_is_no_encoder_is_refused(wrong):
    with pytest.raises(InputError, match="`encoder` must be a text, or a table as runs write it, got"):
        resolve(config("ucc", options={"encoder": wrong}))


def test_an_encoder_of_another_size_is_refused(runs):
    with pytest.raises(InputError, match=r"a layer of 25 units. is wanted here"):
        started("ucc", runs / "told", encoder=Projected(9, 25))
