"""The nets of the methods for few labels: WRN-28-2, and the autoencoder whose code is 64 × 2 × 2 numbers."""

import pytest
import torch

from smidgen.nets.decoders import make_decoder
from smidgen.nets.encoders import VectorEncoder, make_encoder
from smidgen.nets.heads import HeadedNet, OrderedHeads


def encoder(name, shape):
    return make_encoder(name, shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0])


def test_wrn_28_2_has_the_published_number_of_weights_and_layers():
    net = HeadedNet(encoder("wrn-28-2", (3, 32, 32)), 10)
    assert sum(p.numel() for p in net.parameters()) == 1_467_610
    convolutions = [layer for layer in net.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert sum(layer.kernel_size == (3, 3) for layer in convolutions) + 3 == 28  # and three 1×1 ones beside them


@pytest.mark.parametrize("name", ["wrn-28-2", "conv-2x2"])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 17, 9), (1, 2, 2), (1, 1, 5), (1, 1, 1), (1, 28, 28)])
def test_they_take_images_of_any_shape(name, shape):
    net = encoder(name, shape)
    codes = net(torch.rand(2, *shape))
    assert codes.shape == (2, net.features)
    codes.square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in net.parameters())


def test_the_code_of_digits_is_64_by_2_by_2():
    net = encoder("conv-2x2", (1, 28, 28))
    assert net.features == 256
    assert net.layers[:-1](torch.rand(1, 1, 28, 28)).shape == (1, 64, 2, 2)


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 9), (1, 2, 2), (1, 1, 5), (1, 8, 8)])
def test_its_decoder_gives_images_of_the_shape(shape):
    net = encoder("conv-2x2", shape)
    assert make_decoder(net.features, shape, encoder=net)(net(torch.rand(2, *shape))).shape == (2, *shape)


@pytest.mark.parametrize("name", ["wrn-28-2", "conv-2x2"])
def test_on_ready_embeddings_two_layers_stand_in(name):
    assert isinstance(encoder(name, (24,)), VectorEncoder)


def test_heads_are_put_into_the_order_of_the_classes():
    heads = OrderedHeads(4, 3, heads=2)
    embeddings = torch.rand(5, 4, generator=torch.Generator().manual_seed(0))
    before = heads(embeddings)
    votes = torch.tensor([[0.0, 9.0, 0.0], [0.0, 0.0, 9.0], [9.0, 0.0, 0.0]]).numpy()  # cluster 2 is class 0
    heads.put_in_order(1, votes)
    after = heads(embeddings)
    assert after[:, 0].equal(before[:, 0])
    assert after[:, 1].equal(before[:, 1][:, [2, 0, 1]])
    weight, bias = heads.layer(1)
    torch.testing.assert_close(embeddings @ weight.T + bias, after[:, 1])
    heads.put_in_order(1, torch.eye(3).numpy())
    assert heads(embeddings).equal(after)
