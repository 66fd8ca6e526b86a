"""How many of the unique counts given for bags are wrong, and which: a learned noise rate, and a law made honest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

PIECES = 10.0
"""Counts imagined beside the given ones, as many of them wrong as expected: what few counts start from."""

_SPREAD = 0.005  # of the penalty on how much likelier than before the law may make one count everywhere


@dataclass(frozen=True, eq=False)
class CountNoise:
    """What is known of some counts being right.

    random: ε, the share of counts that say nothing: any admissible one is given then, the right one too. wrong: the
    share that is wrong, less than ε. right: (bags,) float32, the probability that a bag's count is right.
    log_likelihood: of all counts given, in nats.
    """

    random: float
    wrong: float
    right: Tensor
    log_likelihood: float


def count_noise(log_law: Tensor, given: Tensor, admissible: Tensor, *, expected: float = 0.1) -> CountNoise:
    """Return the rate of wrong counts and the probability that each is right, by maximum a posteriori.

    log_law: (bags, counts), log P(a bag holds u classes) up to a constant for each bag, by any of the laws. given:
    (bags, counts) bool, the count or the range of counts that is given. admissible: (bags, counts) bool, what may be
    given at all. expected: ε beforehand, in (0, 1), as of `PIECES` counts.

    Assignments are surer than they are right, and mistakes make bags look as if they held more classes. So the law is
    P(u) ∝ exp(a log_law_u + b_u), with a and b such that Π L, L = (1 − ε) P(given) + ε · share of the counts given, is
    largest, and ε too. A count is wrong with probability ε · share · (1 − P(given)) / L.

    >>> sure = torch.tensor([[0.0, -9.0]] * 30 + [[-9.0, 0.0]] * 30)
    >>> given = sure == 0
    >>> given[0] = ~given[0]
    >>> found = count_noise(sure, given, torch.ones_like(given))
    >>> (found.right < 0.5).nonzero().flatten().tolist()
    [0]
    """
    admissible = admissible | given
    log_law = log_law.detach().double().cpu().masked_fill(~admissible.cpu(), 0.0)
    given, admissible = given.cpu(), admissible.cpu()
    size = admissible.sum(1, keepdim=True)
    centred = (log_law - log_law.sum(1, keepdim=True) / size).masked_fill(~admissible, 0.0)
    chance = (given.sum(1) / size[:, 0]).double()
    informative = chance < 1
    n_counts = log_law.shape[1]
    start = torch.zeros(n_counts + 2, dtype=torch.float64)
    start[0] = -math.log(float(centred.square().mean().sqrt()) + 1e-6)
    start[1] = math.log(expected / (1 - expected))
    free = start.clone().requires_grad_(True)

    def probability() -> Tensor:
        scores = (free[0].exp() * centred + free[2:]).masked_fill(~admissible, -torch.inf)
        return (scores.softmax(1) * given).sum(1)

    def loss() -> Tensor:
        rate = free[1].sigmoid()
        mixed = ((1 - rate) * probability() + rate * chance).clamp_min(1e-300)
        prior = PIECES * (expected * rate.log() + (1 - expected) * (1 - rate).log())
        return -(mixed[informative].log().sum() + prior) + _SPREAD * (free - start).square().sum()

    def step() -> Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser = torch.optim.LBFGS([free], max_iter=100, line_search_fn="strong_wolfe")
    optimiser.step(step)
    with torch.no_grad():
        rate, p = float(free[1].sigmoid()), probability()
    mixed = ((1 - rate) * p + rate * chance).clamp_min(1e-300)
    wrong = rate * chance * (1 - p) / mixed
    return CountNoise(
        rate, float((rate * (1 - chance)).mean()), (1 - wrong).clamp(0, 1).float(), float(mixed.log().sum())
    )
