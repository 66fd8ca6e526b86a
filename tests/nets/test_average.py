"""The average of weights: by hand, and in a mode of its own."""

import torch
from torch import nn

from smidgen.nets.average import Average


def test_the_average_moves_by_its_decay():
    net = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        net.weight.fill_(1.0)
    average = Average(net, decay=0.75)
    with torch.no_grad():
        net.weight.fill_(2.0)
    average.update(net)
    assert average.net.weight.item() == 1.25
    average.update(net, decay=0)
    assert average.net.weight.item() == 2.0


def test_statistics_are_averaged_and_counts_copied():
    net = nn.BatchNorm1d(2)
    average = Average(net, decay=0.5)
    net(torch.tensor([[10.0, 0.0], [30.0, 0.0]]))
    average.update(net)
    assert average.net.running_mean.tolist() == [1.0, 0.0]  # half of momentum 0.1 × mean 20
    assert int(average.net.num_batches_tracked) == 1


def test_it_has_no_gradient_and_shares_nothing():
    net = nn.Linear(2, 2)
    average = Average(net)
    assert not any(p.requires_grad for p in average.parameters())
    with torch.no_grad():
        net.weight.add_(1)
    assert not average.net.weight.equal(net.weight)


def test_it_stays_in_evaluation_mode():
    module = nn.Sequential(Average(nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3))))
    assert module.train().training
    assert not any(part.training for part in module[0].modules())
    images = torch.rand(4, 3)
    assert module(images).equal(module(images))
