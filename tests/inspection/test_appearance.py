"""What pixels alone say about an image."""

import numpy as np
import pytest
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter, laplace

from smidgen.inspection.appearance import brightness, correlations, describe, sharpness, thumbnails

RNG = np.random.default_rng(0)
PHOTOS = gaussian_filter(RNG.normal(128, 400, (20, 1, 40, 40)), (0, 0, 2, 2)).clip(0, 255).astype(np.uint8)


def test_thumbnails_are_box_averages():
    images = RNG.integers(0, 256, (2, 1, 64, 96)).astype(np.uint8)
    expected = images[:, 0].reshape(2, 32, 2, 32, 3).mean((2, 4)) / 255
    assert thumbnails(images) == pytest.approx(expected, abs=1e-6)
    uneven = thumbnails(np.full((1, 3, 41, 50), 51, dtype=np.uint8))
    assert uneven.shape == (1, 32, 32)
    assert uneven == pytest.approx(0.2, abs=1e-6)


def test_shapes_are_scipys_lowest_frequencies():
    expected = dctn(thumbnails(PHOTOS), axes=(1, 2), norm="ortho")[:, :8, :8].reshape(20, 64)
    expected[:, 0] = 0
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert describe([PHOTOS]).shapes == pytest.approx(expected, abs=1e-4)


def test_sharpness_is_the_laplacians_variance_by_the_images():
    grey = brightness(PHOTOS)
    inner = np.stack([laplace(image)[1:-1, 1:-1] for image in grey])
    assert sharpness(grey) == pytest.approx(inner.var((1, 2)) / grey.var((1, 2)), rel=1e-3)
    assert sharpness(RNG.random((1, 200, 200))) == pytest.approx(20, rel=0.1)  # 4² + 4 · 1²


def test_darker_and_flatter_copies_have_the_same_hash_and_shape():
    seen = describe([PHOTOS, (PHOTOS * 0.5 + 60).astype(np.uint8)])
    differing = np.bitwise_count(seen.hashes[:20] ^ seen.hashes[20:])
    assert differing.max() <= 4
    assert (seen.shapes[:20] * seen.shapes[20:]).sum(1).min() > 0.999


def test_correlation_looks_through_a_shift_and_ranks_others_low():
    small = thumbnails(PHOTOS)
    moved = np.roll(small, (1, -1), (1, 2))
    assert correlations(small, moved).min() > 0.9999
    assert correlations(small, small[::-1]).max() < 0.9
    assert correlations(small, np.ones_like(small)).max() == 0


def test_flat_images_are_known_and_have_no_shape():
    seen = describe([np.full((1, 3, 8, 8), 7, dtype=np.uint8), np.full((1, 3, 1, 1), 7, dtype=np.uint8)])
    assert seen.flat.all()
    assert not seen.shapes.any()
    assert np.isinf(seen.sharpness).all()
    assert seen.low == pytest.approx(7 / 255)


def test_same_pixels_alone_have_the_same_digest():
    other = PHOTOS[:1].copy()
    other[0, 0, 0, 0] ^= 1
    digests = describe([PHOTOS[:1], PHOTOS[:1].copy(), other]).digests
    assert digests[0] == digests[1] != digests[2]
