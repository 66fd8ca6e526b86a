"""Supervised: it sees labelled images only, and learns them."""

import numpy as np
import pytest
import torch

from smidgen.errors import InputError
from smidgen.evidence.resolved import Resolved
from smidgen.methods.base import Problem
from smidgen.methods.supervised import Supervised, SupervisedConfig
from smidgen.training.loop import Settings, Trainer

LABELS = torch.tensor([0, -1, 1, -1, 2, 0])
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 1, 8, 8), dtype=np.uint8)


def supervised(labels=LABELS, **options):
    torch.manual_seed(0)
    problem = Problem(6, (1, 8, 8), 3, (0.5,), (0.25,), Resolved(6, labels=labels))
    return Supervised(SupervisedConfig(batch_size=64, steps=30, **options), problem)


@pytest.mark.parametrize("augment", [True, False])
def test_it_asks_for_labelled_images_only_and_all_of_them(augment):
    request = supervised(augment=augment).request("train", 0, torch.Generator().manual_seed(0), progress=0)["labelled"]
    assert set(request.indices.tolist()) == {0, 2, 4, 5}
    assert (request.view is not None) == augment


def test_it_learns_its_labels():
    method = supervised(augment=False)
    Trainer(method, IMAGES, Settings()).train()
    clusters = method.eval().assign(torch.from_numpy(IMAGES).float() / 255).argmax(1)
    assert clusters[LABELS >= 0].equal(LABELS[LABELS >= 0])


@pytest.mark.parametrize(
    ("options", "rate", "first"),
    [
        ({"encoder": "lite0@32"}, 2e-4, 5),
        ({"encoder": "lite0@32", "encoder_rate": 0.5, "frozen_stages": 6}, 1e-3, 6),
        ({"encoder": "scratch:lite0@32"}, 2e-3, 0),
    ],
)
def test_a_pretrained_encoder_learns_slowly_and_in_its_last_stages(options, rate, first):
    method = supervised(**options)
    (optimiser,) = method.optimisers("train")
    assert [group["lr"] for group in optimiser.param_groups] == [rate, 2e-3]
    stages = [any(p.requires_grad for p in stage.parameters()) for stage in method.encoder.trunk.net.blocks]
    assert stages == [False] * first + [True] * (7 - first)


def test_its_linear_head_is_what_assigns():
    method, images = supervised().eval(), torch.rand(5, 1, 8, 8)
    start = method.starting_point
    weight, bias = start.head
    torch.testing.assert_close((start.net(images) @ weight.T + bias).softmax(1), method.assign(images))


def test_without_labels_it_says_what_to_give():
    with pytest.raises(InputError, match="give --labels, or data with classes"):
        supervised(torch.full((6,), -1)).stages()
