"""The nets of UCC: wide residual blocks by hand, decoders of every shape, attention that sums to one."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from smidgen.errors import InputError
from smidgen.nets.bag_net import ACTIVATIONS, CountHead
from smidgen.nets.decoders import make_decoder
from smidgen.nets.encoders import make_encoder
from smidgen.nets.gated_attention import GatedAttention
from smidgen.nets.wide_residual import StandardiseEach, WideResidualBlock

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 17, 9), (1, 1, 3)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_paper_s_encoder_and_decoder_take_images_of_any_shape(shape):
    encoder = make_encoder("wide-residual", shape, mean=(0.5,) * shape[0], std=(0.2,) * shape[0])
    embeddings = encoder(torch.rand(2, *shape))
    assert embeddings.shape == (2, encoder.features)
    for batch_norm in (False, True):
        assert make_decoder(7, shape, batch_norm=batch_norm)(torch.rand(2, 7)).shape == (2, *shape)


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_the_small_net_has_a_small_decoder(shape):
    encoder = make_encoder("conv", shape, mean=(0.5,) * shape[0], std=(0.2,) * shape[0])
    small = make_decoder(7, shape, encoder=encoder)
    assert small(torch.rand(2, 7)).shape == (2, *shape)
    large = make_decoder(7, shape)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in large.parameters()) / 4


def test_digits_have_6272_numbers_and_embeddings_a_decoder_of_their_own():
    assert make_encoder("wide-residual", (1, 28, 28), mean=(0.5,), std=(0.2,)).features == 6272
    assert make_decoder(7, (64,))(torch.rand(2, 7)).shape == (2, 64)
    with pytest.raises(InputError, match="use 'vectors'"):
        make_encoder("wide-residual", (64,), mean=(0.5,) * 64, std=(0.2,) * 64)


def test_a_block_is_the_equation():
    block, x = WideResidualBlock(4, 6, stride=2), torch.randn(2, 4, 8, 8)
    x0 = F.relu(x)
    long = F.conv2d(F.pad(x0, (0, 1, 0, 1)), block.first.weight, block.first.bias, stride=2)
    long = F.conv2d(F.relu(long), block.second.weight, block.second.bias, padding=1)
    short = F.conv2d(x0, block.shortcut.weight, block.shortcut.bias, stride=2)
    expected = long + torch.cat([short, torch.zeros(2, 2, 4, 4)], 1)
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("side", "zeros"), [(8, (0, 1)), (7, (1, 1))])
def test_a_halving_convolution_has_zeros_where_keras_has_them(side, zeros):
    block = WideResidualBlock(1, 1, stride=2)
    for layer in (block.first, block.second, block.shortcut):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    torch.nn.init.ones_(block.first.weight)  # sums the 3×3 pixels of each place
    block.second.weight.data[0, 0, 1, 1] = 1
    ones = F.pad(torch.ones(side, side), (*zeros, *zeros)).unfold(0, 3, 2).unfold(1, 3, 2).sum((2, 3))
    torch.testing.assert_close(block(torch.ones(1, 1, side, side))[0, 0], ones)


def test_the_encoder_gives_what_the_paper_s_layers_give_in_keras():
    # Keras 3.15 with the layers of the paper's code: 3×3 "same" and 1×1 "valid" convolutions, channels padded by zeros.
    expected = [
        [0, 0, 4.0830, 0, 1.7096, 1.7634, 1.4608, 0.0000, 0, 1.1433, 0, 0.2494, 1.5227],
        [0, 0, 1.9501, 0, 2.7943, 1.2929, 2.3459, 0.0061, 0, 0.6623, 0, 0.4414, 1.7942],
    ]
    net = make_encoder("wide-residual", (1, 8, 7), mean=(0.5,), std=(0.2,))
    convolutions = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    for seed, layer in enumerate(convolutions):
        weight = np.random.RandomState(seed).standard_normal(layer.weight.shape) * (2 / layer.weight[0].numel()) ** 0.5
        layer.weight.data = torch.from_numpy(weight).float()
        layer.bias.data.fill_(0.1)
    images = torch.from_numpy(np.random.RandomState(99).random_sample((2, 1, 8, 7))).float()
    torch.testing.assert_close(net(images)[:, ::40], torch.tensor(expected), atol=2e-4, rtol=1e-4)


def test_each_image_is_standardised_by_itself_and_a_constant_one_is_only_centred():
    images = torch.stack([torch.rand(1, 8, 8), torch.full((1, 8, 8), 0.7)])
    found = StandardiseEach()(images)
    assert found[0].mean().item() == pytest.approx(0, abs=1e-6)
    assert found[0].square().mean().item() == pytest.approx(1, rel=1e-5)
    assert found[1].abs().max().item() < 1e-6


def test_it_starts_as_the_paper_s_code_does():
    net = make_encoder("wide-residual", (1, 8, 8), mean=(0.5,), std=(0.2,))
    convolutions = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    biases = {layer.kernel_size: layer.bias.unique().tolist() for layer in convolutions}
    assert biases == {(3, 3): [pytest.approx(0.1)], (1, 1): [0.0]}
    decoder = make_decoder(7, (1, 8, 8))
    assert decoder.layers[0].bias.unique().tolist() == [pytest.approx(0.1)]
    assert isinstance(decoder.layers[2].shortcut, torch.nn.Identity)  # 128 maps of twice the side from 128
    assert decoder.layers[3].shortcut.kernel_size == (1, 1)
    bound = (6 / (9 * 1 + 9 * 16)) ** 0.5  # Glorot: fan in 9, fan out 144
    assert 0.9 * bound < convolutions[0].weight.abs().max().item() <= bound
    assert not any(isinstance(layer, torch.nn.BatchNorm2d) for layer in net.modules())


def test_the_head_of_the_paper_s_code_is_steeper_at_the_start_than_pytorch_s():
    steepness = {}
    for start in ("glorot", "pytorch"):
        torch.manual_seed(0)
        head = CountHead(110, torch.arange(10) < 4, start=start)
        h = torch.full((1, 110), 1 / 11, requires_grad=True)
        (gradient,) = torch.autograd.grad(head.layers(h)[0, 0], h)
        steepness[start] = gradient.norm().item()
        assert (start == "glorot") == all(bool((layer.bias == 0).all()) for layer in head.layers[::2])
    assert steepness["glorot"] > 3 * steepness["pytorch"]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_stay_in_the_range_they_state(name):
    function, least, most = ACTIVATIONS[name]
    values = function(20 * torch.randn(200, 5))
    assert least - 1e-6 <= float(values.min())
    assert float(values.max()) <= most + 1e-6


def test_attention_sums_to_one_in_each_bag():
    offsets = torch.tensor([0, 3, 4, 9])
    weights = GatedAttention(5)(torch.randn(9, 5), offsets).exp()
    sums = [weights[a:b].sum() for a, b in ((0, 3), (3, 4), (4, 9))]
    torch.testing.assert_close(torch.stack(sums), torch.ones(3))
