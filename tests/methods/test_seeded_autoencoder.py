"""The seeded autoencoder: what it is trained on, its losses, and where k-means starts and what it keeps."""

import numpy as np
import pytest
import torch
from paper_samples import CLASSES, IMAGES, N_CLASSES, N_IMAGES, VECTORS, embed_of, floats, seeded
from torch.nn import functional as F

from smidgen.data.batches import Part
from smidgen.evaluation.scores import clustering_accuracy
from smidgen.evidence.resolved import Resolved
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.methods.seeded_autoencoder import NOTHING_LABELLED, centroid_loss
from smidgen.training.loop import Settings, Trainer

SOME = np.where(np.arange(N_IMAGES) < 8, CLASSES, -1)
"""Two labels a class."""


def make(images=IMAGES, *, labels=SOME, **options):
    channels = images.shape[1]
    known = Resolved.nothing(len(images))
    if labels is not None:
        known = Resolved(len(images), labels=torch.as_tensor(labels), class_names=tuple("abcd"))
    problem = Problem(len(images), images.shape[1:], N_CLASSES, (0.5,) * channels, (0.25,) * channels, known)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = make_config("seeded-autoencoder", {"steps": 20, "batch_size": 32} | options)
        return make_method("seeded-autoencoder", config, problem)


def train(method, images=IMAGES):
    Trainer(method, images, Settings()).train()
    return method.eval()


def by_name(method, images=IMAGES):
    """Return the share of images whose cluster is their class, without matching."""
    return float((method.assign(floats(images)).argmax(1).numpy() == CLASSES).mean())


# ------------------------------------------------------------------------------------------------------------ report


def test_the_defaults_are_the_report_s():
    config = make_config("seeded-autoencoder")
    assert config == make_config("seeded-autoencoder", {"preset": "report"})
    assert (config.trained_on, config.batch_size, config.learning_rate) == ("labelled", 100, 1e-4)
    assert (config.kmeans_weight, config.label_weight, config.affine, config.trim) == (0, 0, 0, 0)
    assert (config.start, config.constrained) == ("labels", False)
    method = make()
    assert method.view is None
    assert method.stages()[0].begins == ()
    assert type(method.optimisers("train")[0]).__name__ == "AdamW"
    assert method.optimisers("train")[0].param_groups[0]["weight_decay"] == 0


@pytest.mark.parametrize(("trained_on", "most"), [("labelled", 8), ("all", N_IMAGES)])
def test_it_is_trained_on_labelled_images_only_or_on_all(trained_on, most):
    method = make(trained_on=trained_on, batch_size=500)
    request = method.request("train", 0, seeded(), progress=0)
    assert request.keys() == {"images"}
    assert len(set(request["images"].indices.tolist())) > most - 10
    assert int(request["images"].indices.max()) < most


def test_its_loss_is_the_error_of_standardised_pixels():
    method = make()
    request = method.request("train", 0, seeded(), progress=0)["images"]
    images = floats(IMAGES)[request.indices]
    part = parts(request)
    decoded = method.decoder(method.encoder(images))
    wanted = ((decoded - (images - 0.5) / 0.25) ** 2).mean()
    losses = method.loss({"images": part}, stage="train", step=0, progress=0)
    torch.testing.assert_close(losses["total"], wanted)


def parts(request):
    images = floats(IMAGES)[request.indices]
    return Part(images, request.indices, views=(images,) * len(request.views))


def test_centroids_start_at_the_mean_codes_of_labelled_images_and_cluster_i_is_class_i():
    method = train(make())
    codes = method.encode(floats(IMAGES)).detach()
    centroids = torch.stack([codes[k == SOME].mean(0) for k in range(N_CLASSES)])
    for _ in range(100):
        nearest = torch.cdist(codes, centroids).argmin(1)
        centroids = torch.stack([codes[nearest == k].mean(0) for k in range(N_CLASSES)])
    torch.testing.assert_close(method.centroids, centroids, rtol=1e-3, atol=1e-4)
    assert (method.assign(floats(IMAGES)).argmax(1) == nearest).all()
    assert by_name(method) > 0.9


# ----------------------------------------------------------------------------------------------------------- options


def test_a_damaged_view_is_decoded_into_the_image():
    method = make(blur=1.0, affine=0.5, impulse=0.1, contrast=0.2)
    clean, view = method.request("train", 0, seeded(), progress=0)["images"].views
    assert clean is None
    assert (view.blur, view.contrast, view.impulse, view.rotate, view.scale) == (1.0, 0.2, 0.1, 10.0, 0.125)
    assert make(VECTORS, affine=1.0, dropout=0.3).view is None


@pytest.mark.parametrize(("at", "weight"), [(0, 0.0), (49, 0.0), (50, 0.0), (60, 1.0), (70, 2.0), (99, 2.0)])
def test_the_weight_of_the_k_means_loss_rises_from_its_beginning(at, weight):
    method = make(steps=100, kmeans_weight=2.0, kmeans_from=0.5, kmeans_rise=0.2, kmeans_updates=5)
    assert method.stages()[0].begins == (50, 60, 70, 80, 90)
    assert max(0.0, method._kmeans_weight(at)) == pytest.approx(weight)


def test_the_k_means_loss_is_the_distance_to_the_own_centroid_beside_the_centroids_spread():
    codes, centroids = torch.randn(6, 5, generator=seeded()), torch.randn(3, 5, generator=seeded(1))
    clusters = torch.tensor([0, 2, 1, 1, 0, 2])
    own = sum(float((codes[i] - centroids[clusters[i]]).square().sum()) for i in range(6)) / 6
    spread = sum(float((centroids[k] - centroids.mean(0)).square().sum()) for k in range(3)) / 3
    found = centroid_loss(codes, centroids, clusters)
    assert float(found) == pytest.approx(own / spread, rel=1e-5)
    torch.testing.assert_close(centroid_loss(7 * codes, 7 * centroids, clusters), found)  # shrinking gains nothing


def test_codes_are_drawn_to_their_centroids():
    noisy = (IMAGES // 2 + np.random.default_rng(1).integers(0, 128, IMAGES.shape)).astype(np.uint8)
    options = {"trained_on": "all", "steps": 200, "learning_rate": 1e-3, "kmeans_from": 0.2}
    distances = []
    for weight in (0.0, 1.0):
        method = train(make(noisy, kmeans_weight=weight, **options), noisy)
        codes = method.encode(floats(noisy)).detach()
        distances.append(float(centroid_loss(codes, method.centroids, torch.cdist(codes, method.centroids).argmin(1))))
    assert distances[1] < 0.5 * distances[0]


def test_labels_train_a_layer_on_the_code():
    method = make(label_weight=2.0)
    requests = method.request("train", 0, seeded(), progress=0)
    assert set(requests["labelled"].indices.tolist()) == set(range(8))
    given = {name: parts(request) for name, request in requests.items()}
    losses = method.loss(given, stage="train", step=0, progress=0)
    logits = method.classifier(method.encoder(given["labelled"].images))[:, 0]
    wanted = F.cross_entropy(logits, method.labels[given["labelled"].indices])
    torch.testing.assert_close(losses["labels"], wanted)
    torch.testing.assert_close(losses["total"], losses["reconstruction"] + 2 * wanted)


def test_labelled_images_keep_their_cluster_only_where_k_means_is_constrained():
    wrong = SOME.copy()
    wrong[[0, 1]] = [1, 0]  # two images labelled as each other
    for constrained in (False, True):
        method = make(labels=wrong, constrained=constrained)
        _, clusters = method._cluster(embed_of(method).on_device(method.encode), seeded())
        kept = clusters[:8].numpy() == wrong[:8]
        assert kept.all() == constrained


def test_random_starts_are_named_by_the_labels_afterwards():
    method = train(make(start="random", restarts=4))
    assert by_name(method) == clustering_accuracy(CLASSES, method.assign(floats(IMAGES)).argmax(1).numpy()) > 0.7


def test_trimming_keeps_centroids_from_outliers():
    images = IMAGES.copy()
    images[-6:] = np.random.default_rng(1).integers(0, 2, (6, 1, 8, 8)) * 255
    spoiled, trimmed = (train(make(images, trim=trim), images) for trim in (0.0, 0.06))
    middles = [
        torch.stack([method.encode(floats(images)[:-6])[CLASSES[:-6] == k].mean(0) for k in range(N_CLASSES)]).detach()
        for method in (spoiled, trimmed)
    ]
    away = [
        float((m.centroids - middle).norm(dim=1).max()) for m, middle in zip((spoiled, trimmed), middles, strict=True)
    ]
    assert away[1] < 0.7 * away[0]


def test_without_labels_it_learns_from_all_images_and_says_so():
    method = make(labels=None, batch_size=500, kmeans_weight=1.0, kmeans_from=0.0)
    assert method.evidence_use.notes == (NOTHING_LABELLED,)
    assert int(method.request("train", 0, seeded(), progress=0)["images"].indices.max()) > 100
    clusters = train(method).assign(floats(IMAGES)).argmax(1).numpy()
    assert clustering_accuracy(CLASSES, clusters) > 0.7
    assert make().evidence_use.notes == ()


def test_everything_together_names_easy_classes():
    options = {"preset": "together", "steps": 60, "affine": 0.0, "kmeans_updates": 3}
    assert by_name(train(make(**options))) > 0.9
    assert by_name(train(make(VECTORS, **options), VECTORS), VECTORS) > 0.9


def test_a_loss_that_diverges_is_caught_and_the_training_goes_on():
    said = []
    trainer = Trainer(make(steps=20, trained_on="all"), IMAGES, Settings(), log=said.append)
    loss, calls = trainer.method.loss, []

    def diverges(*args, **kwargs):
        calls.append(None)
        losses = loss(*args, **kwargs)
        return losses | {"total": losses["total"] * (float("inf") if len(calls) == 5 else 1)}

    trainer.method.loss = diverges
    trainer.train()
    assert len(said) == 1
    assert said[0].startswith("The loss is not finite at step 4 of stage 'train'")
    assert "going back to step 0 with a learning rate 2 times lower" in said[0]
    assert len(calls) == 25
    assert by_name(trainer.method.eval()) > 0.9
