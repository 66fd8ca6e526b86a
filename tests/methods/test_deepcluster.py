"""DeepCluster: whitened features, k-means, labels that the net learns, and a top layer that begins anew."""

import math

import numpy as np
import pytest
import torch
from paper_samples import IMAGES, N_IMAGES, PHOTOGRAPHS, VECTORS, begun, embed_of, floats, make, seeded, train
from torch.nn import functional as F

from smidgen.data.batches import Part
from smidgen.maths.kmeans import KMeansResult
from smidgen.methods import deepcluster


def part(method, request, images=IMAGES):
    return Part(floats(images)[request.indices], request.indices, items=request.items)


@pytest.mark.parametrize(
    ("options", "images", "name"),
    [
        ({"sobel": None}, PHOTOGRAPHS, "sobel:conv"),
        ({"sobel": None}, IMAGES, "conv"),
        ({"sobel": True}, IMAGES, "sobel:conv"),
        ({"sobel": False}, PHOTOGRAPHS, "conv"),
        ({"sobel": False, "encoder": "sobel:conv"}, PHOTOGRAPHS, "sobel:conv"),
        ({"sobel": True, "encoder": "vectors"}, VECTORS, "vectors"),
    ],
)
def test_the_filter_stands_before_nets_of_photographs_unless_it_is_said_otherwise(options, images, name):
    method = make("deepcluster", images, **options)
    assert str(method.encoder_parts) == name
    assert str(method.starting_point.encoder) == name


def test_the_report_s_net_has_its_layers_and_two_outputs_for_two_classes():
    method = make("deepcluster", PHOTOGRAPHS, preset="report", n_clusters=2)
    assert repr(method.top_layer) == "Linear(in_features=4096, out_features=2, bias=True)"
    assert method.encoder.encoder.net.features[0].in_channels == 2
    body, top = method.optimisers("train")
    assert (body.param_groups[0]["momentum"], top.param_groups[0]["momentum"]) == (0.9, 0)
    assert {group["weight_decay"] for each in (body, top) for group in each.param_groups} == {1e-5}


@pytest.mark.parametrize(("groups", "n_groups"), [(None, 40), (0, 4), (7, 7), (10_000, N_IMAGES)])
def test_how_many_groups_there_are(groups, n_groups):
    assert make("deepcluster", groups=groups).n_groups == n_groups


@pytest.mark.parametrize(("even", "expected"), [(True, {"groups": math.log(7)}), (False, {})])
def test_a_loss_that_sits_at_the_logarithm_of_the_number_of_groups_can_be_seen(even, expected):
    method = begun("deepcluster", groups=7, even=even)
    assert method.evidence_use.chance_losses == expected
    request = method.request("train", 0, seeded(0), progress=0)["images"]
    losses = method.loss({"images": part(method, request)}, stage="train", step=0, progress=0)
    assert float(losses["groups"].detach()) == pytest.approx(math.log(7), rel=0.1)  # by a top layer begun anew


def test_images_are_relabelled_once_per_pass_or_as_often_as_is_said():
    once = make("deepcluster", relabellings=None, batch_size=40, steps=12).stages()[0]
    assert once.begins == (0, 3, 6, 9)
    assert make("deepcluster", relabellings=2, steps=12).stages()[0].begins == (0, 6)


def test_labels_are_the_nearest_centroids_of_whitened_unit_features():
    method = begun("deepcluster", groups=4, components=6)
    features = method.eval().encode(floats(IMAGES)).detach().double()
    centred = features - features.mean(0)
    values, vectors = torch.linalg.eigh(centred.T @ centred / (N_IMAGES - 1))
    white = F.normalize(centred @ vectors[:, -6:] / values[-6:].sqrt(), dim=1)
    centres = torch.stack([white[method.labels == k].mean(0) for k in range(4)])
    assert torch.cdist(white, centres).argmin(1).equal(method.labels)
    inertia = (white - centres[method.labels]).square().sum() / N_IMAGES
    assert float(method.history[-1, 3]) == pytest.approx(float(inertia), rel=1e-4)


def test_the_top_layer_begins_anew_at_every_relabelling():
    method = begun("deepcluster", groups=30)
    with torch.no_grad():
        method.top_layer.weight.fill_(9)
        method.top_layer.bias.fill_(9)
    renewed = list(method.begin("train", 3, embed_of(method), seeded()))
    assert float(method.top_layer.weight.detach().std()) == pytest.approx(0.01, rel=0.1)
    assert not method.top_layer.bias.any()
    assert [id(p) for p in renewed] == [id(method.top_layer.weight), id(method.top_layer.bias)]


def test_clusters_that_only_change_numbers_keep_their_labels(monkeypatch):
    method = begun("deepcluster", preset="v2", groups=4)
    before, order = method.labels.clone(), torch.tensor([2, 0, 3, 1])
    centroids = torch.randn(4, 128)

    def permuted(points, n_clusters, **options):
        assert options["empty"] == "split"
        return KMeansResult(centroids[order.argsort()], order[before], 1.0, 1)

    monkeypatch.setattr(deepcluster, "kmeans", permuted)
    method.begin("train", 3, embed_of(method), seeded())
    assert method.labels.equal(before)
    assert method.top_layer.weight.equal(centroids)
    table = method.tables(embed_of(method))["relabellings"]
    assert table["step"].tolist() == [0, 3]
    assert np.isnan(table["nmi_previous"][0])
    assert (table["nmi_previous"][1], table["reassigned"][1]) == (pytest.approx(1), 0)


@pytest.mark.parametrize("even", [True, False])
def test_images_are_drawn_evenly_over_the_groups_that_hold_any(even):
    method = make("deepcluster", groups=4, even=even, batch_size=4000)
    method.labels = torch.tensor([0] * 100 + [1] * 15 + [3] * 5)
    request = method.request("train", 0, seeded(), progress=0)["images"]
    shares = torch.bincount(method.labels[request.indices], minlength=4) / 4000
    wanted = torch.tensor([1 / 3, 1 / 3, 0, 1 / 3] if even else [100 / 120, 15 / 120, 0, 5 / 120])
    assert float((shares - wanted).abs().max()) < 0.03
    assert len(request.indices.unique()) == N_IMAGES


def test_its_loss_is_the_cross_entropy_with_the_labels():
    method = begun("deepcluster", groups=4)
    request = method.request("train", 0, seeded(), progress=0)["images"]
    losses = method.loss({"images": part(method, request)}, stage="train", step=0, progress=0)
    images = floats(IMAGES)[request.indices]
    log = method.top_layer(method.encoder(images)).log_softmax(1)
    slow = -torch.stack([log[i, method.labels[row]] for i, row in enumerate(request.indices)]).mean()
    torch.testing.assert_close(losses["total"], slow)
    assert losses.keys() == {"total", "groups", "nmi_previous", "reassigned", "clustering_loss"}


def test_version_two_learns_towards_centroids_that_stay():
    seen = []
    method = make("deepcluster", preset="v2", groups=6, steps=6, relabellings=2)
    train(method, look=lambda moment: seen.append(moment.method.top_layer.weight.clone()))
    assert seen[0].equal(seen[2])
    assert not seen[2].equal(seen[3])
    torch.testing.assert_close(seen[0].norm(dim=1), torch.ones(6))
    z = F.normalize(method.encode(floats(IMAGES)), dim=1)
    torch.testing.assert_close(method._logits(floats(IMAGES)), z @ seen[-1].T / 0.1)
    assert len(method.optimisers("train")) == 1


def test_on_embeddings_a_label_is_learned_from_neighbours_under_dropout():
    method = begun("deepcluster", VECTORS, encoder="vectors", groups=4, neighbours=3)
    request = method.request("train", 0, seeded(), progress=0)["images"]
    pairs = list(zip(request.indices.tolist(), request.items.tolist(), strict=True))
    assert request.view is None
    assert all(near in method.neighbours[row].tolist() and near != row for near, row in pairs)
    batch = {"images": part(method.train(), request, VECTORS)}
    first, second = (method.loss(batch, stage="train", step=0, progress=0)["total"] for _ in range(2))
    assert not first.equal(second)
