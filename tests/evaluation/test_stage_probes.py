from collections.abc import Sequence

import numpy as np
import pytest
import torch

from smidgen.config import from_table
from smidgen.data.dataset import Dataset
from smidgen.data.datasets import open_splits
from smidgen.errors import InputError
from smidgen.evaluation.stage_probes import EMBEDDING, RANDOM, TRAINED, choose_images, probe_stages, randomised
from smidgen.fitting import fit
from smidgen.model import Model


def dataset(classes: Sequence[int] | None, *, split: str = "train", names: tuple[str, ...] = ("a", "b")) -> Dataset:
    """Return images whose first pixel is their class."""
    given = np.zeros(30, dtype=int) if classes is None else np.asarray(classes)
    images = np.zeros((len(given), 1, 8, 8), dtype=np.uint8)
    images[:, 0, 0, 0] = np.maximum(given, 0)
    ids = np.array([f"{split}/{i}" for i in range(len(given))], dtype=object)
    return Dataset("made", split, ids, images, classes=None if classes is None else given, class_names=names)


@pytest.fixture(scope="module")
def model() -> Model:
    """A net that was trained with all labels of digits."""
    options = {"steps": 150, "augment": False}
    return fit(from_table({"data": "digits", "method": "supervised", "threads": 1, "options": options})).model


def test_images_are_drawn_from_those_of_known_class_and_alike_each_time() -> None:
    train, test = dataset([0, 1, -1] * 20), dataset([1, 0] * 20, split="test", names=("b", "a"))
    found = choose_images([train, test], most=15, seed=1)
    assert len(found.train) == len(found.test) == 15
    assert (found.train[:, 0, 0, 0] == found.train_classes).all()
    assert (found.test[:, 0, 0, 0] == 1 - found.test_classes).all()  # the test images' classes come in another order
    again = choose_images([train, test], most=15, seed=1)
    assert (again.train_classes == found.train_classes).all()
    assert (choose_images([train, test], most=15, seed=2).train_classes != found.train_classes).any()


def test_a_fifth_is_held_out_where_no_test_image_has_a_class() -> None:
    for others in ([], [dataset(None, split="test")]):
        found = choose_images([dataset([0, 1] * 50), *others], seed=0)
        assert (len(found.train), len(found.test)) == (80, 20)


def test_images_without_classes_are_refused() -> None:
    with pytest.raises(InputError, match="known class, and these have none"):
        choose_images([dataset(None)], seed=0)
    with pytest.raises(InputError, match="two classes"):
        choose_images([dataset([0] * 30)], seed=0)


def test_a_trained_net_is_read_better_than_a_random_one_and_the_pixels(model: Model) -> None:
    images = choose_images([each for each in open_splits("digits") if each is not None], most=300, seed=0)
    told: list[str] = []
    scores = list(probe_stages(model, images, seed=0, progress=lambda what, _, __: told.append(what)))
    assert [(each.net, each.stage, each.features) for each in scores] == [
        (TRAINED, "conv1", 512),
        (TRAINED, EMBEDDING, 128),
        (RANDOM, "conv1", 512),
        (RANDOM, EMBEDDING, 128),
        ("pixels", "", 64),
    ]
    trained, random, pixels = scores[1], scores[3], scores[4]
    assert trained.knn[1] > max(random.knn[1], pixels.knn[1]) + 0.02  # type: ignore[operator,type-var]
    assert trained.linear > 0.95
    assert trained.logistic is not None
    assert trained.logistic > 0.95
    assert pixels.logistic is None
    assert told[0] == "probe trained conv1"


def test_few_images_have_no_neighbours(model: Model) -> None:
    images = choose_images([each for each in open_splits("digits") if each is not None], most=20, seed=0)
    scores = next(probe_stages(model, images, seed=0))
    assert scores.knn[0] is not None
    assert scores.knn[1] is None


def test_the_random_net_is_that_of_the_seed(model: Model) -> None:
    weights = [randomised(model, seed=seed).method.encoder.layers[1].weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], model.method.encoder.layers[1].weight)


def test_ready_embeddings_are_one_stage() -> None:
    x = np.random.default_rng(0).normal(size=(120, 16)).astype(np.float32)
    classes = (x[:, 0] > 0).astype(int)
    options = {"steps": 20}
    found = fit(
        from_table({"data": "array", "method": "sela", "n_clusters": 2, "threads": 1, "options": options}), data=x
    )
    vectors = Dataset("made", "train", np.arange(120), x, classes=classes, class_names=("a", "b"))
    scores = list(probe_stages(found.model, choose_images([vectors], seed=0), seed=0))
    assert [(each.net, each.stage) for each in scores] == [(TRAINED, EMBEDDING), (RANDOM, EMBEDDING), ("vectors", "")]
    assert scores[2].features == 16
