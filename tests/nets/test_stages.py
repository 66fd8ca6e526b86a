import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.nets.encoders import make_encoder
from smidgen.nets.stages import output_of, pooled

BLOCKS = tuple(f"block{i}" for i in range(7))
STAGES = {
    "conv": ("conv1", "conv2", "conv3"),
    "alexnet": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    "alexnet-small": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    "sobel:alexnet-small": ("conv1", "conv2", "conv3", "conv4", "conv5"),
    "wide-residual": ("conv1", "block1", "block2", "block3"),
    "wrn-28-2": ("conv1", *(f"block{i}" for i in range(1, 13))),
    "conv-2x2": ("conv1", "conv2", "conv3"),
    "unet": ("size1", "size2", "size3"),
    "scratch:lite0@32": ("stem", *BLOCKS, "head"),
    "scratch:mobilenetv3_small_050@32": ("bn1", "blocks.0", "blocks.1", "blocks.3", "blocks.5"),
}


@pytest.mark.parametrize("name", STAGES)
def test_the_stages_of_an_encoder_are_maps_in_the_order_of_the_net(name: str) -> None:
    encoder = make_encoder(name, (3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3).eval()
    assert tuple(encoder.stages()) == STAGES[name]
    images, reached = torch.rand(2, 3, 32, 32), []
    for stage in encoder.stages().values():
        stage.register_forward_hook(lambda module, _, __: reached.append(module))
    with torch.no_grad():
        encoder(images)
        maps = [output_of(stage, encoder)(images) for stage in encoder.stages().values()]
    assert reached[: len(maps)] == list(encoder.stages().values())
    assert all(each.ndim == 4 and len(each) == 2 for each in maps)
    sides = [each.shape[2] for each in maps]
    assert sides == sorted(sides, reverse=True)


def test_ready_embeddings_have_no_stages() -> None:
    assert make_encoder("conv", (8,), mean=(0.0,) * 8, std=(1.0,) * 8).stages() == {}


def test_the_full_alexnet_has_the_published_sizes() -> None:
    encoder = make_encoder("alexnet", (3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3).eval()
    with torch.no_grad():
        maps = [output_of(stage, encoder)(torch.rand(1, 3, 32, 32)) for stage in encoder.stages().values()]
    assert [pooled(each).shape[1] for each in maps] == [96 * 100, 256 * 36, 384 * 25, 384 * 25, 256 * 36]


def test_the_output_is_that_after_the_relu() -> None:
    encoder = make_encoder("conv", (1, 8, 8), mean=(0.5,), std=(0.25,)).eval()
    images, layers = torch.rand(4, 1, 8, 8), encoder.layers
    with torch.no_grad():
        found = output_of(encoder.stages()["conv1"], encoder)(images)
        assert torch.equal(found, F.relu(layers[2](layers[1](layers[0](images)))))


def test_what_is_computed_bit_by_bit_is_put_together() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))

    def by_threes(images: Tensor) -> Tensor:
        return torch.cat([net(some) for some in images.split(3)])

    images = torch.rand(8, 1, 2, 2)
    assert torch.equal(output_of(net[0], by_threes)(images), images.flatten(1))


def test_nothing_is_left_in_a_net_that_was_stopped() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    output_of(net[0], net)(torch.ones(1, 1, 2, 2))
    assert net(torch.ones(1, 1, 2, 2)).shape == (1, 2)
    with pytest.raises(RuntimeError, match="no part"):
        output_of(nn.ReLU(), net)(torch.ones(1, 1, 2, 2))


def test_tokens_are_averaged_and_maps_pooled_by_their_largest() -> None:
    tokens = torch.tensor([[[1.0, 4.0], [3.0, 0.0]]])
    assert pooled(tokens).tolist() == [[2.0, 2.0]]
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert pooled(maps, most=4).tolist() == [[5.0, 7.0, 13.0, 15.0]]
    assert pooled(torch.ones(1, 9, 4, 4), most=4).shape == (1, 9)


@pytest.mark.parametrize(
    ("name", "channels"), [("conv", 3), ("alexnet-small", 3), ("sobel:conv", 2), ("wide-residual", 3), ("unet", 3)]
)
def test_the_first_filters_see_pixels_or_the_gradients_of_a_fixed_filter(name: str, channels: int) -> None:
    filters = make_encoder(name, (3, 32, 32), mean=(0.5,) * 3, std=(0.25,) * 3).first_filters()
    assert filters is not None
    assert filters.shape[1:] == (channels, 3, 3)


def test_ready_embeddings_have_no_filters() -> None:
    assert make_encoder("vectors", (8,), mean=(0.0,) * 8, std=(1.0,) * 8).first_filters() is None
