"""The layer of `fusion-embeddings` that is learned from clusterings."""

import pytest
import torch
from torch.nn import functional as F

from smidgen.methods import feature_layer
from smidgen.methods.feature_layer import FeatureLayer, layer_of_shares, unsupervised_layer


def groups(*sizes, noise=6.0):
    """Return features (n, 16), of root mean square length about 38, and classes of some groups."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    centres = 38 * torch.eye(16)[: len(sizes)]
    return centres[classes] + noise * torch.randn(len(classes), 16, generator=generator), classes


def layer_of(features, classes):
    votes = F.one_hot(classes).float()
    return unsupervised_layer(features, votes.shape[1], votes=votes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("most", [5000, 40])  # of some rows only, the rest go to the nearest centroid
def test_the_clusterings_outvote_heads_that_know_nothing(most, monkeypatch):
    monkeypatch.setattr(feature_layer, "MOST_MERGED", most)
    features, classes = groups(40, 40, 40)
    votes = torch.rand(120, 3, generator=torch.Generator().manual_seed(1)).softmax(1)
    weight, bias = unsupervised_layer(features, votes.shape[1], votes=votes, generator=torch.Generator().manual_seed(0))
    found = (features @ weight.T + bias).argmax(1)
    assert sorted(len(found[classes == k].unique()) for k in range(3)) == [1, 1, 1]
    assert len(found.unique()) == 3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_as_few_images_as_clusters_or_fewer_are_no_error(n):
    features, _ = groups(n)
    weight, _ = unsupervised_layer(features, 3, votes=torch.eye(3)[:n], generator=torch.Generator().manual_seed(0))
    assert torch.isfinite(weight).all()


def test_biases_give_clusters_their_shares():
    features, classes = groups(60, 60, noise=12.0)
    layer = layer_of_shares(features, layer_of(features, classes), torch.tensor([0.7, 0.3]))
    p = (features @ layer[0].T + layer[1]).softmax(1)
    torch.testing.assert_close(p.mean(0), torch.tensor([0.7, 0.3]), atol=0.01, rtol=0)


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
