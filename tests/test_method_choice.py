"""Which method `fusion` is, and why; options that are read once, before any image is."""

import dataclasses
import json

import numpy as np
import pytest

from smidgen import fitting, methods
from smidgen.cli.main import main
from smidgen.config import Config, as_table, from_table
from smidgen.data.datasets import open_dataset
from smidgen.errors import InputError
from smidgen.estimator import ImageClusterer
from smidgen.experiments.recipes import read_recipe
from smidgen.experiments.seeds import run_recipe
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.methods import FUSION_METHODS
from smidgen.model import Model
from smidgen.run_folder import RunFolder
from smidgen.setup.method import Choice, by_options, choose_method, mutual_share_of_pixels
from smidgen.setup.options import read_early, with_options

RANDOM = np.random.default_rng(0)
GREY = RANDOM.integers(0, 256, (24, 8, 8), dtype=np.uint8)
COLOUR = RANDOM.integers(0, 256, (24, 8, 8, 3), dtype=np.uint8)
LARGE = np.zeros((2, 65, 65), dtype=np.uint8)
VECTORS = RANDOM.normal(size=(24, 6)).astype(np.float32)
IMAGES, EMBEDDINGS = FUSION_METHODS
TUNING = "self-training"
QUICK = {"steps": 3, "refine_steps": 2, "batch_size": 8}


@pytest.fixture(autouse=True)
def _no_page(monkeypatch):
    monkeypatch.setattr(fitting, "write_page", lambda path: None)


@pytest.fixture
def made(monkeypatch):
    """The methods whose configurations are made, in order."""
    names, make = [], methods.make_config

    def follow(name, options=None):
        names.append(name)
        return make(name, options)

    monkeypatch.setattr("smidgen.setup.method.make_config", follow)
    monkeypatch.setattr("smidgen.model.make_config", follow)
    return names


@pytest.fixture
def no_images(monkeypatch):
    """Opening images fails the test."""
    monkeypatch.setattr("smidgen.setup.images.open_splits", lambda *args, **kwargs: pytest.fail("images were opened"))


def config(**settings):
    return Config("array", n_clusters=2, threads=1, **settings)


@pytest.mark.parametrize(
    ("data", "settings", "method", "why"),
    [
        (GREY, {}, IMAGES, "the images are grey and of at most 64 pixels a side"),
        (COLOUR, {}, EMBEDDINGS, "the images are in colour, and no encoder is named to be trained on them"),
        (LARGE, {}, EMBEDDINGS, "the images are larger than 64 pixels a side, and no"),
        (VECTORS, {}, EMBEDDINGS, "the data are ready embeddings"),
        (COLOUR, {"encoder": "conv"}, IMAGES, "the encoder 'conv' is trained"),
        (COLOUR, {"encoder": "lite0", "fine_tune": True}, TUNING, "a pretrained encoder is trained further"),
        (GREY, {"fine_tune": True}, TUNING, "a pretrained encoder is trained further"),
        (GREY, {"encoder": "lite0"}, EMBEDDINGS, "the encoder 'lite0' is frozen"),
        (COLOUR, {"options": {"settle": "0.5"}}, IMAGES, "`settle` is an option that only it has"),
        (VECTORS, {"options": {"encoder": "vectors"}}, IMAGES, "the encoder 'vectors' is trained"),
        (GREY, {"options": {"hidden": "9", "steps": "8"}}, EMBEDDINGS, "`hidden` is an option that only it has"),
        (GREY, {"options": {"components": 9, "heads": 2}}, IMAGES, "the images are grey"),
        (GREY, {"method": "kmeans"}, None, None),
        (GREY, {"method": EMBEDDINGS}, None, None),
    ],
)
def test_fusion_is_the_method_that_suits_what_is_given(data, settings, method, why):
    choice = choose_method(with_options(config(**settings)), open_dataset(data, other_size=80), Listener())[1]
    assert method is None if choice is None else (choice.method, choice.why.startswith(why)) == (method, True)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"options": {"settle": 0.5, "hidden": 9}}, "`settle` is an option that only it has, and `fusion-emb"),
        ({"encoder": "lite0", "options": {"settle": 0.5}}, "as the encoder 'lite0' is frozen: leave one of the two"),
        (
            {"encoder": "conv", "options": {"hidden": 9}},
            "as the encoder 'conv' is trained, and .*`hidden` is an option",
        ),
        ({"options": {"step": 9}}, r"Unknown option of fusion 'step'\. Did you mean 'steps'"),
        ({"options": {"steps": 0}}, "`steps` must be a whole number, 1 or above, got 0"),
        ({"options": {"hidden": "many"}}, "`hidden` must be a whole number, 1 or above, got 'many'"),
        ({"method": EMBEDDINGS, "options": {"settle": 0.5}}, "is an option of fusion-images, not of fusion-embeddings"),
        ({"method": EMBEDDINGS, "encoder": "conv"}, "trains no encoder, and 'conv' would be trained: take `--method f"),
        ({"method": EMBEDDINGS, "encoder": "lite0", "fine_tune": True}, "trains no encoder, and 'lite0' would be"),
        ({"method": "ucc", "options": {"bag_size": "4-2"}}, "bag_size"),
        ({"method": "ucc", "options": {"warmup_steps": 3, "reconstruction": "none"}}, "`warmup_steps` trains the dec"),
        ({"method": "ucc", "options": {"preset": "fats"}}, "Unknown preset of ucc 'fats'. Did you mean 'fast'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_images_are_read(settings, words, no_images):
    with pytest.raises(InputError, match=words):
        fit(config(**settings), data=GREY)
    with pytest.raises(InputError, match=words):
        read_early(config(**settings))
    with pytest.raises(InputError, match=words):
        read_early(config(**settings, init_from="runs/not-yet-there"))


def test_every_choice_that_options_make_is_made_whatever_the_images_are(no_images):
    assert by_options(config()) is None
    assert by_options(config(options={"hidden": 3})) == Choice(EMBEDDINGS, "`hidden` is an option that only it has")


@pytest.mark.parametrize(
    ("method", "data"),
    [("fusion", GREY), ("fusion", VECTORS), (IMAGES, GREY), (EMBEDDINGS, VECTORS), ("kmeans", GREY)],
)
def test_the_configuration_of_the_method_is_made_once_per_fit(method, data, made, tmp_path):
    options = {} if method == "kmeans" else QUICK
    outcome = fit(config(method=method, options=options), data=data, out=tmp_path / "run")
    assert made == [outcome.config.method]
    assert outcome.model.method.config is outcome.config.options
    ImageClusterer(2, method=method, options=options, n_threads=1).fit(data)
    assert len(made) == 2


def test_it_is_made_once_on_the_command_line_and_for_each_seed_of_a_recipe(made, tmp_path):
    options = ["--method", "kmeans", "--set", "n_init=1", "--no-issues", "--quiet"]
    assert main(["fit", "digits", *options, "--out", str(tmp_path / "run")]) == 0
    assert made == ["kmeans"]
    text = 'data = "digits"\nmethod = "kmeans"\nseeds = [0, 1]\nissues = false\noptions.n_init = "1"\n'
    (tmp_path / "mine.toml").write_text(text)
    found = read_recipe(tmp_path / "mine.toml")  # checked, so that a wrong option is refused before the first run
    del made[:]
    run_recipe(found, tmp_path / "runs")
    assert made == ["kmeans"] * 2


def test_a_run_that_starts_from_another_makes_its_own_once(made, tmp_path):
    fit(config(options=QUICK), data=GREY, out=tmp_path / "first")
    del made[:]
    fit(config(options=QUICK, init_from=str(tmp_path / "first")), data=GREY)
    assert made == [IMAGES, IMAGES]  # the other run's, with its model, and its own


def test_writing_has_mutual_neighbours_by_pixels_and_trains_a_net():
    digits = open_dataset("digits")
    assert mutual_share_of_pixels(digits.images[:300]) > 0.6
    choice = choose_method(config(), digits, Listener())[1]
    assert choice.method == IMAGES
    assert choice.why.startswith("the images are grey and of at most 64 pixels a side, and ")
    assert choice.why.endswith(" % of their nearest neighbours by pixels are mutual, as of writing")


def test_small_grey_images_whose_pixels_say_nothing_are_embedded(monkeypatch):
    digits = open_dataset("digits").subset(np.arange(300))
    noise = dataclasses.replace(digits, images=RANDOM.integers(0, 256, (300, 1, 28, 28), dtype=np.uint8))
    choice = choose_method(config(), noise, Listener())[1]
    assert choice.method == EMBEDDINGS
    assert " % of their nearest neighbours by pixels are mutual, fewer than of writing" in choice.why
    few = noise.subset(np.arange(50))
    assert choose_method(config(), few, Listener())[1].method == IMAGES
    named = choose_method(config(encoder="conv"), noise, Listener())[1]
    assert named.method == IMAGES


def test_mutual_neighbours_are_counted_one_by_one():
    images = RANDOM.integers(0, 256, (30, 1, 4, 4), dtype=np.uint8)
    pixels = images.reshape(30, -1).astype(np.float64)
    distance = np.square(pixels[:, None] - pixels).sum(2) + np.diag([np.inf] * 30)
    near = [set(row.argsort()[:10].tolist()) for row in distance]
    slow = np.mean([image in near[other] for image in range(30) for other in near[image]])
    assert mutual_share_of_pixels(images) == pytest.approx(slow, abs=0.02)


def test_the_choice_is_said_and_recorded(tmp_path):
    said = []
    listener = Listener()
    listener.log = said.append
    outcome = fit(config(options=QUICK), data=GREY, out=tmp_path / "run", listener=listener)
    why = "the images are grey and of at most 64 pixels a side"
    assert f"`fusion` is `fusion-images` here: {why}." in said
    manifest = RunFolder(tmp_path / "run").manifest
    assert (manifest["method"], manifest["method_choice"]) == (IMAGES, {"asked": "fusion", "why": why})
    assert outcome.config.method == outcome.metrics["method"] == Model.load(tmp_path / "run").name == IMAGES
    assert json.loads((tmp_path / "run/model/model.json").read_text())["method"] == IMAGES


def test_a_dry_run_says_the_choice(capsys):
    assert main(["fit", "digits", "--set", "settle=.5", "--dry-run", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    why = "`settle` is an option that only it has"
    assert (shown["method"], shown["method_choice"]) == (IMAGES, {"asked": "fusion", "why": why})
    assert shown["options"]["settle"] == 0.5


def test_a_method_that_was_asked_for_is_no_choice(tmp_path):
    fit(config(method=IMAGES, options=QUICK), data=GREY, out=tmp_path / "run")
    assert "method_choice" not in RunFolder(tmp_path / "run").manifest


@pytest.mark.parametrize(("method", "data"), [(IMAGES, GREY), (EMBEDDINGS, VECTORS)])
def test_by_its_own_name_a_method_does_the_same(method, data):
    first, second = (fit(config(method=name, options=QUICK), data=data).assignments for name in ("fusion", method))
    np.testing.assert_array_equal(first, second)


def test_options_that_are_none_where_another_value_is_the_default_are_written():
    given = config(method=EMBEDDINGS, options={"refine_batch_size": "none", "hidden": 3})
    once = with_options(given)
    assert as_table(once)["options"]["refine_batch_size"] == "none"
    again = with_options(from_table(as_table(once)))
    assert again.options == once.options
    assert "encoder" not in as_table(with_options(config(method="kmeans")))["options"]
