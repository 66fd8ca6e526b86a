"""Bags per second of UCC's faithful preset, against the same net with the density written as loops from the equation.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/kde_throughput.py

A step is forward and backward of the paper's 20 bags of 32 images of 28×28 pixels: of the density and the count head
alone, and of the whole net with encoder and decoder. Seconds are those of the processor, on one thread, so that other
work on the machine does not count; the best of several steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from smidgen.evidence.resolved import Resolved
from smidgen.maths.kde import log_densities
from smidgen.methods.base import Problem
from smidgen.methods.ucc import UCC, UCCConfig, ucc_objective
from smidgen.nets.bag_net import count_cross_entropy

BAGS, SIZE, CLASSES = 20, 32, 10

Density = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def ours(features: Tensor, offsets: Tensor, points: Tensor, bandwidth: float) -> Tensor:
    """Return the densities (bags, features, points) as `ucc` computes them."""
    return log_densities(features, offsets, points, bandwidth=bandwidth).exp()


def looped(features: Tensor, offsets: Tensor, points: Tensor, bandwidth: float) -> Tensor:
    """Return the same by loops over bags, features and images, as the equation stands in the paper."""
    bags = []
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
        rows = []
        for j in range(features.shape[1]):
            sums = torch.zeros_like(points)
            for i in range(begin, end):
                sums = sums + torch.exp(-((points - features[i, j]) ** 2) / (2 * bandwidth**2))
            rows.append(sums / sums.sum())
        bags.append(torch.stack(rows))
    return torch.stack(bags)


def step(method: UCC, images: Tensor, offsets: Tensor, density: Density, *, whole: bool) -> Tensor:
    """Return the loss of a step after its backward pass; without `whole` features are given instead of images."""
    net = method.net
    features = net(images) if whole else images.clone().requires_grad_()
    h = density(features, offsets, net.points, method.config.bandwidth).flatten(1)
    counts = torch.arange(len(offsets) - 1) % 4 + 1
    loss = count_cross_entropy(method.head(h), counts, counts).mean()
    if whole:
        loss = ucc_objective(loss, net.reconstruction_loss(features, images, kind="mse"), alpha=0.5)
    loss.backward()
    return loss.detach()


def seconds(work: Callable[[], object], *, repeats: int) -> float:
    """Return the processor's time of one call, the best of several."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    n = BAGS * SIZE
    evidence = Resolved(n, labels=torch.arange(n) % CLASSES)
    method = UCC(UCCConfig(), Problem(n, (1, 28, 28), CLASSES, (0.13,), (0.31,), evidence))
    offsets = torch.arange(0, n + 1, SIZE)
    print("| 20 bags of 32, forward and backward | ours, bags/s | loops, bags/s | ratio | loss, loss |")
    print("| --- | --- | --- | --- | --- |")
    cases = (("density and head", torch.rand(n, 10), False, 20), ("the whole net", torch.rand(n, 1, 28, 28), True, 2))
    for name, images, whole, repeats in cases:
        losses = [float(step(method, images, offsets, density, whole=whole)) for density in (ours, looped)]
        times = [
            seconds(partial(step, method, images, offsets, density, whole=whole), repeats=r)
            for density, r in ((ours, repeats), (looped, 2))
        ]
        rates = [BAGS / t for t in times]
        shown = f"{rates[0]:,.1f} | {rates[1]:,.1f} | {rates[0] / rates[1]:.1f} | {losses[0]:.5f}, {losses[1]:.5f}"
        print(f"| {name} | {shown} |")


if __name__ == "__main__":
    main()
