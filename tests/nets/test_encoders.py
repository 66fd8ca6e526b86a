"""Encoders: shapes, gradients, and the normalisation they carry."""

import json
import tomllib

import msgspec
import pytest
import tomli_w
import torch

from smidgen.errors import InputError
from smidgen.nets.composed import Chain, EncoderOption, Gradients, Projected
from smidgen.nets.encoders import Normalise, make_encoder
from smidgen.options import convert


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


@pytest.mark.parametrize(("parts", "features"), [((20, 7), 7), ((20,), 32), ((99, 7), 7)])
def test_the_parts_say_how_large_a_projected_encoder_is(parts, features):
    net = encoder(Projected(*parts), (24,))
    assert net.features == features
    assert net(torch.rand(3, 24)).shape == (3, features)


def test_projected_encoders_want_embeddings():
    with pytest.raises(InputError, match="'20 principal components and a layer of 7 units' wants ready embeddings"):
        encoder(Projected(20, 7), (1, 8, 8))


def test_a_chain_is_a_net_and_one_of_its_embeddings():
    net = encoder(Chain("lite0@32", Projected(20, 7)), (3, 8, 8)).eval()
    images = torch.rand(2, 3, 8, 8)
    assert net.features == 7
    net.then.projection.fit(torch.randn(30, net.first.features))
    assert net(images).equal(net.then(net.first(images)))
    net(images).sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in net.first.parameters())
    net.freeze(3)
    assert not next(net.first.parameters()).requires_grad
    assert encoder(Chain("lite0@32", "conv"), (3, 8, 8)).features == 128
    with pytest.raises(InputError, match="'lite0@32, then vectors' wants images, and these are embeddings"):
        encoder(Chain("lite0@32", "vectors"), (5,))


@pytest.mark.parametrize("parts", ["conv", Gradients("conv"), Projected(9), Projected(9, 24), Chain("a", Projected(9))])
def test_an_encoder_survives_json_toml_and_the_options_of_a_method(parts):
    stored = msgspec.to_builtins(parts)
    assert tomllib.loads(tomli_w.dumps({"encoder": stored}))["encoder"] == stored
    assert convert("encoder", json.loads(json.dumps(stored)), EncoderOption, strict=True) == parts
    assert convert("encoder", parts, EncoderOption | None) == parts


def test_the_filter_is_a_part_however_it_is_written():
    images = torch.rand(2, 3, 16, 16)
    nets = []
    for written in ("sobel:conv", Gradients("conv")):
        torch.manual_seed(0)
        nets.append(encoder(written, (3, 16, 16)).eval())
    assert nets[0](images).equal(nets[1](images))
    assert str(Gradients("conv")) == "sobel:conv"
