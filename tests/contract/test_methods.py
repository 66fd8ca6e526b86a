"""What every registered method promises, on easy images; a new one is tested as soon as it is in METHODS."""

import dataclasses
import json
import random

import numpy as np
import pytest
import torch

from smidgen.config import Config, as_table, from_table
from smidgen.errors import InputError
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.resolved import Resolved
from smidgen.files import read_toml, write_toml
from smidgen.fitting import fit
from smidgen.methods import METHODS, make_config
from smidgen.model import Model

pytestmark = pytest.mark.parametrize("name", METHODS)


def state(trainer):
    return trainer.method.state_dict()


def test_the_class_bears_its_name_and_its_config_has_defaults(name, short):
    method = short.trained(name)
    assert method.name == name
    assert dataclasses.is_dataclass(method.config)
    assert make_config(name) == type(method.config)()


def test_its_config_survives_toml_and_the_command_line(name, tmp_path):
    config = Config("digits", method=name, options=dataclasses.asdict(make_config(name)))
    write_toml(tmp_path / "config.toml", as_table(config))
    back = from_table(read_toml(tmp_path / "config.toml"))
    assert make_config(name, back.options) == make_config(name)
    texts = {key: str(value) for key, value in config.options.items() if isinstance(value, (int, float, str))}
    assert make_config(name, texts) == make_config(name)


def test_its_losses_are_finite_and_its_clusters_better_than_chance(name, easy, short, tmp_path):
    trainer = short.trainer(name, folder=tmp_path)
    trainer.train()
    log = tmp_path / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert len(lines) == sum(stage.steps for stage in trainer.method.stages())
    numbers = [value for line in lines for value in line.values() if not isinstance(value, str)]
    assert np.isfinite(numbers).all()
    clusters = short.model(name).assign(easy.images).argmax(1)
    assert clustering_accuracy(easy.classes, clusters) > 0.6  # chance: .25


def test_assignments_and_embeddings_are_valid(name, easy, short):
    assignments, embeddings = short.model(name).assign(easy.images), short.model(name).encode(easy.images)
    assert assignments.shape == (160, 4)
    assert assignments.dtype == embeddings.dtype == np.float32
    assert (assignments >= 0).all()
    np.testing.assert_allclose(assignments.sum(1), 1, atol=1e-5)
    assert embeddings.ndim == 2
    assert len(embeddings) == 160
    both = short.model(name).assign_and_encode(easy.images)
    assert (both[0] == assignments).all()
    assert (both[1] == embeddings).all()
    assert np.isfinite(embeddings).all()


@pytest.mark.parametrize("rows", [[7], [7, 3, 90], list(range(159, -1, -1)), [7] * 600])
def test_an_image_gets_the_same_result_whatever_comes_with_it(name, rows, easy, short):
    model = short.model(name)
    assert (model.assign(easy.images[rows]) == model.assign(easy.images)[rows]).all()
    assert (model.encode(easy.images[rows]) == model.encode(easy.images)[rows]).all()


def test_no_images_are_no_error(name, easy, short):
    assert short.model(name).assign(easy.images[:0]).shape == (0, 4)


def test_the_same_seed_gives_the_same_result_whatever_the_global_generators_did(name, short):
    again = short.trainer(name)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    again.train()
    assert torch.get_rng_state().equal(before)
    whole = short.trained(name).state_dict()
    assert state(again).keys() == whole.keys()
    assert all(value.equal(whole[key]) for key, value in state(again).items())


def test_a_saved_model_predicts_the_same(name, easy, short, tmp_path):
    model = short.model(name)
    model.save(tmp_path)
    loaded = Model.load(tmp_path)
    assert (loaded.assign(easy.images) == model.assign(easy.images)).all()
    assert (loaded.encode(easy.images) == model.encode(easy.images)).all()
    assert (loaded.preprocessing, loaded.cluster_names) == (model.preprocessing, model.cluster_names)
    assert not loaded.method.training
    loaded.save(tmp_path / "again")
    assert (Model.load(tmp_path / "again").assign(easy.images) == model.assign(easy.images)).all()


@pytest.mark.parametrize("after", [1, 25, 40, 60, 61])
def test_killed_and_resumed_is_the_uninterrupted_training(name, after, short, tmp_path):
    if sum(stage.steps for stage in short.trained(name).stages()) < after:
        return  # over before it could be killed
    with pytest.raises(KeyboardInterrupt):
        short.trainer(name, folder=tmp_path, kill=after).train()
    resumed = short.trainer(name, folder=tmp_path)
    resumed.train()
    whole = short.trained(name).state_dict()
    assert all(value.equal(whole[key]) for key, value in state(resumed).items())


def test_killed_in_the_middle_of_a_begin_and_resumed_is_the_uninterrupted_training(name, short, tmp_path):
    begins = sum(len(stage.begins) for stage in short.trained(name).stages())
    if not begins:
        return  # it has no stages
    trainer, calls = short.trainer(name, folder=tmp_path), []
    begin = trainer.method.begin

    def dies(*args, **kwargs):
        begin(*args, **kwargs)  # everything has changed, and no checkpoint knows of it
        calls.append(args)
        if len(calls) == (begins + 1) // 2:
            raise KeyboardInterrupt

    trainer.method.begin = dies
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    resumed = short.trainer(name, folder=tmp_path)
    resumed.train()
    whole = short.trained(name).state_dict()
    assert all(value.equal(whole[key]) for key, value in state(resumed).items())


def test_it_starts_from_another_one_s_encoder(name, easy, short, tmp_path):
    short.model(name).save(tmp_path)
    other = Model.load(tmp_path).method
    method = short.trainer(name, seed=1).method
    start = other.starting_point
    if start is None:  # k-means on pixels has no net
        with pytest.raises(InputError, match="has no net"):
            method.start_from(short.trained("supervised").starting_point)
        return
    images = torch.from_numpy(easy.images).float() / 255
    wanted = other.eval().encode(images)
    assert short.trained(name).eval().encode(images).equal(wanted)  # `training_only` has not left out what it takes
    assert not method.eval().encode(images).equal(wanted)
    method.start_from(start)
    assert method.encode(images).equal(wanted)


def test_its_tables_are_columns_of_equal_length(name, easy, short):
    from smidgen.training.embed import make_embed

    method = short.trained(name)
    for table in method.tables(make_embed(method, easy.images, device=torch.device("cpu"))).values():
        assert len({len(column) for column in table.values()}) == 1


# ------------------------------------------------------------------------------------------------- sizes, through fit


def quick_fit(name, short, images, *, n_clusters, labels=None):
    options = dataclasses.asdict(short.config(name)) | {
        field: 3 for field in dataclasses.asdict(short.config(name)) if field.endswith("steps")
    }
    config = Config("array", method=name, n_clusters=n_clusters, options=options, threads=1)
    labels = np.arange(len(images)) % n_clusters if labels is None else labels
    names = tuple(str(k) for k in range(n_clusters))
    evidence = Resolved(len(images), labels=torch.from_numpy(labels), class_names=names)
    return fit(config, data=images, evidence=evidence)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5])
def test_few_images_give_a_valid_result_or_a_clear_message(name, n, easy, short):
    images = easy.images[:n]
    if n < 4:
        with pytest.raises(InputError, match=f"4 clusters were wanted of {n} images: ask for fewer clusters"):
            quick_fit(name, short, images, n_clusters=4)
    else:
        assignments = quick_fit(name, short, images, n_clusters=4).model.assign(images)
        assert np.isfinite(assignments).all()
    for n_clusters in {1, min(n, 2)}:
        if n == 1 and name.startswith("fusion"):
            with pytest.raises(InputError, match="give more images"):
                quick_fit(name, short, images, n_clusters=n_clusters)
            continue
        assignments = quick_fit(name, short, images, n_clusters=n_clusters).model.assign(images)
        np.testing.assert_allclose(assignments.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("value", [0, 128, 255])
def test_equal_images_give_a_valid_result(name, value, short):
    images = np.full((12, 8, 8), value, dtype=np.uint8)
    outcome = quick_fit(name, short, images, n_clusters=3)
    assignments = outcome.model.assign(images[:, None])
    np.testing.assert_allclose(assignments.sum(1), 1, atol=1e-5)
    assert (assignments == assignments[0]).all()
    assert outcome.metrics["alarms"]


def test_fit_leaves_every_global_generator_and_the_threads_alone(name, easy, short):
    def look():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()), torch.get_num_threads()  # noqa: NPY002

    before = look()
    quick_fit(name, short, easy.images, n_clusters=4)
    assert look() == before
