"""What `fusion-embeddings` learns from labels: several classifiers, weighted by held-out labels."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import LabelSpreading
from torch.nn import functional as F

from smidgen.maths.neighbours import nearest_neighbours
from smidgen.methods import label_pool
from smidgen.methods.feature_layer import unsupervised_layer
from smidgen.methods.label_pool import Views, labelled_layer
from smidgen.nets.spread_features import SpreadFeatures


def groups(*sizes, noise=6.0):
    """Return features (n, 16), of root mean square length about 38, and classes of some groups."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    centres = 38 * torch.eye(16)[: len(sizes)]
    return centres[classes] + noise * torch.randn(len(classes), 16, generator=generator), classes


def views_of(x):
    """Return views of which all features are the same."""
    return Views(x, x, x, [nearest_neighbours(x, 5, metric="cosine")[0]] * 2)


def right(layer, features, classes, labels=None):
    weight, bias = layer
    found = (features @ weight.T + bias).argmax(1) == classes
    return (found if labels is None else found[labels < 0]).float().mean().item()


def layer_of(features, classes):
    votes = F.one_hot(classes).float()
    return unsupervised_layer(features, votes.shape[1], votes=votes, generator=torch.Generator().manual_seed(0))


def some_labels(classes, per_class, *, of=None, order=None):
    labels, order = torch.full_like(classes, -1), torch.arange(len(classes)) if order is None else order
    for label in classes.unique() if of is None else of:
        rows = order[classes[order] == label][:per_class]
        labels[rows] = classes[rows]
    return labels


def nothing(features, n_classes):
    """Return clusters that know nothing."""
    return torch.zeros(n_classes, features.shape[1]), torch.zeros(n_classes)


def test_labels_win_over_clusters_that_are_not_the_classes():
    features, classes = groups(60, 60)
    wrong = layer_of(features, (features[:, 9] > 0).long())  # a direction of noise
    assert right(labelled_layer(views_of(features), some_labels(classes, 10), wrong), features, classes) == 1


def test_classes_that_no_label_names_keep_their_clusters():
    features, classes = groups(50, 50, 50)
    labels = some_labels(classes, 4, of=[0, 2])
    layer = labelled_layer(views_of(features), labels, layer_of(features, classes))
    assert right(layer, features, classes) > 0.98


@pytest.mark.parametrize("of_each", [(10, 10), (40, 4)])  # balanced, and drawn at random
def test_the_sizes_of_classes_are_estimated_whatever_the_shares_of_labels(of_each):
    features, classes = groups(400, 40, noise=14.0)
    labels = torch.full_like(classes, -1)
    for label, n in enumerate(of_each):
        rows = (classes == label).nonzero().flatten()[:n]
        labels[rows] = label
    weight, bias = labelled_layer(views_of(features), labels, nothing(features, 2))
    share = ((features @ weight.T + bias).argmax(1) == 1).float().mean()
    assert 0.06 < share < 0.13


def test_given_shares_stand_for_estimated_ones():
    features, classes = groups(60, 60, noise=30.0)
    labels, found = some_labels(classes, 4), []
    for share in (0.1, 0.5, 0.9):
        shares = torch.tensor([share, 1 - share])
        weight, bias = labelled_layer(views_of(features), labels, nothing(features, 2), shares=shares)
        found.append(float((features @ weight.T + bias).softmax(1)[:, 0].mean()))
    assert found == sorted(found)
    assert found[2] - found[0] > 0.1


def test_one_label_of_one_class_and_many_of_others_is_no_error():
    features, classes = groups(30, 30, 30)
    labels = some_labels(classes, 6)
    labels[(labels == 1).nonzero().flatten()[1:]] = -1
    assert right(labelled_layer(views_of(features), labels, nothing(features, 3)), features, classes) > 0.95


def weights_with(features, classes, said):
    """Return the members' weights where half of each class has labels and clusters say this."""
    labels = some_labels(classes, len(classes) // 4)
    views, folds = views_of(features), label_pool._folds(labels)
    graph = label_pool.neighbour_graph(views.neighbours)
    held_out = [
        label_pool._members(views, graph, labels.where(folds != fold, -1), said)[:, folds == fold] for fold in range(5)
    ]
    return label_pool._weights(held_out, labels, folds, 0.0)


def test_held_out_labels_say_how_much_the_clusters_add():
    features, classes = groups(60, 60, noise=45.0)
    truth, unrelated = (4 * F.one_hot(labels).float() for labels in (classes, torch.arange(120) % 2))
    assert weights_with(features, classes, truth)[-1] > 0.1
    assert weights_with(features, classes, unrelated)[-1] < 0.03


def digits():
    return (torch.from_numpy(array[:900]) for array in (load_digits().data.astype(np.float32), load_digits().target))


def blobs():
    x, classes = make_blobs(n_samples=[300, 200, 100, 60, 30], n_features=24, cluster_std=5.0, random_state=0)
    return torch.from_numpy(x).float(), torch.from_numpy(classes)


@pytest.mark.parametrize("data", [digits, blobs])
def test_more_labels_are_never_worse_and_none_falls_below_simple_methods(data):
    x, classes = data()
    n_classes = int(classes.max()) + 1
    features = SpreadFeatures(x.shape[1], 64, neighbours=10, rounds=8)
    spread = features.fit(x)
    less, near = features.moved_less(x, rounds=2)
    views, scores = Views(spread, less, features.standardised(x), near), []
    for draw in range(2):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(draw))
        for per_class in (1, 5, 20):
            labels = some_labels(classes, per_class, order=order)
            layer = labelled_layer(views, labels, nothing(spread, n_classes))
            scores.append([right(layer, spread, classes, labels), *peers(features.standardised(x), classes, labels)])
    pool, regression, spreading = np.array(scores).reshape(2, 3, 3).mean(0).T
    assert (np.diff(pool) > -0.002).all()
    assert (pool > np.maximum(regression, spreading) - 0.01).all()


def peers(x, classes, labels):
    """Return the accuracies of logistic regression and label spreading on the unlabelled."""
    known, rest = labels >= 0, (labels < 0).numpy()
    regression = LogisticRegression(max_iter=300).fit(x[known], labels[known]).predict(x)
    directions = F.normalize(x, dim=1).numpy()
    spreading = LabelSpreading(kernel="knn", n_neighbors=10).fit(directions, labels.numpy()).transduction_
    return [(found == classes.numpy())[rest].mean() for found in (regression, spreading)]


def test_some_images_stand_for_a_class_without_labels(monkeypatch):
    monkeypatch.setattr(label_pool, "MOST_UNNAMED", 7)
    said = torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.where(torch.arange(60) < 20, torch.arange(60) % 2, -1)
    known = label_pool._known(labels, said)
    likeliest = said.softmax(1)[20:, 2].topk(7).indices + 20
    assert set(known.rows[20:].tolist()) == set(likeliest.tolist())
    torch.testing.assert_close(known.weights[20:].sum(), torch.tensor(10.0))  # as an average class has labels
