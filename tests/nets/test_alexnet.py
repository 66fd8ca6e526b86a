"""AlexNet: layer by layer as seed 002 prints it, and a narrower one that takes small images."""

import re

import pytest
import torch
from torch import nn

from smidgen.errors import InputError
from smidgen.nets.encoders import is_trained_from_scratch, make_encoder
from smidgen.nets.sobel import sobel_filter

PRINTED = """
AlexNet(
  (features): Sequential(
    (0): Conv2d(2, 96, kernel_size=(11, 11), stride=(4, 4), padding=(2, 2))
    (1): BatchNorm2d(96, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (2): ReLU(inplace=True)
    (3): MaxPool2d(kernel_size=3, stride=2, padding=0, dilation=1, ceil_mode=False)
    (4): Conv2d(96, 256, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2))
    (5): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (6): ReLU(inplace=True)
    (7): MaxPool2d(kernel_size=3, stride=2, padding=0, dilation=1, ceil_mode=False)
    (8): Conv2d(256, 384, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    (9): BatchNorm2d(384, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (10): ReLU(inplace=True)
    (11): Conv2d(384, 384, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    (12): BatchNorm2d(384, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (13): ReLU(inplace=True)
    (14): Conv2d(384, 256, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
    (15): BatchNorm2d(256, eps=1e-05, momentum=0.1, affine=True, track_running_stats=True)
    (16): ReLU(inplace=True)
    (17): MaxPool2d(kernel_size=3, stride=2, padding=0, dilation=1, ceil_mode=False)
  )
  (classifier): Sequential(
    (0): Dropout(p=0.5, inplace=False)
    (1): Linear(in_features=9216, out_features=4096, bias=True)
    (2): ReLU(inplace=True)
    (3): Dropout(p=0.5, inplace=False)
    (4): Linear(in_features=4096, out_features=4096, bias=True)
    (5): ReLU(inplace=True)
  )
)
"""
PRINTED_SOBEL = """
Sequential(
  (0): Conv2d(3, 1, kernel_size=(1, 1), stride=(1, 1))
  (1): Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1), padding=(1, 1))
)
"""


def encoder(name, shape):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return make_encoder(name, shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0])


def shapes_in_print(printed):
    """Return name → shape of weights, read from the print-out."""
    found, outer = {}, ""
    for line in printed.splitlines():
        if match := re.match(r"  \((\w+)\): Sequential", line):
            outer = match[1]
        elif match := re.match(r"    \((\d+)\): Conv2d\((\d+), (\d+), kernel_size=\((\d+), (\d+)\)", line):
            found[f"{outer}.{match[1]}.weight"] = (int(match[3]), int(match[2]), int(match[4]), int(match[5]))
        elif match := re.match(r"    \((\d+)\): Linear\(in_features=(\d+), out_features=(\d+)", line):
            found[f"{outer}.{match[1]}.weight"] = (int(match[3]), int(match[2]))
        elif match := re.match(r"    \((\d+)\): BatchNorm2d\((\d+)", line):
            found[f"{outer}.{match[1]}.weight"] = (int(match[2]),)
    return found


def test_the_net_is_the_one_that_the_report_prints():
    whole = encoder("sobel:alexnet", (3, 32, 32))
    net = whole.encoder.net
    assert repr(net).replace("affine=True, bias=True", "affine=True") == PRINTED.strip()  # newer PyTorch prints more
    assert repr(whole.sobel) == PRINTED_SOBEL.strip()
    weights = {name: tuple(value.shape) for name, value in net.named_parameters() if name.endswith("weight")}
    assert weights == shapes_in_print(PRINTED)
    assert len(weights) == 12


def test_its_weights_start_as_published():
    net = encoder("alexnet", (3, 32, 32)).net
    assert float(net.classifier[1].weight.detach().std()) == pytest.approx(0.01, rel=0.01)
    assert float(net.features[4].weight.detach().std()) == pytest.approx((2 / (25 * 256)) ** 0.5, rel=0.01)
    assert all(not bias.any() for name, bias in net.named_parameters() if name.endswith("bias"))


def test_small_images_are_enlarged_for_the_full_net():
    net = encoder("alexnet", (1, 32, 32)).eval()
    images = torch.rand(2, 1, 32, 32)
    assert net(images).shape == (2, 4096)
    assert net(images).min() == 0


@pytest.mark.parametrize("side", [1, 8, 28, 32, 33, 48, 64])
def test_the_small_net_takes_small_images(side):
    net = encoder("alexnet-small", (3, side, side))
    embeddings = net(torch.rand(3, 3, side, side))
    assert embeddings.shape == (3, net.features)
    embeddings.square().sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


def test_the_small_net_halves_32_pixels_four_times():
    net = encoder("alexnet-small", (3, 32, 32)).net
    assert [m.out_channels for m in net.features if isinstance(m, nn.Conv2d)] == [64, 192, 384, 256, 256]
    assert net.features(torch.rand(2, 3, 32, 32)).shape == (2, 256, 2, 2)


@pytest.mark.parametrize("name", ["conv", "alexnet-small", "vectors", "sobel:conv"])
def test_embeddings_are_the_positive_part_of_what_comes_before_their_activation(name):
    shape = (7,) if name == "vectors" else (1, 28, 28)
    net, images = encoder(name, shape).eval(), torch.rand(4, *shape)
    before = net.preactivations(images)
    assert before.min() < 0
    assert before.relu().equal(net(images))


# ----------------------------------------------------------------------------------------------------------- Sobel


def test_the_filter_is_grey_then_derivatives():
    images = torch.rand(2, 3, 9, 9)
    found, grey = sobel_filter(3)(images), images.mean(1)
    for y, x in ((1, 1), (4, 5), (7, 3)):
        left, right = grey[:, y - 1 : y + 2, x - 1], grey[:, y - 1 : y + 2, x + 1]
        above, below = grey[:, y - 1, x - 1 : x + 2], grey[:, y + 1, x - 1 : x + 2]
        weights = torch.tensor([1.0, 2.0, 1.0])
        torch.testing.assert_close(found[:, 0, y, x], (left - right) @ weights)
        torch.testing.assert_close(found[:, 1, y, x], (above - below) @ weights)


def test_the_filter_never_learns_and_any_net_of_ours_can_stand_behind_it():
    net = encoder("sobel:conv", (3, 16, 16))
    before = [value.clone() for value in net.sobel.state_dict().values()]
    net(torch.rand(4, 3, 16, 16)).sum().backward()
    torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=1.0).step()
    assert all(now.equal(then) for now, then in zip(net.sobel.state_dict().values(), before, strict=True))
    assert is_trained_from_scratch("sobel:conv")
    assert net.encoder.layers[1].in_channels == 2


@pytest.mark.parametrize(("name", "shape"), [("sobel:vectors", (9,)), ("sobel:lite0", (3, 32, 32))])
def test_what_cannot_stand_behind_the_filter_is_refused(name, shape):
    with pytest.raises(InputError, match="sobel:"):
        encoder(name, shape)
