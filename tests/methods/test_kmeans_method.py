"""K-means as a method: its clusters are those of `maths.kmeans`, for new images too."""

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference
from sklearn.metrics import adjusted_rand_score

from smidgen.errors import InputError
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.resolved import Resolved
from smidgen.methods.base import Problem
from smidgen.methods.kmeans import KMeans, KMeansConfig
from smidgen.training.embed import make_embed
from smidgen.training.monitors.diagnostics import Diagnostics

RANDOM = np.random.default_rng(0)
CENTRES = RANDOM.integers(40, 216, (3, 1, 6, 6))
IMAGES = (CENTRES[np.arange(60) % 3] + 20 * RANDOM.normal(size=(60, 1, 6, 6))).clip(0, 255).astype(np.uint8)
FLOATS = torch.from_numpy(IMAGES).float() / 255


def fitted(n_clusters=3, *, images=IMAGES, labels=(), **options):
    """Return a method fitted to images of which the first have these labels."""
    torch.manual_seed(0)
    known = torch.full((len(images),), -1)
    known[: len(labels)] = torch.tensor(labels, dtype=torch.int64)
    evidence = Resolved(len(images), labels=known, class_names=("x", "y", "z"))
    problem = Problem(len(images), (1, 6, 6), n_clusters, (0.5,), (0.25,), evidence)
    method = KMeans(KMeansConfig(**options), problem).eval()
    method.finish(make_embed(method, images, device=torch.device("cpu")), torch.Generator().manual_seed(0))
    return method


@pytest.mark.parametrize("options", [{}, {"features": "pca", "components": 5}, {"spherical": True}])
def test_clusters_are_scikit_learn_s(options):
    labels = fitted(**options).assign(FLOATS).argmax(1)
    reference = Reference(3, n_init=10, random_state=0).fit_predict(FLOATS.flatten(1).numpy())
    assert adjusted_rand_score(labels, reference) == 1


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("n_labels", [3, 2, 40])
def test_labels_start_the_clusters_whose_classes_they_become(order, n_labels):
    classes = np.array(order)[np.arange(60) % 3]
    method = fitted(labels=classes[:n_labels], start="labels")
    assert method.evidence_use.kinds == ("labels",)
    assert method.assign(FLOATS).argmax(1).tolist() == classes.tolist()


def test_labels_are_ignored_where_they_are_not_asked_for():
    method = fitted(labels=[0, 1, 2])
    assert method.evidence_use.kinds == ()
    assert method.centroids.equal(fitted().centroids)
    assert fitted(start="labels").centroids.allclose(fitted().centroids)  # there are none


def test_outliers_that_are_trimmed_take_no_cluster():
    apart = np.concatenate([IMAGES // 4 + 96, np.tile(np.uint8([[[[0, 255]]]]), (3, 1, 6, 3))])
    near = torch.from_numpy(apart[:60]).float() / 255
    scores = {
        trim: adjusted_rand_score(np.arange(60) % 3, fitted(images=apart, trim=trim).assign(near).argmax(1))
        for trim in (0.0, 0.05)
    }
    assert scores[0.05] == 1 > scores[0.0]


def test_the_nearest_centroid_is_the_most_likely():
    method = fitted()
    distances = (FLOATS.flatten(1)[:, None] - method.centroids).square().sum(2)
    assert method.assign(FLOATS).argmax(1).equal(distances.argmin(1))
    torch.testing.assert_close(method.assign(FLOATS), (-distances / method.spread).softmax(1), atol=1e-5, rtol=1e-4)


def test_confidences_hold_whatever_else_varies():
    """They are about as high as clusters are right, with 500 inputs that differ alike in all clusters beside them."""
    rng = np.random.default_rng(1)
    classes = np.arange(1500) % 3
    vectors = rng.normal(size=(1500, 500)).astype(np.float32)
    vectors[np.arange(1500), classes] += 3.0
    for scale in (1e-12, 1.0, 1e15):
        images = vectors * np.float32(scale)
        problem = Problem(1500, (500,), 3, (0.0,), (1.0,), Resolved.nothing(1500))
        method = KMeans(KMeansConfig(), problem).eval()
        method.finish(make_embed(method, images, device=torch.device("cpu")), torch.Generator().manual_seed(0))
        p = method.assign(torch.from_numpy(images)).numpy()
        right = clustering_accuracy(classes, p.argmax(1))
        assert right > 0.9
        assert abs(p.max(1).mean() - right) < 0.06, scale
        assert Diagnostics(options=["n_init"]).final(p) == []


def test_clusters_that_other_images_would_not_give_are_unsure():
    images = np.random.default_rng(1).normal(size=(800, 20)).astype(np.float32)  # no clusters at all
    problem = Problem(800, (20,), 5, (0.0,), (1.0,), Resolved.nothing(800))
    method = KMeans(KMeansConfig(), problem).eval()
    method.finish(make_embed(method, images, device=torch.device("cpu")), torch.Generator().manual_seed(0))
    assert 0.2 < method.assign(torch.from_numpy(images)).amax(1).mean() < 0.6


def test_diagnostics_say_of_images_that_are_all_alike_that_nothing_tells_them_apart():
    (alarm,) = Diagnostics(options=["n_init"]).final(np.full((40, 3), 1 / 3))
    assert "learned" not in alarm
    assert "train longer" not in alarm
    assert "smidgen check" in alarm


def test_components_are_capped_by_images_and_pixels():
    assert fitted(features="pca", components=500).encode(FLOATS).shape == (60, 36)


def test_the_encoder_is_used_if_asked_for_and_only_then():
    assert fitted(features="encoder").encode(FLOATS).shape == (60, 128)
    with pytest.raises(InputError, match="--set features=encoder"):
        fitted().start_from(fitted(features="encoder").starting_point)


def test_more_clusters_than_images_are_refused():
    with pytest.raises(InputError, match="61 clusters were wanted of 60 images"):
        fitted(61)
