"""Optimisers of a stage: schedules of single groups, and parameters that are drawn anew."""

import pytest
import torch
from torch import nn

from smidgen.maths.schedules import between, constant, in_steps, part_of_cosine, rate, warmed_up
from smidgen.methods.base import Stage
from smidgen.training.optimisers import Optimisers


class Two(nn.Module):
    """A body and a head with an optimiser each."""

    def __init__(self, *, group=None, kind=torch.optim.SGD, **options):
        super().__init__()
        self.body, self.head = nn.Linear(2, 2), nn.Linear(2, 2)
        self.group, self.kind, self.options = group or {}, kind, options

    def optimisers(self, stage):
        head = {"params": self.head.parameters(), **self.group}
        return [self.kind(self.body.parameters(), lr=1.0, **self.options), self.kind([head], lr=1.0, **self.options)]


def learn(method, optimisers):
    optimisers.zero_grad()
    method.head(method.body(torch.ones(1, 2))).sum().backward()
    optimisers.step()


def memory(optimisers):
    return [len(optimiser.state) for optimiser in optimisers]


def test_a_group_has_its_own_schedules_and_the_others_the_stage_s():
    method = Two(group={"schedule": in_steps([0.5]), "weight_decay_schedule": between(0.1, 1.0)}, weight_decay=0.2)
    optimisers = Optimisers(method, Stage("train", 10, schedule=constant))
    body, head = (optimiser.param_groups[0] for optimiser in optimisers)
    optimisers.schedule(0, 10, scale=0.5)
    assert (body["lr"], head["lr"]) == (0.5, 0.5)
    assert body["weight_decay"] == 0.2 > head["weight_decay"] > 0.02
    optimisers.schedule(9, 10, scale=1.0)
    assert (body["lr"], head["lr"]) == (1.0, 0.1)
    assert head["weight_decay"] == pytest.approx(0.2, rel=0.02)


def test_a_renewed_head_has_no_momentum_and_the_body_keeps_its_own():
    method = Two(momentum=0.9)
    optimisers = Optimisers(method, Stage("train", 10))
    learn(method, optimisers)
    momentum = optimisers[0].state[method.body.weight]["momentum_buffer"].clone()
    assert memory(optimisers) == [2, 2]
    optimisers.renew(method.head.parameters())
    assert memory(optimisers) == [2, 0]
    assert optimisers[0].state[method.body.weight]["momentum_buffer"].equal(momentum)
    before = method.head.weight.detach().clone()
    optimisers.schedule(0, 10, scale=1.0)
    learn(method, optimisers)  # plain gradient: nothing of the old momentum
    torch.testing.assert_close(before - method.head.weight, method.head.weight.grad * optimisers.rate)


def test_a_head_in_the_place_of_another_learns():
    method = Two(kind=torch.optim.Adam)
    optimisers = Optimisers(method, Stage("train", 10))
    learn(method, optimisers)
    method.head = nn.Linear(2, 2)
    optimisers.renew(method.head.parameters())
    before = method.head.weight.detach().clone()
    learn(method, optimisers)
    assert not before.equal(method.head.weight)
    assert optimisers[0].state[method.body.weight]["step"] == 2


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (warmed_up(constant, share=0.2, start=0.5), [0.5, 0.75, 1, 1, 1]),
        (in_steps([0.15, 0.25]), [1, 1, 0.1, 0.01, 0.01]),
        (between(1.0, 0.5, shape=lambda progress: 1 - progress), [1, 0.95, 0.9, 0.85, 0.5]),
        (part_of_cosine(0.5), [1, 0.988, 0.951, 0.891, 0]),
    ],
)
def test_a_schedule_made_to_measure(schedule, shares):
    assert [schedule(progress) for progress in (0, 0.1, 0.2, 0.3, 1)] == pytest.approx(shares, abs=1e-3)
    assert rate(schedule, 0, 2) == schedule(0.25)
