"""Online evaluation of a fixed sample: assignments for other callbacks, scores for the log."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from smidgen.evaluation.scores import sample_scores
from smidgen.methods.base import Stage
from smidgen.training.callbacks import Moment
from smidgen.training.monitors.online_eval import SAMPLE, OnlineEval


class Constant(nn.Module):
    """Puts every image into cluster 0."""

    problem = SimpleNamespace(n_clusters=3)

    def assign(self, images):
        return torch.eye(3)[[0]].expand(len(images), 3)


def moment(step, *, steps=100):
    return Moment(Constant(), Stage("train", steps), step=step, total_step=step, losses={}, rate=0.1, seconds=0.0)


def online_eval(n, classes=None):
    images = np.zeros((n, 1, 2, 2), np.uint8)
    return OnlineEval(images, classes, score=sample_scores, seed=0, device=torch.device("cpu"), every=10)


@pytest.mark.parametrize(
    ("step", "steps", "looks"), [(9, 100, False), (10, 100, True), (25, 100, False), (25, 25, True)]
)
def test_it_looks_every_so_often_and_at_the_end(step, steps, looks):
    at = moment(step, steps=steps)
    online_eval(40).after_step(at)
    assert (at.assignments is not None) == looks
    assert not looks or at.assignments.tolist() == [[1, 0, 0]] * 40
    assert at.extras == {}


@pytest.mark.parametrize("step", [10, 100])
def test_a_stage_without_meaningful_assignments_is_not_evaluated(step):
    at = moment(step)
    at.stage = Stage("train", 100, assigns=False)
    online_eval(40).after_step(at)
    assert at.assignments is None


def test_it_looks_twenty_times_at_most_in_a_long_stage():
    seen = 0
    for step in range(1, 1001):
        online_eval(40).after_step(at := moment(step, steps=1000))
        seen += at.assignments is not None
    assert seen == 20


def test_scores_are_there_where_classes_are_known():
    at = moment(30)
    online_eval(4, np.array([0, 0, 1, -1])).after_step(at)
    assert at.extras["sample_accuracy"] == pytest.approx(2 / 3)
    for classes in (None, np.full(4, -1)):
        at = moment(30)
        online_eval(4, classes).after_step(at)
        assert "sample_accuracy" not in at.extras


def test_it_looks_at_a_sample_that_the_seed_alone_determines():
    images = np.arange(SAMPLE + 500).repeat(4).reshape(-1, 1, 2, 2)
    how = {"score": sample_scores, "device": torch.device("cpu")}
    one, other = (OnlineEval(images, None, seed=seed, **how) for seed in (0, 1))
    assert len(one._images) == SAMPLE
    assert len(np.unique(one._images[:, 0, 0, 0])) == SAMPLE
    assert (one._images != other._images).any()
    assert (OnlineEval(images, None, seed=0, **how)._images == one._images).all()
