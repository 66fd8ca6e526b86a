"""Contents of an image before scaling and resizing: smallest and largest value, and a digest of all values."""

from __future__ import annotations

import hashlib

import numpy as np

from smidgen.data.deep import deep_pixels
from smidgen.data.flat import as_pixels, channels_last, flat_deep
from smidgen.data.images import Source, check_pixels, flat_image, opened, quiet_pillow
from smidgen.data.values import OPEN


def extent_of(source: Source) -> tuple[str, float, float] | None:
    """Return kind, least and largest value of an image of more than 8 bits, None for one of 8 bits.

    Of most files nothing but the header is read. Raises BadImage; call it inside `quiet_pillow`.
    """
    if isinstance(source, np.ndarray):
        flat = flat_image(source)
    else:
        with opened(source) as image:
            check_pixels(*image.size)
            deep = deep_pixels(image, source)
            if deep is None:
                return None
            flat = flat_deep(deep, OPEN)
    return None if flat.kind == "eight_bits" else (flat.kind, flat.low, flat.high)


def content_of(source: Source) -> bytes:
    """Return a digest of all that an image's pixels hold, in full size and depth; the same for the same pictures.

    Raises BadImage.
    """
    if isinstance(source, np.ndarray):
        return digest_of(channels_last(source))
    with quiet_pillow(), opened(source) as image:
        check_pixels(*image.size)
        if (deep := deep_pixels(image, source)) is None:
            return digest_of(as_pixels(flat_image(source).image, channels=None).transpose(1, 2, 0))
        return digest_of(deep.values if deep.opacity is None else np.dstack([deep.values, deep.opacity]))


def digest_of(values: np.ndarray) -> bytes:
    """Return a digest of the values (h, w) or (h, w, channels) of one image; grey in three channels is grey."""
    if values.ndim == 3 and (values == values[..., :1]).all():
        values = values[..., 0]
    digest = hashlib.blake2b(repr(values.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(values, dtype=np.float64).data)
    return digest.digest()
