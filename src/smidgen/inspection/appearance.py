"""Properties of an image's pixels: light, contrast, sharpness, and a perceptual hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

SHIFT = 1
"""How far, in pixels of a thumbnail, two images may be moved against each other and still be compared as one."""

_SIDE = 32  # of thumbnails
_FREQUENCIES = 8  # per axis: those of a perceptual hash
_BLOCK = 512  # images at once: their floats stay in the processor's cache
_FLAT = 2 / 255  # an image whose coarse brightness varies less shows nothing that a fingerprint could hold
_BLANK = 0.6 / 255  # the same of a thumbnail, less than rounding to whole grey levels alone makes it vary
_NOISE = 1e-4  # variance of brightness below which a ratio to it means nothing; (2.5 grey levels)²


@dataclass(frozen=True, eq=False)
class Appearance:
    """Appearance of n images. Brightness is ITU-R 601-2 luma in [0, 1].

    digests: (n,) uint64, the same for the same pixels; for other pixels the same once in 2^64 pairs.
    hashes: (n,) uint64, the perceptual hash: which of the 64 lowest frequencies are above their median.
    shapes: (n, 64) float32, those frequencies at length one, without the mean; zero where `flat`.
    flat: (n,) bool, whether these frequencies show next to nothing.
    sketches: (n,) uint64, on which side of 64 random planes the whole thumbnail lies (SimHash: Charikar, STOC 2002):
        it also knows a finely repeated pattern, in which the lowest frequencies see nothing.
    blank: (n,) bool, whether the whole thumbnail shows next to nothing.
    low, high: (n,) float32, the brightness that 1 % of the pixels stay below, and above.
    sharpness: (n,) float32, variance of the Laplacian by variance of the brightness: 20 for noise, about 1 for
        sharp photographs of 32 pixels, 0.1 for those blurred by one pixel; infinite for images of one brightness.
    """

    digests: np.ndarray
    hashes: np.ndarray
    shapes: np.ndarray
    flat: np.ndarray
    sketches: np.ndarray
    blank: np.ndarray
    low: np.ndarray
    high: np.ndarray
    sharpness: np.ndarray


def describe(parts: Sequence[np.ndarray], *, progress: Callable[[int, int], None] | None = None) -> Appearance:
    """Return the appearance of images, computed part by part.

    parts: arrays (n, channels, height, width) uint8, in memory or mapped; read once, in blocks.
    progress: called with (done, total).
    """
    total, done = sum(map(len, parts)), 0
    columns: dict[str, list[np.ndarray]] = {name: [] for name in Appearance.__dataclass_fields__}
    for images in _blocks(parts):
        for name, values in _described(images).items():
            columns[name].append(values)
        done += len(images)
        if progress is not None:
            progress(done, total)
    return Appearance(**{name: np.concatenate(values) for name, values in columns.items()})


def _blocks(parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    for images in parts:
        for start in range(0, max(len(images), 1), _BLOCK):  # once for no images, for the shapes
            yield images[start : start + _BLOCK]


def _described(images: np.ndarray) -> dict[str, np.ndarray]:
    grey = brightness(images)
    small = thumbnails(images)
    shapes, flat = _shapes(small)
    sketches, blank = _sketches(small)
    low, high = np.percentile(grey.reshape(len(grey), -1), (1, 99), axis=1).astype(np.float32)
    return {
        "digests": np.frombuffer(b"".join(map(_digest, images)), dtype=np.uint64),
        "hashes": _hashes(shapes),
        "shapes": shapes,
        "flat": flat,
        "sketches": sketches,
        "blank": blank,
        "low": low,
        "high": high,
        "sharpness": sharpness(grey),
    }


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(image.tobytes(), digest_size=8).digest()


def brightness(images: np.ndarray) -> np.ndarray:
    """Return the brightness (n, height, width) float32 in [0, 1] of images (n, channels, height, width) uint8."""
    if images.shape[1] == 1:
        return images[:, 0].astype(np.float32) / 255
    red, green, blue = (images[:, channel].astype(np.float32) for channel in range(3))
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255


def sharpness(grey: np.ndarray) -> np.ndarray:
    """Return variance of the Laplacian by variance (n,) float32 of brightness (n, height, width), see `Appearance`.

    The variance of the Laplacian (Pech-Pacheco et al., ICPR 2000) grows with contrast; the ratio does not.
    """
    if min(grey.shape[1:]) < 3:
        return np.full(len(grey), np.inf, dtype=np.float32)
    inner = grey[:, 1:-1, 1:-1]
    around = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:]
    variance = grey.var(axis=(1, 2))
    ratio = (around - 4 * inner).var(axis=(1, 2)) / np.maximum(variance, _NOISE)
    return np.where(variance < _NOISE, np.inf, ratio).astype(np.float32)


def thumbnails(images: np.ndarray) -> np.ndarray:
    """Return the brightness of small copies (n, side, side) float32 in [0, 1]: box averages, at most 32 pixels a side.

    images: (n, channels, height, width) uint8; smaller ones keep their size.
    """
    grey = brightness(images)
    rows, columns = (_averaging(length, min(length, _SIDE)) for length in grey.shape[1:])
    return rows @ grey @ columns.T


def _averaging(length: int, side: int) -> np.ndarray:
    """Return the matrix (side, length) that averages over `side` equal stretches; rows sum to one."""
    edges = np.arange(side + 1) * (length / side)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (overlap.clip(0) * side / length).astype(np.float32)


def _shapes(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest frequencies (n, 64) of thumbnails at length one, and which images are flat (n,)."""
    rows, columns = (_cosines(length) for length in small.shape[1:])
    waves = rows @ small @ columns.T
    square = np.zeros((len(small), _FREQUENCIES, _FREQUENCIES), dtype=np.float32)
    square[:, : waves.shape[1], : waves.shape[2]] = waves
    shapes = square.reshape(len(small), -1)
    shapes[:, 0] = 0  # the mean: a darker copy is a copy
    length = np.linalg.norm(shapes, axis=1)
    flat = length < _FLAT * np.sqrt(small[0].size if len(small) else 1)  # an orthonormal basis: length = n × deviation
    return np.where(flat[:, None], 0, shapes / np.maximum(length, 1e-12)[:, None]), flat


def _cosines(length: int) -> np.ndarray:
    """Return the first rows (≤ 8, length) of the orthonormal discrete cosine transform (DCT-II)."""
    k, x = np.arange(min(_FREQUENCIES, length))[:, None], np.arange(length)
    basis = np.cos(np.pi * k * (2 * x + 1) / (2 * length)) * np.sqrt(2 / length)
    basis[0] /= np.sqrt(2)
    return basis.astype(np.float32)


def _hashes(shapes: np.ndarray) -> np.ndarray:
    """Return perceptual hashes (n,) uint64: each frequency's bit says whether it is above their median (pHash)."""
    bits = shapes > np.median(shapes, axis=1, keepdims=True)
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0]


def _sketches(small: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sketches (n,) uint64 of thumbnails, and which of these are blank (n,)."""
    pixels = small.reshape(len(small), -1)
    centred = pixels - pixels.mean(axis=1, keepdims=True)
    planes = np.random.default_rng(0).normal(size=(pixels.shape[1], 64)).astype(np.float32)
    bits = centred @ planes > 0
    return np.packbits(bits, axis=1).view(np.uint64)[:, 0], centred.std(axis=1) < _BLANK


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return how alike pairs of thumbnails are, (pairs,) float32 in [-1, 1]: their correlation at the best shift.

    first, second: (pairs, height, width), as `thumbnails` gives them. The middle of the first is laid over the second
    at every shift of up to `SHIFT` pixels. A darker copy, or one with less contrast, has 1; flat images have 0.
    """
    height, width = first.shape[1:]
    margin = SHIFT if min(height, width) > 4 * SHIFT else 0
    inside = height - 2 * margin, width - 2 * margin
    middle = _standardised(first[:, margin : margin + inside[0], margin : margin + inside[1]])
    best = np.full(len(first), -1, dtype=np.float32)
    for dy in range(2 * margin + 1):
        for dx in range(2 * margin + 1):
            moved = second[:, dy : dy + inside[0], dx : dx + inside[1]]
            spread = np.sqrt(np.maximum(moved.var(axis=(1, 2)) * moved[0].size, 0)) if len(moved) else best
            products = np.einsum("pyx,pyx->p", middle, moved)  # the mean drops out: the middle sums to zero
            np.maximum(best, np.where(spread > 1e-6, products / np.maximum(spread, 1e-6), 0), out=best)
    return best


def _standardised(images: np.ndarray) -> np.ndarray:
    centred = images - images.mean(axis=(1, 2), keepdims=True)
    length = np.sqrt((centred**2).sum(axis=(1, 2), keepdims=True))
    return np.where(length > 1e-6, centred / np.maximum(length, 1e-6), 0)
