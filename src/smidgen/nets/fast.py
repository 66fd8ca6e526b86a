"""Fast inference: batch norm folded into convolutions, fused activations, channels last, bfloat16."""

from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

from smidgen.hardware import fast_dtype

Net = TypeVar("Net", bound=nn.Module)

FAST_BATCH = 16
"""Images at a time on a CPU: larger batches leave its caches (docs/methods.md §9), smaller ones cost more calls."""

_ALLOWED_ERROR = 1e-3  # of the largest output in float32, for the proof that a folded net is still the same function


class FoldedConv(nn.Module):
    """A convolution with its batch norm folded in and its activation behind it; in evaluation on a CPU one kernel.

    Convolutions with TensorFlow's "same" padding (timm's `Conv2dSame`) keep it: it puts an even size's odd pixel
    at the end. That equals a symmetric padding under a kernel with one more row and column of zeros before it, which
    saves the copy of the image that explicit padding makes (an eighth of EfficientNet's time).
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        assert norm.running_mean is not None
        assert norm.running_var is not None
        self.weight, self.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.activation = getattr(norm, "act", nn.Identity())  # timm's batch norms hold the activation
        self.same = type(conv).__name__ == "Conv2dSame"
        self.padding = tuple((k - 1) // 2 for k in conv.kernel_size) if self.same else conv.padding
        self.stride, self.dilation, self.groups = conv.stride, conv.dilation, conv.groups
        self.fused = True  # whether the kernel below may be used
        self._packed: dict[tuple[Any, ...], Tensor] = {}
        self._packed_version = -1

    def forward(self, x: Tensor) -> Tensor:
        """Return (batch, out, height, width) of (batch, in, height, width)."""
        kind = _kernel_activation(self.activation)
        if kind is None or not self.fused or torch.is_grad_enabled() or not _has_kernels(x):
            y = F.conv2d(x, self._kernel(x), self.bias, self.stride, self.padding, self.dilation, self.groups)
            return self.activation(y)
        # What torch.compile emits for convolution + activation on CPUs; alone it is worth a third of the time.
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return torch.ops.mkldnn._convolution_pointwise(
            x, self._packed_kernel(x), bias, self.padding, self.stride, self.dilation, self.groups, *kind
        )

    def _kernel(self, x: Tensor) -> Tensor:
        if not self.same:
            return self.weight
        # "same" adds (ceil(n/s) − 1)·s + k − n pixels: at stride 2 and odd k that is k − 1 for odd n, k − 2 for even n.
        odd_pixel = [int(s == 2 and n % 2 == 0) for n, s in zip(x.shape[2:], self.stride, strict=True)]
        return F.pad(self.weight, (odd_pixel[1], 0, odd_pixel[0], 0)) if any(odd_pixel) else self.weight

    def _packed_kernel(self, x: Tensor) -> Tensor:
        """Return the kernel in the library's own blocked layout, which would otherwise be made anew at every call."""
        if self._packed_version != self.weight._version:  # the weights have been trained since
            self._packed, self._packed_version = {}, self.weight._version
        key = (x.dtype, x.shape[2] % 2, x.shape[3] % 2)
        if key not in self._packed:
            self._packed[key] = torch.ops.mkldnn._reorder_convolution_weight(
                self._kernel(x).detach().to(x.dtype), self.padding, self.stride, self.dilation, self.groups, None
            )
        return self._packed[key]

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy is made of: packed kernels cannot be copied, and are made again."""
        return self.__dict__ | {"_packed": {}}

    def _apply(self, *args: Any, **options: Any) -> FoldedConv:
        self._packed = {}  # the weights move or change their type
        return super()._apply(*args, **options)


def _kernel_activation(activation: nn.Module) -> tuple[str, list[float], str] | None:
    """Return oneDNN's name of an activation, None if it is not supported."""
    if isinstance(activation, nn.ReLU6):
        return "hardtanh", [0.0, 6.0], ""
    names = {nn.Identity: "none", nn.ReLU: "relu", nn.SiLU: "swish", nn.Hardswish: "hardswish"}
    name = names.get(type(activation))
    return None if name is None else (name, [], "")


def _has_kernels(x: Tensor) -> bool:
    on_cpu = x.device.type == "cpu" and torch.backends.mkldnn.is_available()
    return on_cpu and not torch.compiler.is_exporting()  # other runtimes know nothing of them


def fold_batch_norm(net: Net, *, example: Tensor) -> Net:
    """Return a copy of a net, in evaluation mode, with each batch norm folded into the convolution before it.

    Convolutions and batch norms are paired by their order in the module that holds them, which is a guess: it is tried
    on a copy with other statistics, which must give the same for `example` as before, otherwise a plain copy comes
    back. So the answer is the same for a net with new weights and with trained ones. A net without such pairs comes
    back as it is too.

    example: (batch, channels, height, width), any images the net takes.

    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> [type(module).__name__ for module in fold_batch_norm(net, example=torch.rand(1, 3, 8, 8))]
    ['FoldedConv', 'Identity', 'ReLU']
    """
    plain = copy.deepcopy(net).eval()
    tried = copy.deepcopy(plain)
    _disturb(tried)
    for fused in (True, False):
        if _same_function(_folded(tried, fused=fused), tried, example):
            return _folded(plain, fused=fused)
    return plain


def _folded(net: Net, *, fused: bool) -> Net:
    folded = copy.deepcopy(net)
    _fold_children(folded)
    for module in folded.modules():
        if isinstance(module, FoldedConv):
            module.fused = fused
    return folded


@torch.no_grad()
def _disturb(net: nn.Module) -> None:
    """Change every batch norm a little, by fixed random numbers: new ones do nothing, and would fit anywhere."""
    generator = torch.Generator().manual_seed(0)

    def noise(like: Tensor) -> Tensor:
        return torch.rand(like.shape, generator=generator).to(like) - 0.5

    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None:
            norm.running_mean.add_(noise(norm.running_mean) * norm.running_var.sqrt())
            norm.running_var.mul_(1 + noise(norm.running_var))
            if norm.affine:
                norm.bias.add_(noise(norm.bias) * norm.weight)
                norm.weight.mul_(1 + noise(norm.weight))


@torch.no_grad()
def _same_function(folded: nn.Module, plain: nn.Module, example: Tensor) -> bool:
    expected = plain(example)
    try:
        given = folded(example.contiguous(memory_format=torch.channels_last))
    except (RuntimeError, AttributeError, TypeError):  # the fused kernels are torch's own affair and may change
        return False
    error = (given - expected).abs().max() / expected.abs().max().clamp_min(1e-12)
    return given.shape == expected.shape and bool(error <= _ALLOWED_ERROR)


def _fold_children(net: nn.Module) -> None:
    for parent in list(net.modules()):
        for (conv_name, conv), (norm_name, norm) in pairwise(list(parent.named_children())):
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and _can_fold(conv, norm):
                setattr(parent, conv_name, FoldedConv(conv, norm))
                setattr(parent, norm_name, nn.Identity())


def _can_fold(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> bool:
    if norm.running_mean is None or conv.padding_mode != "zeros" or isinstance(conv.padding, str):
        return False
    if type(conv).__name__ == "Conv2dSame":
        return all(k % 2 == 1 for k in conv.kernel_size) and {*conv.stride} <= {1, 2} and {*conv.dilation} == {1}
    return type(conv) is nn.Conv2d


def accelerate(
    net: Net, *, example: Tensor, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> Net:
    """Return a copy of a net for inference on a device: folded, channels last, in bfloat16 where that is fast.

    The copy takes images of its own type and gives embeddings of it; it is for `torch.inference_mode()`.
    Within one batch shape an image's embedding does not depend on the other images.

    example: (batch, channels, height, width), see `fold_batch_norm`. dtype: None for `fast_dtype(device)`.
    """
    fast = fold_batch_norm(net, example=example.to(next(net.parameters()).device))
    dtype = fast_dtype(device) if dtype is None else dtype
    return fast.requires_grad_(False).to(device, dtype).to(memory_format=torch.channels_last)
