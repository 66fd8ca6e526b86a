"""Honest confidence: agreement of neighbours and of clusterings, labels held out, and when nothing is measured."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from smidgen.evaluation.temperature import (
    agreement_of_halves,
    neighbour_agreement,
    temperature_of_bags,
    temperature_of_clusters,
    temperature_of_labels,
)
from smidgen.evidence.resolved import Resolved
from smidgen.maths.temperature import tempered

N, CLUSTERS = 400, 4


def blobs(noise):
    x, classes = make_blobs(n_samples=N, centers=CLUSTERS, n_features=32, cluster_std=noise, random_state=0)
    return x.astype(np.float32), classes


def soft(clusters, sure=0.99):
    p = np.full((len(clusters), CLUSTERS), (1 - sure) / (CLUSTERS - 1), dtype=np.float32)
    p[np.arange(len(clusters)), clusters] = sure
    return p


def mean_confidence(p, temperature):
    return float(tempered(torch.from_numpy(p), temperature).amax(1).mean())


def test_neighbours_agree_as_often_as_counted_one_by_one():
    x, classes = blobs(9.0)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    near = np.argsort(-cosine, axis=1)[:, :10]
    assert neighbour_agreement(x, classes, np.random.default_rng(0)) == pytest.approx(
        (classes[near] == classes[:, None]).mean(), abs=0.01
    )


@pytest.mark.parametrize(("noise", "least", "most"), [(1.0, 0.99, 1.0), (30.0, 0.25, 0.7)])
def test_clusterings_of_half_the_features_agree_where_there_are_clusters(noise, least, most):
    x, classes = blobs(noise)
    found = agreement_of_halves(x, classes, n_clusters=CLUSTERS, rng=np.random.default_rng(0))
    assert least <= found <= most


def test_confidence_becomes_the_agreement_of_both():
    x, classes = blobs(9.0)
    p = soft(classes)
    rng = np.random.default_rng(0)
    wanted = neighbour_agreement(x, classes, rng) * agreement_of_halves(x, classes, n_clusters=CLUSTERS, rng=rng)
    found = temperature_of_clusters(p, x, features=x)
    assert mean_confidence(p, found) == pytest.approx(wanted, abs=0.005)
    assert found == temperature_of_clusters(p, x, features=x)  # always the same


@pytest.mark.parametrize("right", [0.6, 0.7, 1.0])
def test_labels_that_were_held_out_say_how_sure_to_be(right):
    classes = blobs(1.0)[1]
    is_right = np.random.default_rng(0).random(N) < right
    p = soft(np.where(is_right, classes, (classes + 1) % CLUSTERS), sure=0.8)
    labels = torch.from_numpy(classes).where(torch.arange(N) < 200, -1)
    found = temperature_of_labels(p, p, labels)
    assert mean_confidence(p, found) == pytest.approx(min(0.8, is_right[:200].mean()), abs=0.06)


def bags_of_ten(classes, kind):
    """Return counts or proportions of 80 bags of ten images each, of one or two classes."""
    rng = np.random.default_rng(0)
    pairs = [rng.choice(CLUSTERS, 1 + bag % 2, replace=False) for bag in range(80)]
    members = np.concatenate([rng.choice(np.flatnonzero(np.isin(classes, pair)), 10, replace=False) for pair in pairs])
    held = np.eye(CLUSTERS, dtype=np.float32)[classes[members]].reshape(80, 10, CLUSTERS).mean(1)
    counts, bags = torch.from_numpy((held > 0).sum(1)), torch.arange(80)
    known = {"count_bags": bags, "counts_min": counts, "counts_max": counts}
    if kind == "proportions":
        known = {"proportion_bags": bags, "proportions": torch.from_numpy(held)}
    names, offsets = tuple(map(str, range(80))), torch.arange(0, 801, 10)
    return Resolved(
        N, class_names=tuple("abcd"), bag_names=names, members=torch.from_numpy(members), offsets=offsets, **known
    )


@pytest.mark.parametrize("kind", ["counts", "proportions"])
@pytest.mark.parametrize(("noise", "least", "most"), [(1.0, 1.0, 1.0), (30.0, 1.25, 4.0)])
def test_bags_say_how_sure_to_be_of_images_that_were_not_learned(kind, noise, least, most):
    x, classes = blobs(noise)  # the assignments know the classes of images that were learned, as evidence makes them
    found = temperature_of_bags(soft(classes), bags_of_ten(classes, kind), features=x)
    assert least <= found <= most


def test_without_bags_nothing_is_changed():
    x, classes = blobs(9.0)
    assert temperature_of_bags(soft(classes), Resolved.nothing(N), features=x) == 1


@pytest.mark.parametrize("hard", ["one-hot", "few", "one cluster"])
def test_nothing_is_changed_where_nothing_can_be_measured(hard):
    x, classes = blobs(1.0)
    p = {"one-hot": np.eye(CLUSTERS, dtype=np.float32)[classes], "few": soft(classes)[:9],
         "one cluster": np.ones((N, 1), dtype=np.float32)}[hard]  # fmt: skip
    assert temperature_of_clusters(p, x[: len(p)], features=x[: len(p)]) == 1
    assert temperature_of_labels(p, p, torch.zeros(len(p), dtype=torch.int64)) == 1


def test_more_clusters_than_half_the_images_and_two_features_are_no_error():
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(30), 40).astype(np.float32)
    x = rng.normal(size=(40, 2)).astype(np.float32)
    assert 0.25 <= temperature_of_clusters(p, x, features=x) <= 4
