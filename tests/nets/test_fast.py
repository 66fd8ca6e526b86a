"""Fast inference: a folded net is the same function, and where folding would change it the net stays as it was."""

import pytest
import torch
from torch import nn

from smidgen.nets.average import Average
from smidgen.nets.fast import FoldedConv, accelerate, fold_batch_norm


def randomised(net: nn.Module) -> nn.Module:
    """Give batch norms statistics that matter."""
    generator = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.weight.data, module.bias.data):
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return net.eval()


def small_net(activation: type[nn.Module] = nn.ReLU) -> nn.Module:
    return randomised(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), activation(),
            nn.Conv2d(8, 8, 5, padding=2, groups=8), nn.BatchNorm2d(8),
        )
    )  # fmt: skip


def folded_convolutions(net: nn.Module) -> list[FoldedConv]:
    return [module for module in net.modules() if isinstance(module, FoldedConv)]


def test_a_folded_net_is_the_same_function_with_and_without_gradients():
    net, images = small_net(), torch.rand(2, 3, 17, 16)
    folded = fold_batch_norm(net, example=torch.rand(1, 3, 8, 8))
    assert len(folded_convolutions(folded)) == 2
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images), net(images), rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), net(images), rtol=1e-4, atol=1e-5)


def test_the_given_net_is_left_as_it_was():
    net = small_net().train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    accelerate(net, example=torch.rand(2, 3, 8, 8))
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert all(value.equal(before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (50, 31), (1, 2), (35, 64)])
@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_is_kept_at_even_and_odd_sizes(size, kernel):
    from timm.layers import BatchNormAct2d, Conv2dSame

    norm = BatchNormAct2d(6, act_layer=nn.ReLU6)
    net = randomised(nn.Sequential(Conv2dSame(3, 6, kernel, stride=2, bias=False), norm))
    folded = fold_batch_norm(net, example=torch.rand(1, 3, 16, 16))
    images = torch.randn(2, 3, *size)
    assert len(folded_convolutions(folded)) == 1
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), net(images), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(folded(images), net(images), rtol=1e-4, atol=1e-5)  # without the fused kernel


class _Deceiving(nn.Module):
    """The batch norm that is named after the convolution comes before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x).relu())


def test_where_folding_would_change_the_function_the_net_stays_whole():
    net, images = randomised(_Deceiving()), torch.rand(2, 4, 9, 9)
    folded = fold_batch_norm(net, example=images)
    assert folded_convolutions(folded) == []
    assert folded(images).equal(net(images))


def test_without_the_fused_kernels_a_net_is_folded_all_the_same(monkeypatch):
    def gone(self: FoldedConv, x: torch.Tensor) -> torch.Tensor:
        raise AttributeError("no such operator")

    monkeypatch.setattr(FoldedConv, "_packed_kernel", gone)
    net, images = small_net(), torch.rand(2, 3, 8, 8)
    folded = fold_batch_norm(net, example=images)
    assert len(folded_convolutions(folded)) == 2
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), net(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU, nn.Hardswish, nn.GELU])
def test_activations_behind_timms_batch_norm_are_kept(activation):
    from timm.layers import BatchNormAct2d

    net = randomised(nn.Sequential(nn.Conv2d(3, 4, 3), BatchNormAct2d(4, act_layer=activation)))
    images = 3 * torch.randn(2, 3, 8, 8)
    folded = fold_batch_norm(net, example=images)
    with torch.inference_mode():
        torch.testing.assert_close(folded(images), net(images), rtol=1e-4, atol=1e-5)


def test_bfloat16_comes_close_and_weights_that_change_type_are_packed_anew():
    net, images = small_net(), torch.rand(4, 3, 16, 16)
    quick = accelerate(net, example=images, dtype=torch.bfloat16)
    with torch.inference_mode():
        error = (quick(images.bfloat16()).float() - net(images)).abs().max() / net(images).abs().max()
        assert 0 < error < 0.03
        assert quick.float()(images).dtype == torch.float32


def test_weights_that_an_average_moves_are_packed_anew():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    images = torch.rand(2, 3, 8, 8)
    folded = fold_batch_norm(net, example=images)
    other = fold_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval(), example=images)
    average = Average(folded, decay=0.5)
    with torch.no_grad():
        before = average(images)
        average.update(other, decay=0)
        assert torch.allclose(average(images), other(images), atol=1e-5)
        assert not torch.allclose(average(images), before, atol=1e-3)


class NormFirst(nn.Module):
    """A batch norm before the convolution, though it is named after it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.conv(self.norm(x))


def test_a_wrong_pair_is_told_before_the_net_is_trained_too():
    assert not isinstance(fold_batch_norm(NormFirst(), example=torch.rand(2, 3, 8, 8)).conv, FoldedConv)
