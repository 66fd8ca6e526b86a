"""Scores of methods that describe bags, on features that are known by hand."""

import numpy as np
import pytest
import torch

from smidgen.data.datasets import Dataset
from smidgen.evaluation.bag_methods import score_bags
from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.model import Model, Preprocessing
from smidgen.nets.wide_residual import image_statistics

CLASSES = np.arange(60) % 3
NAMES = ("a", "b", "c")


def dataset(classes=CLASSES, *, split="test", names=NAMES):
    """Images whose first three pixels say which class they are of."""
    images = np.zeros((len(CLASSES), 1, 8, 8), dtype=np.uint8)
    images[np.arange(len(CLASSES)), 0, 0, CLASSES] = 255
    return Dataset("x", split, np.arange(len(images)).astype(str).astype(object), images, classes, names)


def model(name="ucc", **options):
    torch.manual_seed(0)
    evidence = Resolved(60, labels=torch.from_numpy(CLASSES), class_names=NAMES)
    settings = {"encoder": "conv", "features": 3, "bag_size": "6", "ucc": "1-3"} | options
    method = make_method(name, make_config(name, settings), Problem(60, (1, 8, 8), 3, (0.5,), (0.25,), evidence))
    method.encode = lambda images: images[:, 0, 0, :3].clone()
    method.count_probabilities = counted
    return Model(method.eval(), name, Preprocessing(8, 1), NAMES)


def score(model, datasets, **options):
    has_bags = model.method.bag_heads() is not None
    outputs = [(model.assign(d.images), model.encode(d.images)) if has_bags else () for d in datasets]
    return score_bags(model, datasets, outputs, **options)


def counted(features, offsets):
    """Count the classes of each bag."""
    counts = [len(bag.argmax(1).unique()) for bag in features.tensor_split(offsets[1:-1])]
    return torch.nn.functional.one_hot(torch.tensor(counts) - 1, 3).float()


def test_features_that_are_the_classes_get_full_scores():
    scores = score(model(reconstruction="none"), [dataset()], seed=0, n_bags=30).metrics
    names = [f"test_{name}_accuracy" for name in ("ucc", "paper_ucc", "kmeans", "spectral")]
    others = [f"test_{name}" for name in ("ucc_loss", "spectral_images", "min_js", "report_min_js")]
    assert scores.keys() == {*names, *others}
    assert [scores[name] for name in names] == [1, 1, 1, 1]
    assert (scores["test_ucc_loss"], scores["test_spectral_images"]) == (0, 60)
    # Of three features two lie at opposite ends and one does not differ.
    assert scores["test_min_js"] == pytest.approx(2 / 3, abs=1e-4)


def test_counts_that_are_one_too_small_are_right_for_pure_bags_only():
    said = model()
    said.method.count_probabilities = lambda f, o: torch.nn.functional.one_hot(counted(f, o).argmax(1).sub(1).relu(), 3)
    scores = score(said, [dataset()], seed=0, n_bags=30).metrics
    assert scores["test_ucc_accuracy"] == pytest.approx(1 / 3)
    assert scores["test_ucc_loss"] == pytest.approx(-2 / 3 * np.log(1e-12))


def test_bags_of_32_are_scored_beside_bags_of_the_sizes_that_were_trained_on():
    said = model()
    said.method.count_probabilities = lambda f, o: counted(f, o) * (o.diff() == 32)[:, None]
    scores = score(said, [dataset()], seed=0, n_bags=30).metrics
    assert (scores["test_ucc_accuracy"], scores["test_paper_ucc_accuracy"]) == (pytest.approx(1 / 3), 1)


def test_tables_name_the_classes():
    tables = score(model(), [dataset()], seed=0, n_bags=3).tables
    pairs = zip(*(tables["js_divergences"][column] for column in ("class", "other", "bits")), strict=True)
    assert {(a, b): round(bits, 3) for a, b, bits in pairs}["a", "c"] == 0.667
    densities = tables["class_densities"]
    of_b = (densities["class"] == "b") & (densities["feature"] == 1)
    assert densities["density"][of_b].argmax() == 10
    assert densities["density"][of_b].sum() == pytest.approx(1, abs=1e-5)


def test_training_bags_are_scored_too_but_clustered_are_the_test_images_only():
    scores = score(model(reconstruction="none"), [dataset(split="train"), dataset()], seed=0, n_bags=3).metrics
    of_training = {"train_ucc_accuracy", "train_ucc_loss", "train_paper_ucc_accuracy"}
    assert {name for name in scores if name.startswith("train_")} == of_training
    assert {"test_ucc_accuracy", "test_kmeans_accuracy", "test_min_js"} < scores.keys()


def test_the_last_dataset_with_classes_is_scored():
    scores = score(model(), [dataset(split="train"), dataset(np.full(60, -1))], seed=0, n_bags=3).metrics
    assert {name.split("_")[0] for name in scores} == {"train"}
    few = dataset(np.where(np.arange(60) < 6, CLASSES, -1))
    assert score(model(), [few], seed=0, n_bags=30).metrics["test_ucc_accuracy"] == 1


@pytest.mark.parametrize("n_known", [1, 2, 3, 4])
@pytest.mark.parametrize("method", ["ucc", "rcc"])
def test_splits_with_as_few_known_images_as_clusters_are_scored(method, n_known):
    few = dataset(np.where(np.arange(60) < n_known, CLASSES, -1))
    scores = score(model(method, reconstruction="none"), [few], seed=0, n_bags=6).metrics
    assert scores["test_ucc_accuracy"] == 1
    assert ("test_spectral_accuracy" in scores) == (n_known >= 3)
    if n_known == 3:
        assert scores["test_spectral_accuracy"] == scores["test_kmeans_accuracy"] == 1


def test_large_bags_are_scored_with_progress_and_no_more_images_in_all():
    heard = []
    shown = model(bag_size="64000", reconstruction="none")
    score(shown, [dataset()], seed=0, n_bags=30, progress=lambda done, total: heard.append((done, total)))
    assert [heard[0], heard[3], heard[-1]] == [(1, 4), (4, 4), (30, 30)]  # the last are the paper's


def test_without_classes_or_bags_there_are_no_scores():
    assert score(model(reconstruction="none"), [dataset(None)], seed=0).metrics == {}
    kmeans = make_method(
        "kmeans", make_config("kmeans"), Problem(60, (1, 8, 8), 3, (0.5,), (0.25,), Resolved.nothing(60))
    )
    assert score(Model(kmeans, "kmeans", Preprocessing(8, 1), NAMES), [dataset()], seed=0).tables == {}


class Painter(torch.nn.Module):
    """A decoder that paints the images of `dataset` from features that are right."""

    def forward(self, features, *maps):
        images = torch.zeros(len(features), 1, 8, 8)
        images[:, 0, 0, :3] = features
        mean, std = image_statistics(images)
        return (images - mean) / std


def test_a_decoder_that_lives_on_the_features_fails_with_those_of_other_images():
    said = model()
    said.method.net.decoder = Painter()
    scores = score(said, [dataset()], seed=0, n_bags=3).metrics
    assert scores["test_reconstruction_error"] == pytest.approx(0, abs=1e-6)
    # One pixel of 64 is bright: two standardised images with different ones are 2 · 64 / 63 apart, and of the 59 other
    # images 40 are of another class.
    assert scores["test_reconstruction_error_shuffled"] == pytest.approx(2 * 64 / 63 * 40 / 59, abs=0.35)


def test_a_decoder_that_does_not_look_at_the_features_has_the_same_error_twice():
    said = model()
    said.method.net.decoder = torch.nn.Sequential(Painter(), torch.nn.Threshold(1e9, 0))
    scores = score(said, [dataset(None)], seed=0).metrics
    assert scores.keys() == {"test_reconstruction_error", "test_reconstruction_error_shuffled"}
    assert list(scores.values()) == pytest.approx([1, 1])  # an even grey


def test_class_counts_told_from_densities_are_scored_as_they_are():
    said = model("rcc", counts="mse", reconstruction="none")
    truth = torch.nn.functional.one_hot
    said.method.class_counts = lambda f, a, o: (
        torch.stack([truth(bag.argmax(1), 3).sum(0) for bag in f.tensor_split(o[1:-1])]) + torch.tensor([1.0, 0.0, 0.0])
    )  # one image too many of the first class
    scores = score(said, [dataset()], seed=0, n_bags=9).metrics
    assert scores["test_count_loss"] == pytest.approx(1 / 3)
    assert scores["test_class_count_accuracy"] == pytest.approx(2 / 3)
    assert scores["test_report_class_count_accuracy"] == pytest.approx(2 / 6)
    assert scores["test_proportion_error"] == pytest.approx(1 / 12)


def test_counts_of_classes_are_scored_by_name():
    said = model("rcc", counts="dllp", reconstruction="none")
    said.method.assign = said.method.encode
    scores = score(said, [dataset()], seed=0, n_bags=9).metrics
    assert (scores["test_proportion_error"], scores["test_class_count_accuracy"]) == (0, 1)
    assert scores["test_report_class_count_accuracy"] == pytest.approx(3 / 6)  # divided by the bag size
    assert scores["test_report_min_js"] == pytest.approx(3 * scores["test_min_js"])
    turned = dataset((CLASSES + 1) % 3, names=("c", "a", "b"))
    assert score(said, [turned], seed=0, n_bags=9).metrics["test_proportion_error"] == 0
    wrong = dataset(names=("b", "a", "c"))
    assert score(said, [wrong], seed=0, n_bags=9).metrics["test_proportion_error"] > 0.2
    other = dataset(names=("x", "b", "c"))
    assert "test_proportion_error" not in score(said, [other], seed=0, n_bags=9).metrics
