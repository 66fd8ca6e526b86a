"""Copies: the same pixels, near duplicates by perceptual hashes, and look-alikes by embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from smidgen.inspection.appearance import Appearance, correlations, thumbnails
from smidgen.inspection.issues import Issue, Progress, named_progress
from smidgen.maths.hamming import pairs_within
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.scaling import unit_rows

CLOSE = 0.05
"""1 − correlation below which two images of at least 32 × 32 pixels are near duplicates, if they are also close for
this collection; in proportion to the pixels where there are fewer."""

_SHARE = 0.1  # of the distance to the 30th neighbour among 1,000: closer is close. 30, as copies may be several
_REFERENCE, _PLACE = 1000, 30
_SURE = 0.005  # 1 − correlation that is close in any collection: one form scanned a hundred times
_RADIUS, _CANDIDATES = 10, 10.0  # largest Hamming distance looked at; others per image above which it shrinks
_ALIKE = 0.75  # correlation of the lowest frequencies below which no closer look is taken
_MOST = 16  # of images with one hash, each is compared with so many
_PAIRS = 4096  # compared at once
_PIXELS = 32 * 32  # of thumbnails


def find_copies(parts: Sequence[np.ndarray], seen: Appearance, progress: Progress | None) -> list[Issue]:
    """Return duplicates and near duplicates, which share their groups."""
    _, first, same_as, counts = np.unique(seen.digests, return_index=True, return_inverse=True, return_counts=True)
    kept = np.sort(first)  # of the same images, the first stands for all
    pairs = kept[_candidates(seen, kept, progress)]
    scores = np.concatenate([np.zeros(0, np.float32), *_compared(parts, pairs)])
    n_pixels = parts[0].shape[2] * parts[0].shape[3]
    near = CLOSE * min(1, n_pixels / _PIXELS)  # few pixels agree by chance
    close = 1 - scores < np.minimum(near, np.maximum(_SURE, _SHARE * _distances(seen.shapes, pairs)))
    pairs, scores = pairs[close], scores[close]
    best = np.zeros(len(same_as), dtype=np.float32)
    for side in range(2):
        np.maximum.at(best, pairs[:, side], scores)
    copied = counts[same_as] > 1
    links = np.concatenate([pairs, np.stack([first[same_as], np.arange(len(same_as))], axis=1)])
    groups = _groups(len(same_as), links)
    best[copied] = 1
    return [
        Issue(int(row), "duplicate" if copied[row] else "near_duplicate", float(best[row]), int(groups[row]))
        for row in np.flatnonzero(best > 0)
    ]


def _candidates(seen: Appearance, kept: np.ndarray, progress: Progress | None) -> np.ndarray:
    """Return the pairs (pairs, 2), as places in `kept`, worth a closer look: similar hashes or similar sketches."""
    shapes = seen.shapes[kept]
    by_shape = _similar(seen.hashes[kept], ~seen.flat[kept], progress)
    alike = [np.einsum("pf,pf->p", *shapes[block.T]) > _ALIKE for block in _in_blocks(by_shape)]
    by_shape = by_shape[np.concatenate([np.zeros(0, dtype=bool), *alike])]
    return np.unique(np.concatenate([by_shape, _similar(seen.sketches[kept], ~seen.blank[kept], progress)]), axis=0)


def _similar(hashes: np.ndarray, chosen: np.ndarray, progress: Progress | None) -> np.ndarray:
    """Return the pairs of chosen rows (pairs, 2), first < second, whose hashes differ in few bits."""
    rows = np.flatnonzero(chosen)
    rows = rows[np.argsort(hashes[rows], kind="stable")]
    distinct, starts, counts = np.unique(hashes[rows], return_index=True, return_counts=True)
    within = [
        np.stack([rows[: len(rows) - step], rows[step:]], axis=1)[_same(hashes[rows], step)]
        for step in range(1, min(_MOST, int(counts.max(initial=1)) - 1) + 1)
    ]
    across = starts[pairs_within(distinct, _radius(distinct), progress=named_progress(progress, "find copies"))]
    return np.sort(np.concatenate([np.zeros((0, 2), dtype=np.int64), *within, rows[across]]), axis=1)


def _same(hashes: np.ndarray, step: int) -> np.ndarray:
    return hashes[:-step] == hashes[step:]


def _radius(hashes: np.ndarray) -> int:
    """Return the Hamming distance to look at: less than the largest where images have too many such others."""
    sample = np.random.default_rng(0).permutation(len(hashes))[:200]
    for radius in range(_RADIUS, 0, -2):  # distances of perceptual hashes are even: they have as many bits set
        others = [int((np.bitwise_count(hashes ^ hashes[row]) <= radius).sum()) - 1 for row in sample]
        if sum(others) <= _CANDIDATES * len(sample):
            return radius
    return 0


def _compared(parts: Sequence[np.ndarray], pairs: np.ndarray) -> Iterator[np.ndarray]:
    """Yield the correlations of pairs of images, block by block."""
    for block in _in_blocks(pairs):
        rows, places = np.unique(block, return_inverse=True)
        small = thumbnails(_images_of(parts, rows))
        first, second = places.reshape(block.shape).T
        yield correlations(small[first], small[second])


def _in_blocks(pairs: np.ndarray) -> Iterator[np.ndarray]:
    return (pairs[start : start + _PAIRS] for start in range(0, len(pairs), _PAIRS))


def _images_of(parts: Sequence[np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Return the images at sorted rows that count through the parts."""
    ends = np.cumsum([len(part) for part in parts])
    found = np.split(rows, np.searchsorted(rows, ends[:-1]))
    return np.concatenate([part[own - (end - len(part))] for part, own, end in zip(parts, found, ends, strict=True)])


def _distances(unit: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return 1 − cosine (pairs,) from the more crowded image of each pair to its 30th neighbour among a thousand.

    unit: (n, features), rows of length one. Of few images, it is the one half-way; of two there is none.
    """
    others = unit[np.random.default_rng(0).permutation(len(unit))[:_REFERENCE]]
    place = min(_PLACE, max(2, len(others) // 2))
    if place >= len(others):
        return np.full(len(pairs), np.inf)
    rows, places = np.unique(pairs, return_inverse=True)
    blocks = [
        np.partition(1 - unit[rows[start : start + _PAIRS]] @ others.T, place, axis=1)[:, place]
        for start in range(0, len(rows), _PAIRS)
    ]
    return np.concatenate([np.zeros(0), *blocks])[places.reshape(pairs.shape)].min(axis=1)


def _groups(n: int, links: np.ndarray) -> np.ndarray:
    """Return the group (n,) of each image: a number for each set of two or more linked ones, in order, else -1."""
    weights = np.ones(len(links), dtype=np.int8)
    labels = connected_components(coo_matrix((weights, (links[:, 0], links[:, 1])), (n, n)), directed=False)[1]
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    numbers = np.full(len(first), -1)
    several = np.flatnonzero(counts > 1)
    numbers[several[np.argsort(first[several])]] = np.arange(len(several))
    return numbers[inverse]


def find_look_alikes(embeddings: np.ndarray, digests: np.ndarray) -> list[Issue]:
    """Return images whose embedding all but coincides with another's; of the same images, the first stands for all."""
    kept = np.sort(np.unique(digests, return_index=True)[1])
    if len(kept) < 3:
        return []
    unit_kept = unit_rows(torch.from_numpy(embeddings[kept])).float()
    unit = unit_kept.numpy()
    indices, distances = nearest_neighbours(unit_kept, 1, metric="cosine")
    pairs = np.stack([np.arange(len(kept)), indices[:, 0].numpy()], axis=1)
    distance = distances[:, 0].numpy()
    close = distance < np.minimum(CLOSE, _SHARE * _distances(unit, pairs))  # no `_SURE`: a net may make all alike
    groups = _groups(len(kept), pairs[close])
    score = dict(zip(np.flatnonzero(close).tolist(), (1 - distance[close]).tolist(), strict=True))
    for row, other in pairs[close].tolist():  # the other may have a nearer one, or none near enough for itself
        score[other] = max(score.get(other, 0.0), score[row])
    return [Issue(int(kept[row]), "look_alike", score[row], int(groups[row])) for row in sorted(score)]
