"""A frozen encoder all the way: chosen, embedded once, clustered, saved with the model, shown new images."""

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from smidgen.config import Config
from smidgen.data.datasets import open_dataset
from smidgen.errors import InputError
from smidgen.estimator import ImageClusterer
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.model import Model
from smidgen.nets.composed import Chain, Projected
from smidgen.nets.pretrained import pretrained_encoder
from smidgen.setup import images as setup_images
from smidgen.setup.configuration import resolve
from smidgen.setup.encoder import choose_encoder
from smidgen.setup.images import open_data

QUICK = {"steps": 30, "batch_size": 32, "heads": 4, "kept": 2, "votes": 1}
COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for row in range(24):
        pixels = np.clip(np.array(COLOURS[row % 3]) + random.normal(0, 20, (20, 20, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{row:02d}.png")
    return folder


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path_factory):
    monkeypatch.setenv("SMIDGEN_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    config = Config(str(photos), n_clusters=3, encoder="lite0", threads=1, options=QUICK)
    return out, fit(config, out=out)


def chosen(data, **settings):
    config = resolve(Config("array" if isinstance(data, np.ndarray) else str(data), n_clusters=3, **settings))
    train, _ = open_data(config, data, None, Listener())
    return choose_encoder(config, train, Listener())


def test_a_run_on_photographs_says_what_it_embedded_them_with(run, photos):
    out, outcome = run
    assert outcome.config.encoder == "lite0"
    assert outcome.config.method == "fusion-embeddings"
    assert "lite0, frozen, trained on ImageNet&#39;s labels" in (out / "report.html").read_text()
    labels = outcome.assignments.argmax(1)
    assert all(len(set(labels[colour::3])) == 1 for colour in range(3))  # colours are not hard


def test_the_saved_model_alone_predicts_new_images(run, photos):
    out, outcome = run
    images = open_dataset(photos).images
    loaded = Model.load(out)
    assert loaded.extractor.preprocess == outcome.model.extractor.preprocess
    assert loaded.shape == (3, 20, 20)
    np.testing.assert_array_equal(loaded.assign(images), outcome.assignments)
    assert loaded.encode(images[:2]).shape == (2, loaded.method.projection.features)


def test_resuming_changes_no_setting(run):
    out, outcome = run
    config = Config(outcome.config.data, n_clusters=3, encoder="lite0", threads=1, options=QUICK)
    assert fit(config, out=out, resume=True).config.encoder == "lite0"


def test_photographs_get_a_pretrained_encoder_and_small_grey_images_a_small_net(photos):
    config, extractor = chosen(photos)
    assert (config.method, config.encoder, extractor.preprocess.flip) == ("fusion-embeddings", "lite2", True)
    config, extractor = chosen(np.zeros((9, 28, 28), dtype=np.uint8))
    assert (config.method, config.encoder, extractor) == ("fusion-images", None, None)
    assert config.options["encoder"] == "conv"


def test_a_net_that_is_trained_here_is_no_extractor(photos):
    config, extractor = chosen(photos, encoder="conv")
    assert (config.method, config.options["encoder"], extractor) == ("fusion-images", "conv", None)
    config, extractor = chosen(photos, encoder="lite0", fine_tune=True)
    assert (config.method, config.options["encoder"], extractor) == ("self-training", "lite0", None)


def test_other_methods_take_embeddings_only_where_an_encoder_is_named(photos):
    assert chosen(photos, method="kmeans")[1] is None
    config, extractor = chosen(photos, method="kmeans", encoder="lite0")
    assert (config.method, extractor.name) == ("kmeans", "lite0")


@pytest.mark.parametrize("method", ["ucc", "supervised"])
def test_methods_that_train_a_net_train_one_for_vectors_on_embeddings(photos, method):
    config, extractor = chosen(photos, method=method, encoder="lite0")
    assert (config.options["encoder"], extractor.name) == ("vectors", "lite0")


def test_photographs_of_other_sizes_are_read_at_the_size_of_the_encoder(tmp_path):
    for row in range(3):
        Image.new("RGB", (90 + row, 200), COLOURS[row]).save(tmp_path / f"{row}.png")
    for encoder, side in (("lite0", 128), (None, 160), ("conv", 64)):
        config = resolve(Config(str(tmp_path), n_clusters=3, encoder=encoder))
        assert open_data(config, None, None, Listener())[0].images.shape == (3, 3, side, side)


def test_own_weights_give_other_embeddings(photos, tmp_path):
    net = pretrained_encoder("lite0")
    state = {
        name: value * (1.5 if name.startswith("conv_head") else 1) for name, value in net.trunk.net.state_dict().items()
    }
    save_file(state, tmp_path / "own.safetensors")
    _, own = chosen(photos, encoder="lite0", weights=str(tmp_path / "own.safetensors"))
    assert own.fingerprint() != chosen(photos, encoder="lite0")[1].fingerprint()


def test_another_run_s_encoder_keeps_its_own_weights(photos, tmp_path):
    net = pretrained_encoder("lite0").trunk.net.state_dict()
    save_file(
        {name: value * (1.5 if name.startswith("conv_head") else 1) for name, value in net.items()},
        tmp_path / "w.safetensors",
    )
    config = Config(
        str(photos), n_clusters=3, encoder="lite0", weights=str(tmp_path / "w.safetensors"), threads=1, options=QUICK
    )
    first = fit(config, out=tmp_path / "run").model.extractor
    config, again = chosen(photos, init_from=str(tmp_path / "run"))
    assert config.encoder == "lite0"
    assert again.fingerprint() == first.fingerprint() != chosen(photos, encoder="lite0")[1].fingerprint()


def test_a_run_that_starts_from_one_on_embeddings_takes_its_encoder_and_its_net(run, photos):
    out, _ = run
    config, extractor = chosen(photos, method="ucc", init_from=str(out), options={"preset": "warm"})
    assert (config.encoder, extractor.name, config.options["encoder"]) == ("lite0", "lite0", Projected(256))
    config, _ = chosen(photos, init_from=str(out))
    assert (config.method, config.encoder) == ("fusion-embeddings", "lite0")
    config, extractor = chosen(photos, method="ucc", init_from=str(out), fine_tune=True)
    assert (config.options["encoder"], extractor) == (Chain("lite0", Projected(256)), None)
    config, extractor = chosen(photos, init_from=str(out), fine_tune=True)
    assert (config.method, config.options["encoder"]) == ("self-training", Chain("lite0", Projected(256)))


@pytest.mark.parametrize("settings", [{}, {"encoder": "lite0"}, {"encoder": "lite0", "fine_tune": True}])
def test_a_configuration_with_every_choice_made_makes_no_other(photos, settings):
    once, _ = chosen(photos, **settings)
    assert choose_encoder(resolve(once), open_data(once, None, None, Listener())[0], Listener())[0] == once


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"weights": "own.pt"}, "`--weights` go with a frozen encoder"),
        ({"encoder": "conv", "weights": "own.pt"}, "`--weights` go with a frozen encoder"),
        ({"options": {"head": 3}}, "Unknown option"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(photos, settings, words):
    with pytest.raises(InputError, match=words):
        chosen(photos, **settings)


def test_embeddings_are_not_embedded_again():
    with pytest.raises(InputError, match="wants images, and these are embeddings"):
        chosen(np.random.default_rng(0).random((9, 5)), encoder="lite0")


def test_the_estimator_embeds_too(photos):
    model = ImageClusterer(3, encoder="lite0", random_state=0, n_threads=1, options=QUICK).fit(photos)
    assert model.n_features_in_ == 3 * 20 * 20
    assert (model.predict(photos) == model.labels_).all()
    assert model.transform(photos).shape[1] == len(model.get_feature_names_out())


@pytest.mark.parametrize("size", [None, 32])
@pytest.mark.parametrize("how", [{"encoder": "lite0@5000"}, {"options": {"encoder": "lite0@5000"}}])
def test_an_encoder_of_an_impossible_size_is_refused_before_an_image_is_read(photos, how, size, monkeypatch):
    monkeypatch.setattr(setup_images, "open_splits", lambda *_, **__: pytest.fail("images were read"))
    with pytest.raises(InputError, match="between 16 and 4096 pixels, got 5000"):
        fit(Config(str(photos), n_clusters=3, size=size, **how))
