"""Features moved towards their neighbours: training rows and new ones, alone and together."""

import pytest
import torch
from sklearn.datasets import make_blobs

from smidgen.nets import spread_features
from smidgen.nets.spread_features import SpreadFeatures

X = torch.from_numpy(make_blobs(300, 24, centers=4, cluster_std=4.0, random_state=0)[0]).float()


def fitted(**options):
    features = SpreadFeatures(24, 16, **{"neighbours": 5, "rounds": 4} | options)
    return features, features.fit(X)


def test_training_rows_come_again_nearly_as_they_were():
    features, found = fitted()
    again = features(X)  # now each is among its own neighbours
    assert torch.nn.functional.cosine_similarity(again, found).median() > 0.97


def test_a_row_does_not_depend_on_what_comes_with_it():
    features, _ = fitted()
    torch.testing.assert_close(features(X[:7])[3], features(X)[3], rtol=0, atol=1e-5)


def test_groups_come_nearer_together():
    def spreading(rounds):
        _, found = fitted(rounds=rounds)
        classes = torch.from_numpy(make_blobs(300, 24, centers=4, cluster_std=4.0, random_state=0)[1])
        means = torch.stack([found[classes == k].mean(0) for k in range(4)])
        return (found - means[classes]).square().sum() / found.square().sum()

    assert spreading(6) < 0.7 * spreading(0)


def test_of_many_rows_some_are_kept(monkeypatch):
    monkeypatch.setattr(spread_features, "LANDMARKS", 60)
    features, found = fitted()
    assert features.passed.shape == (2, 60, 16)
    assert torch.nn.functional.cosine_similarity(features(X), found).median() > 0.9


@pytest.mark.parametrize("n", [2, 5, 17])
def test_a_few_rows_suffice(n):
    features = SpreadFeatures(24, 16, neighbours=10, rounds=4)
    assert features.fit(X[:n]).shape == features(X[:n]).shape == (n, features.features)


def test_an_input_of_huge_scale_is_not_all_that_counts():
    x = X * torch.tensor([1e18] + [1.0] * 23)
    features = SpreadFeatures(24, 16, neighbours=5, rounds=4)
    assert (features.fit(x).std(0) > 1).sum() > 3


@pytest.mark.parametrize("inputs", [1, 2, 3])
@pytest.mark.parametrize("constant", [0, 20])
def test_of_few_values_lengths_count(inputs, constant):
    centres = 10.0 * torch.arange(4)[:, None].expand(-1, inputs)  # on one line: directions would tell two groups
    classes = torch.arange(200) % 4
    x = centres[classes] + torch.randn(200, inputs, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, torch.ones(200, constant)], dim=1)
    features = SpreadFeatures(x.shape[1], 16, neighbours=5, rounds=4)
    found = features.fit(x)
    means = torch.stack([found[classes == k].mean(0) for k in range(4)])
    assert (torch.cdist(found, means).argmin(1) == classes).all()
    torch.testing.assert_close(features(x), found, rtol=0, atol=2.0)  # of a length of 38
