"""What one row of a data set is: an image, or a vector such as a ready embedding; the number of axes tells which."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

from smidgen.errors import InputError

if TYPE_CHECKING:
    from typing_extensions import TypeIs

ImageShape = tuple[int, int, int]
"""(channels, height, width)."""

VectorShape = tuple[int]
"""(features,)."""

Shape = ImageShape | VectorShape
"""Of one row. An image of a single pixel is (channels, 1, 1), and no vector."""


def is_vector(shape: tuple[int, ...]) -> TypeIs[VectorShape]:
    """Return whether a shape is that of a vector.

    >>> is_vector((512,)), is_vector((3, 1, 1))
    (True, False)
    """
    return len(shape) == 1


def shape_of_rows(rows: np.ndarray) -> Shape:
    """Return the shape of each row of images (n, channels, height, width) or vectors (n, features).

    Raises InputError for an array with another number of axes.
    """
    shape = tuple(map(int, rows.shape))
    if len(shape) not in (2, 4):
        raise InputError(f"Rows must be images (n, channels, height, width) or vectors (n, features), got {shape}.")
    return cast(Shape, shape[1:])


def image_shape(shape: Shape) -> ImageShape:
    """Return the shape of an image as it is; raises InputError for that of a vector."""
    if is_vector(shape):
        raise InputError(
            f"This method works on images, and the data are vectors of {shape[0]:,} features: give images, or take"
            " another method."
        )
    return shape
