"""Encoders: shapes, gradients, and the normalisation they carry."""

import pytest
import torch

from smidgen.errors import InputError
from smidgen.nets.encoders import Normalise, is_projected, make_encoder, projected_name


def encoder(name="conv", shape=(1, 8, 8)):
    return make_encoder(name, shape, mean=(0.5,) * shape[0], std=(0.25,) * shape[0])


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 64, 64), (1, 1, 1), (1, 2, 5), (3, 17, 9)])
def test_the_small_net_takes_images_of_any_shape(shape):
    net = encoder(shape=shape)
    embeddings = net(torch.rand(4, *shape))
    assert embeddings.shape == (4, net.features)
    embeddings.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_digits_have_the_widths_of_the_docstring():
    convolutions = [layer for layer in encoder(shape=(1, 28, 28)).modules() if isinstance(layer, torch.nn.Conv2d)]
    linear = [layer for layer in encoder(shape=(1, 28, 28)).modules() if isinstance(layer, torch.nn.Linear)]
    assert [layer.out_channels for layer in convolutions] == [32, 64, 128]
    assert [layer.in_features for layer in linear] == [2048]


def test_standardising_by_hand():
    images = torch.tensor([0.5, 1.0]).view(1, 2, 1, 1)
    assert Normalise((0.25, 0.5), (0.5, 0.25))(images).flatten().tolist() == [0.5, 2.0]


def test_a_constant_channel_is_only_centred():
    assert Normalise((0.25,), (0.0,))(torch.full((1, 1, 2, 2), 0.25)).abs().max() == 0


def test_the_normalisation_travels_with_the_weights():
    net, other = encoder(), make_encoder("conv", (1, 8, 8), mean=(0.1,), std=(1.0,))
    other.load_state_dict(net.state_dict())
    images = torch.rand(2, 1, 8, 8)
    assert other.eval()(images).equal(net.eval()(images))


def test_an_unknown_encoder_is_named():
    with pytest.raises(InputError, match=r"Unknown encoder 'konv'\. Did you mean 'conv'\?"):
        encoder("konv")


@pytest.mark.parametrize(("sizes", "features"), [((20, 7), 7), ((20, None), 32), ((99, 7), 7)])
def test_a_name_says_how_large_a_projected_encoder_is(sizes, features):
    name = projected_name(*sizes)
    assert is_projected(name)
    net = encoder(name, (24,))
    assert net.features == features
    assert net(torch.rand(3, 24)).shape == (3, features)


def test_projected_encoders_want_embeddings_and_sizes():
    with pytest.raises(InputError, match="'projected-20-7' wants ready embeddings, and these are images"):
        encoder("projected-20-7", (1, 8, 8))
    assert not any(map(is_projected, (None, "conv", "projected", "projected-0", "projected-8-0", "projected-8-7-6")))
