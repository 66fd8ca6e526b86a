"""The U-Net for UCC and RCC: with skips its image comes past the features, without them through."""

import pytest
import torch
from torch.nn import functional as F

from smidgen.errors import InputError
from smidgen.maths.reconstruction import mse
from smidgen.nets.bag_net import BagNet
from smidgen.nets.decoders import make_decoder
from smidgen.nets.encoders import make_encoder
from smidgen.nets.wide_residual import StandardiseEach, image_statistics

SHAPES = [(1, 28, 28), (3, 32, 32), (1, 4, 4), (3, 17, 9), (1, 1, 3)]
NAMES = ("unet", "unet-no-skips")


def unet(name="unet", shape=(1, 8, 8)):
    return make_encoder(name, shape, mean=(0.5,) * shape[0], std=(0.2,) * shape[0])


def bag_net(name, shape=(1, 8, 8), *, decoder="plain"):
    torch.manual_seed(0)
    options = {"feature_bias": True, "points": 11, "log_output": False, "attention": False, "decoder": decoder}
    return BagNet(unet(name, shape), shape, features=6, activation="sigmoid", **options)


def quarters(n, *, seed):
    """Images of 8 × 8 pixels: one bright quarter under noise."""
    generator = torch.Generator().manual_seed(seed)
    bright = F.one_hot(torch.randint(4, (n,), generator=generator), 4).view(n, 1, 2, 2).repeat_interleave(4, 2)
    return 0.2 * torch.rand(n, 1, 8, 8, generator=generator) + 0.7 * bright.repeat_interleave(4, 3)


@torch.no_grad()
def errors(net, images):
    """Return the reconstruction's error with the images' own features, and with each other's."""
    features = net.eval()(images)
    return [float(net.reconstruction_loss(f, images, kind="mse")) for f in (features, features.roll(1, 0))]


def trained(name, *, steps=50):
    net = bag_net(name).train()
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-4)
    for step in range(steps):
        images = quarters(16, seed=step)
        optimiser.zero_grad()
        net.reconstruction_loss(net(images), images, kind="mse").backward()
        optimiser.step()
    return net


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", SHAPES)
def test_it_takes_images_of_any_shape_and_gives_them_back(name, shape):
    images = torch.rand(2, *shape)
    for decoder in ("plain", "batch-norm"):
        net = bag_net(name, shape, decoder=decoder)
        assert net.encoder(images).shape == (2, net.encoder.features)
        assert net.rebuild(images).shape == images.shape


def test_the_maps_are_those_on_the_way_down():
    net, images = unet(shape=(1, 5, 6)), torch.rand(2, 1, 5, 6)
    half, whole = net.maps(images)
    assert (half.shape, whole.shape) == ((2, 64, 3, 3), (2, 32, 5, 6))
    first, second = (net.sizes[0][i] for i in (0, 3))
    torch.testing.assert_close(whole, F.relu(second(F.relu(first(StandardiseEach()(images))))))
    torch.testing.assert_close(net(images), net.sizes[2](F.max_pool2d(half, 2, ceil_mode=True)).flatten(1))
    assert unet("unet-no-skips").maps(images) == ()


def test_the_nets_differ_by_the_skips_alone():
    with_skips, without = unet(), unet("unet-no-skips")
    without.load_state_dict(with_skips.state_dict())
    images = torch.rand(2, 1, 8, 8)
    assert with_skips(images).equal(without(images))
    decoders = [make_decoder(6, (1, 8, 8), encoder=encoder) for encoder in (with_skips, without)]
    inputs = [[level[0].in_channels for level in decoder.sizes] for decoder in decoders]
    assert inputs == [[128 + 64, 64 + 32], [128, 64]]


def test_all_of_it_learns_and_the_skips_short_circuit_the_gradient():
    for name in NAMES:
        net, images = bag_net(name), quarters(4, seed=0)
        net.reconstruction_loss(net(images).detach(), images, kind="mse").backward()
        reached = any(p.grad is not None and bool(p.grad.any()) for p in net.encoder.parameters())
        assert reached == (name == "unet")
        net.reconstruction_loss(net(images), images, kind="mse").backward()
        parameters = [*net.encoder.parameters(), *net.code.parameters(), *net.decoder.parameters()]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in parameters)


def test_with_skips_the_image_is_rebuilt_without_the_features_and_otherwise_with_them():
    images = quarters(64, seed=1000)
    own, other = errors(trained("unet"), images)
    assert own < 0.1
    assert other < own + 0.01
    for name in ("unet-no-skips", "wide-residual"):
        own, other = errors(trained(name), images)
        assert own < 0.5
        assert other > 1.5  # two images with nothing in common are at 2


@pytest.mark.parametrize("name", [*NAMES, "wide-residual"])
def test_an_image_is_rebuilt_from_its_own_features_and_maps(name):
    net, images = bag_net(name).eval(), torch.rand(5, 1, 8, 8)
    mean, std = image_statistics(images)
    rebuilt = net.rebuild(images)
    expected = mse((rebuilt - mean) / std, (images - mean) / std).mean()
    torch.testing.assert_close(net.reconstruction_loss(net(images), images, kind="mse"), expected)
    torch.testing.assert_close(net.rebuild(images[3:4]), rebuilt[3:4], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 9, 7)])
def test_an_embedding_does_not_depend_on_the_other_images(shape):
    net, images = unet(shape=shape).eval(), torch.rand(16, *shape)
    order = torch.randperm(16)
    assert net(images[order]).equal(net(images)[order])


@pytest.mark.parametrize("name", NAMES)
def test_ready_embeddings_are_refused(name):
    with pytest.raises(InputError, match=rf"The encoder '{name}' wants images, .*: use 'vectors'"):
        unet(name, (64,))
