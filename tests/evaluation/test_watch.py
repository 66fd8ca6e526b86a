"""Collapse alarms: each fires on its own collapse, in words, and not on healthy clusters."""

import numpy as np
import pytest
import torch
from torch import nn

from smidgen.evaluation.watch import SAMPLE, Watch, collapse_alarms
from smidgen.methods.base import Stage
from smidgen.training.callbacks import Moment


def hard(sizes):
    return np.eye(len(sizes))[np.repeat(np.arange(len(sizes)), sizes)]


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (np.full((50, 4), 0.25), "equally likely in every cluster"),
        (np.full((50, 4), 0.25) + 1e-4 * np.eye(4)[np.arange(50) % 4], "equally likely"),
        (hard([50, 0, 0]), "All images are in one cluster"),
        (hard([50, 0]), "All images are in one cluster"),
        (hard([60, 20, 20]), "Cluster 0 holds 60% of the images"),
        (hard([40, 40, 0]), "1 of 3 clusters are empty (2)"),
    ],
)
def test_a_collapse_is_said_with_a_remedy(assignments, message):
    alarms = collapse_alarms(assignments)
    assert any(message in alarm for alarm in alarms)
    assert all(any(remedy in alarm for remedy in ("raise", "lower", "ask for")) for alarm in alarms)


@pytest.mark.parametrize(
    "assignments",
    [hard([10, 10, 10]), hard([90, 10]), hard([4]), hard([1, 1, 0]), np.full((5, 1), 1.0), hard([30, 40, 30])],
)
def test_healthy_clusters_raise_none(assignments):
    assert collapse_alarms(assignments) == []


class Constant(nn.Module):
    """Puts every image into cluster 0."""

    def assign(self, images):
        return torch.eye(3)[[0]].expand(len(images), 3)


def moment(step, *, steps=100):
    return Moment(Constant(), Stage("train", steps), step=step, total_step=step, losses={}, rate=0.1, seconds=0.0)


def watch(n, classes=None):
    return Watch(np.zeros((n, 1, 2, 2), np.uint8), classes, seed=0, device=torch.device("cpu"), every=10)


@pytest.mark.parametrize(
    ("step", "looks"), [(9, False), (10, False), (20, False), (25, False), (30, True), (100, True)]
)
def test_it_looks_every_so_often_after_the_first_fifth_and_at_the_end(step, looks):
    at = moment(step)
    watch(40).after_step(at)
    assert ("alarms" in at.extras) == looks


def test_scores_are_there_where_classes_are_known():
    at = moment(30)
    watch(4, np.array([0, 0, 1, -1])).after_step(at)
    assert at.extras["sample_accuracy"] == pytest.approx(2 / 3)
    for classes in (None, np.full(4, -1)):
        at = moment(30)
        watch(4, classes).after_step(at)
        assert "sample_accuracy" not in at.extras


def test_it_looks_at_a_sample_that_the_seed_alone_determines():
    images = np.arange(SAMPLE + 500).repeat(4).reshape(-1, 1, 2, 2)
    one, other = (Watch(images, None, seed=seed, device=torch.device("cpu")) for seed in (0, 1))
    assert len(one._images) == SAMPLE
    assert len(np.unique(one._images[:, 0, 0, 0])) == SAMPLE
    assert (one._images != other._images).any()
    assert (Watch(images, None, seed=0, device=torch.device("cpu"))._images == one._images).all()
