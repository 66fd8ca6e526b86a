"""The layer of `fusion-embeddings`: from clusterings, from labels, and both."""

import pytest
import torch
from torch.nn import functional as F

from smidgen.methods import feature_layer
from smidgen.methods.feature_layer import FeatureLayer, labelled_layer, unsupervised_layer


def groups(*sizes, noise=6.0):
    """Return features (n, 16), of root mean square length about 38, and classes of some groups."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    centres = 38 * torch.eye(16)[: len(sizes)]
    return centres[classes] + noise * torch.randn(len(classes), 16, generator=generator), classes


def right(layer, features, classes):
    weight, bias = layer
    return ((features @ weight.T + bias).argmax(1) == classes).float().mean().item()


def layer_of(features, classes):
    votes = F.one_hot(classes).float()
    return unsupervised_layer(features, votes, generator=torch.Generator().manual_seed(0))


def some_labels(classes, per_class, *, of=None):
    labels = torch.full_like(classes, -1)
    for label in classes.unique() if of is None else of:
        rows = (classes == label).nonzero().flatten()[:per_class]
        labels[rows] = classes[rows]
    return labels


@pytest.mark.parametrize("most", [5000, 40])  # of some rows only, the rest go to the nearest centroid
def test_the_clusterings_outvote_heads_that_know_nothing(most, monkeypatch):
    monkeypatch.setattr(feature_layer, "MOST_MERGED", most)
    features, classes = groups(40, 40, 40)
    votes = torch.rand(120, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    weight, bias = unsupervised_layer(features, votes, generator=torch.Generator().manual_seed(0))
    found = (features @ weight.T + bias).argmax(1)
    assert sorted(len(found[classes == k].unique()) for k in range(3)) == [1, 1, 1]
    assert len(found.unique()) == 3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_as_few_images_as_clusters_or_fewer_are_no_error(n):
    features, _ = groups(n)
    weight, _ = unsupervised_layer(features, torch.eye(3)[:n], generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(weight).all()


def test_labels_win_over_clusters_that_are_not_the_classes():
    features, classes = groups(60, 60)
    wrong = layer_of(features, (features[:, 9] > 0).long())  # a direction of noise
    assert right(labelled_layer(features, some_labels(classes, 10), wrong), features, classes) == 1


def test_classes_that_no_label_names_keep_their_clusters():
    features, classes = groups(50, 50, 50)
    layer = labelled_layer(features, some_labels(classes, 4, of=[0, 2]), layer_of(features, classes))
    assert right(layer, features, classes) > 0.98


@pytest.mark.parametrize("of_each", [(10, 10), (40, 4)])  # balanced, and drawn at random
def test_the_sizes_of_classes_are_estimated_whatever_the_shares_of_labels(of_each):
    features, classes = groups(400, 40, noise=14.0)
    labels = torch.full_like(classes, -1)
    for label, n in enumerate(of_each):
        rows = (classes == label).nonzero().flatten()[:n]
        labels[rows] = label
    weight, bias = labelled_layer(features, labels, (torch.zeros(2, 16), torch.zeros(2)))
    share = ((features @ weight.T + bias).argmax(1) == 1).float().mean()
    assert 0.06 < share < 0.13


def test_held_out_labels_say_how_much_the_clusters_add():
    features, classes = groups(30, 30, noise=30.0)
    truth = 4 * F.one_hot(classes).float()
    assert feature_layer._clusters_word(features, classes, truth) > 0
    assert feature_layer._clusters_word(features, classes, truth[torch.randperm(60)]) == 0


def test_assignments_become_as_sure_as_neighbours_agree():
    features, classes = groups(40, 40)
    layer = FeatureLayer(16, 2)
    layer.take(layer_of(features, classes))
    assert layer.learned
    layer.calibrate(features, torch.arange(80).view(-1, 2).flip(1).reshape(80, 1))
    assert layer(features).amax(1).mean() > 0.97
    before = layer(features)
    layer.reorder([1, 0])
    torch.testing.assert_close(layer(features), before.flip(1))
