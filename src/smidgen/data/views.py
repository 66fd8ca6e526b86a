"""Views: random transforms of a whole batch of images, drawn from a generator that the caller seeds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.shapes import Shape, is_vector
from smidgen.errors import ContractError, InputError
from smidgen.hardware import to_device

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601 luma


@dataclass(frozen=True)
class View:
    """How strongly a view may change an image; every image of a batch draws its own transform.

    Geometry, drawn uniformly and applied as one affine map: rotate (± degrees), scale (± share of the size), shear
    (± tangent), shift (± share of the side), flip (mirror left and right with probability 1/2), crop and crop_most
    (smallest and largest share of the area that a random crop keeps; crop 1 keeps all). Strokes: thickness (up to this
    share of the way to the brightest or the darkest of each 3×3 neighbourhood). Colour: brightness and contrast
    (± share), saturation (± share, colour images only), grey (probability of losing all colour). Damage: blur (largest
    deviation of a Gaussian, in pixels), impulse (largest share of pixels that become black or white), erase (largest
    side of a square that becomes mean grey, as a share of the image's). size: side of the result in pixels, None for
    that of the image. padding: what lies outside the image.
    """

    rotate: float = 0.0
    scale: float = 0.0
    shear: float = 0.0
    shift: float = 0.0
    flip: bool = False
    crop: float = 1.0
    crop_most: float = 1.0
    thickness: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    grey: float = 0.0
    blur: float = 0.0
    impulse: float = 0.0
    erase: float = 0.0
    size: int | None = None
    padding: Literal["zeros", "border", "reflection"] = "zeros"

    def __post_init__(self) -> None:
        for name in ("rotate", "scale", "shear", "shift", "thickness", "brightness", "contrast", "saturation", "blur"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"A view's `{name}` must be 0 or above, got {getattr(self, name)}.")
        for name in ("impulse", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"A view's `{name}` is a share, from 0 to 1, got {getattr(self, name)}.")
        if self.scale >= 1:
            raise InputError(f"A view's `scale` is a share of the size, below 1, got {self.scale}.")
        if not 0 <= self.grey <= 1:
            raise InputError(f"A view's `grey` is a probability, got {self.grey}.")
        if self.size is not None and self.size < 1:
            raise InputError(f"A view's `size` is a side in pixels, at least 1, got {self.size}.")
        if not 0 < self.crop <= 1:
            raise InputError(f"A view's `crop` is the smallest share of the area kept, in (0, 1], got {self.crop}.")
        if not self.crop <= self.crop_most <= 1:
            raise InputError(
                f"A view's `crop_most` is the largest share of the area kept, from `crop` ({self.crop}) to 1, got"
                f" {self.crop_most}."
            )


def weak_and_strong(shape: Shape) -> tuple[View | None, View | None]:
    """Return the weak and the strong view: strokes for grey images, which may be writing; photographs for colour.

    Vectors have none.
    """
    if is_vector(shape):
        return None, None
    if shape[0] == 1:
        return (
            View(rotate=10, scale=0.15, shear=0.2, shift=0.1),
            View(rotate=20, scale=0.25, shear=0.35, shift=0.1, thickness=0.7),
        )
    weak = View(flip=True, crop=0.6, shift=0.05, brightness=0.2, contrast=0.2, padding="reflection")
    strong = View(flip=True, crop=0.3, rotate=15, brightness=0.4, contrast=0.4, saturation=0.4, grey=0.2,
                  padding="reflection")  # fmt: skip
    return weak, strong


def apply_view(view: View, images: Tensor, *, generator: torch.Generator) -> Tensor:
    """Return one random view of each image.

    images: (batch, channels, height, width) floats in [0, 1], on any device; the result has the same type and range.
    generator: a CPU generator; the draws are the same whatever the device of the images.
    Raises ContractError for vectors, which have no views.

    >>> images = torch.rand(4, 1, 28, 28)
    >>> apply_view(View(rotate=10), images, generator=torch.Generator().manual_seed(0)).shape
    torch.Size([4, 1, 28, 28])
    """
    if images.ndim != 4:
        raise ContractError("Vectors have no views: give their Request none where `problem.holds_vectors`.")
    matrices = _affine_matrices(view, len(images), generator)
    if matrices is not None or view.size is not None:
        images = _warp(images, matrices, view)
    images = _recolour(view, _thicken(view, images, generator), generator)
    return _erase(view, _add_impulses(view, _blur(view, images, generator), generator), generator)


def _affine_matrices(view: View, n: int, generator: torch.Generator) -> Tensor | None:
    """Return (n, 2, 3) maps from output to input coordinates in [-1, 1], or None where nothing moves."""
    if not any((view.rotate, view.scale, view.shear, view.shift, view.flip, view.crop < 1)):
        return None
    r = torch.rand(n, 8, generator=generator) * 2 - 1  # one fixed row of draws, so that options do not shift each other
    angle, shear = r[:, 0] * math.radians(view.rotate), r[:, 2] * view.shear
    zoom = 1 + r[:, 1] * view.scale
    rotation = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], 1).view(n, 2, 2)
    shearing = torch.eye(2).repeat(n, 1, 1)
    shearing[:, 0, 1] = shear
    linear = rotation @ shearing / zoom.view(n, 1, 1)
    shift = 2 * view.shift * r[:, 3:5]  # the coordinates span 2
    if view.crop < 1:
        side = torch.sqrt(view.crop + (view.crop_most - view.crop) * (r[:, 5] + 1) / 2)
        linear = linear * side.view(n, 1, 1)
        shift = shift + (1 - side).unsqueeze(1) * r[:, 6:8]
    if view.flip:
        mirror = torch.where(torch.rand(n, generator=generator) < 0.5, -1.0, 1.0)
        linear = linear * torch.stack([mirror, torch.ones(n)], 1).unsqueeze(1)
    return torch.cat([linear, shift.unsqueeze(2)], 2)


def _warp(images: Tensor, matrices: Tensor | None, view: View) -> Tensor:
    n, channels, height, width = images.shape
    if view.size is not None:
        height = width = view.size
    if matrices is None:
        return F.interpolate(images, size=(height, width), mode="bilinear", antialias=True, align_corners=False)
    grid = F.affine_grid(
        to_device(matrices, images.device, images.dtype), [n, channels, height, width], align_corners=False
    )
    return F.grid_sample(images, grid, padding_mode=view.padding, align_corners=False)


def _thicken(view: View, images: Tensor, generator: torch.Generator) -> Tensor:
    if not view.thickness:
        return images
    draws = torch.rand(len(images), 1, 1, 1, generator=generator)
    amount = view.thickness * (2 * to_device(draws, images.device, images.dtype) - 1)
    brightest, darkest = F.max_pool2d(images, 3, 1, 1), -F.max_pool2d(-images, 3, 1, 1)
    return torch.lerp(images, torch.where(amount > 0, brightest, darkest), amount.abs())


def _recolour(view: View, images: Tensor, generator: torch.Generator) -> Tensor:
    if not any((view.brightness, view.contrast, view.saturation, view.grey)):
        return images
    n, channels = images.shape[:2]
    r = to_device(torch.rand(n, 4, generator=generator), images.device, images.dtype)
    factors = [
        (1 + strength * (2 * r[:, i] - 1)).view(n, 1, 1, 1)
        for i, strength in enumerate((view.brightness, view.contrast, view.saturation))
    ]
    images = images * factors[0]
    if view.contrast:
        images = torch.lerp(images.mean((1, 2, 3), keepdim=True), images, factors[1])
    if channels == 3 and (view.saturation or view.grey):
        grey = torch.einsum(
            "bchw,c->bhw", images, to_device(torch.tensor(_GREY), images.device, images.dtype)
        ).unsqueeze(1)
        keep = torch.where(r[:, 3] < view.grey, 0.0, 1.0).view(n, 1, 1, 1)
        images = torch.lerp(grey, images, factors[2] * keep)
    return images.clamp(0, 1)


def _blur(view: View, images: Tensor, generator: torch.Generator) -> Tensor:
    """Blur each image by a Gaussian of its own deviation, from 0 to `view.blur` pixels."""
    if not view.blur:
        return images
    n, channels, height, width = images.shape
    sigma = view.blur * torch.rand(n, 1, generator=generator)
    reach = max(1, math.ceil(2 * view.blur))
    places = torch.arange(-reach, reach + 1)
    window = (-places.square() / (2 * sigma.square().clamp_min(1e-4))).exp()
    window = to_device(window / window.sum(1, keepdim=True), images.device, images.dtype)  # (n, places)
    window = window.repeat_interleave(channels, 0).unsqueeze(1)
    for kernel, pad in ((window.unsqueeze(3), (0, 0, reach, reach)), (window.unsqueeze(2), (reach, reach, 0, 0))):
        padded = F.pad(images.reshape(1, n * channels, height, width), pad, mode="replicate")
        images = F.conv2d(padded, kernel, groups=n * channels)
    return images.view(n, channels, height, width)


def _add_impulses(view: View, images: Tensor, generator: torch.Generator) -> Tensor:
    """Make pixels black or white, in each image a share of its own, from 0 to `view.impulse` of them."""
    if not view.impulse:
        return images
    n, _, height, width = images.shape
    share = view.impulse * torch.rand(n, 1, 1, 1, generator=generator) / 2
    draws = torch.rand(n, 1, height, width, generator=generator)
    kept = to_device(((draws >= share) & (draws <= 1 - share)).float(), images.device, images.dtype)
    white = to_device((draws > 1 - share).float(), images.device, images.dtype)
    return images * kept + white


def _erase(view: View, images: Tensor, generator: torch.Generator) -> Tensor:
    """Make a square of each image as grey as the image is on average (DeVries & Taylor 2017, "cutout")."""
    if not view.erase:
        return images
    n, _, height, width = images.shape
    r = torch.rand(n, 3, generator=generator)
    half = view.erase * r[:, :1] / 2
    down, across = ((torch.arange(side) + 0.5) / side for side in (height, width))
    in_rows, in_columns = ((place - r[:, i : i + 1]).abs() < half for i, place in ((1, down), (2, across)))
    inside = (in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).unsqueeze(1).float()
    return torch.lerp(images, images.mean((2, 3), keepdim=True), to_device(inside, images.device, images.dtype))
