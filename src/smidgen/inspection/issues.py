"""Images of a collection that deserve a look: copies, strangers, and pictures too blurred, dark or flat to be seen.

Nothing here is proof: thresholds are chosen so that few good images are named (see `KINDS`), scores say how clear a
case is, and the worst come first.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from smidgen.errors import InputError
from smidgen.inspection.appearance import Appearance, correlations, describe, thumbnails
from smidgen.maths.hamming import pairs_within

KINDS: dict[str, str] = {
    "duplicate": "the same pixels as another image",
    "near_duplicate": "another image slightly changed: recompressed, resized, darkened or moved a little",
    "look_alike": "an embedding next to another image's",
    "outlier": "much farther from the images nearest to it than these are from theirs",
    "odd_size": "more than twice, or less than half, the usual size or the usual proportion of its sides",
    "blurred": "much less sharp than the others",
    "dark": "next to no light in it",
    "bright": "next to nothing but white in it",
    "low_contrast": "next to nothing to see in it",
}
"""Kind of issue → what it means, in the order in which they are listed."""

CLOSE = 0.05
"""1 − correlation below which two images of at least 32 × 32 pixels are near duplicates, if they are also close for
this collection; in proportion to the pixels where there are fewer."""

UNUSUAL = 3.5
"""Robust standard deviations beyond which a value is an outlier (Iglewicz & Hoaglin, 1993)."""

SPARSE = 1.5
"""How many times as far an outlier's neighbours are as is usual around it."""

DARK, BRIGHT, FLAT, BLURRED = 0.2, 0.8, 0.1, 0.5
"""Brightness that 99 % of a dark image's pixels stay below, and 99 % of a bright one's above; the range that 98 % of
a flat one's lie in; the sharpness that a blurred one stays below."""

_SHARE = 0.1  # of the distance to the 30th neighbour among 1,000: closer is close. 30, as copies may be several
_REFERENCE, _PLACE = 1000, 30
_SURE = 0.005  # 1 − correlation that is close in any collection: one form scanned a hundred times
_RADIUS, _CANDIDATES = 10, 10.0  # largest Hamming distance looked at; others per image above which it shrinks
_ALIKE = 0.75  # correlation of the lowest frequencies below which no closer look is taken
_MOST = 16  # of images with one hash, each is compared with so many
_NEIGHBOURS, _LEAST_NEIGHBOURS, _OTHERS = 10, 5, 10_000  # neighbours an outlier is judged by, among so many images
_PAIRS = 4096  # compared at once
_PIXELS = 32 * 32  # of thumbnails

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Issue:
    """One thing about one image.

    row: the image. kind: a name in `KINDS`.
    score: duplicates 1; near duplicates the correlation, and look-alikes the cosine, with their closest other; outliers
        the local outlier factor; odd sizes the factor, at least 1; blurred images the sharpness; dark and bright
        ones the brightness, flat ones the range of brightness, in [0, 1].
    group: images with one number are copies of each other; None for the other kinds.
    """

    row: int
    kind: str
    score: float
    group: int | None = None


def find_issues(
    parts: Sequence[np.ndarray],
    *,
    embeddings: np.ndarray | None = None,
    look_alikes: bool = False,
    sizes: np.ndarray | None = None,
    content: Callable[[int], bytes] | None = None,
    progress: Progress | None = None,
) -> list[Issue]:
    """Return what deserves a look, by kind in the order of `KINDS`, the worst first.

    - Duplicates have the same pixels, and the same `content` where that is given: what was scaled away counts too.
      Near duplicates have perceptual hashes of 64 bits that differ in at most 10
      (fewer where images have more than 10 such others on average) and, as thumbnails of 32 pixels shifted by at most
      one, 1 − correlation below `CLOSE`, and below 0.005 or a tenth of the distance from either image to its 30th
      neighbour among a thousand drawn at random: plain digits resemble each other more than photographs do. Mirror
      images, turned and cropped copies are not found, nor copies of flat images.
    - Look-alikes, if asked for: 1 − cosine of embeddings below `CLOSE` and below the same tenth. Meant for a frozen
      encoder's; a net that was trained to put a cluster's images in one place makes them alike.
    - Outliers: by a local outlier factor (after Breunig et al., SIGMOD 2000; see `local_outlier_factors`), which
      compares how far 10 neighbours are (fewer of less than 100 images), among at most 10,000 others drawn at random,
      with how far those of the images around it are. It is above `SPARSE`, its logarithm more than `UNUSUAL` robust
      deviations above the median, and the last neighbour farther than usual: a burst has no outliers inside. Without
      embeddings, the lowest frequencies of the brightness stand for them, which tells strangers among drawings but
      hardly among photographs.
    - Blurred: sharpness (`appearance.Appearance`) below `BLURRED` and unusually low. Seen in the images as they are
      here: blur that vanishes when a photograph is made small is not found, and does no harm then.
    - Dark, bright, low contrast: see `DARK`. Odd sizes: area's root, or long by short side, by the medians.

    A kind of these last that holds for more than half of the images is the collection's way, and left out.

    parts: arrays (n, channels, height, width) uint8, whose images count through. embeddings: (n, features), one row for
    each; ignored if not finite. sizes: (n, 2), width and height of the original files, 0 where unknown.
    content: returns a digest of all that the image of a row held before it was scaled and resized; asked for images
    that have the same pixels here. progress: called with (what, done, total).

    The hashes take 4 s for 100,000 images and 23 s for 300,000, twice (`maths.hamming`); all else grows with n
    (look-alikes: n² · features). Raises InputError if lengths disagree.

    >>> images = np.random.default_rng(0).integers(0, 256, (20, 1, 16, 16)).astype(np.uint8)
    >>> [(issue.row, issue.kind, issue.group) for issue in find_issues([images, images[3:4]])]
    [(3, 'duplicate', 0), (20, 'duplicate', 0)]
    """
    n = sum(map(len, parts))
    for name, rows in (("embeddings", embeddings), ("sizes", sizes)):
        if rows is not None and len(rows) != n:
            raise InputError(f"`{name}` must have a row for each of the {n} images, got {len(rows)}.")
    if n == 0:
        return []
    seen = describe(parts, progress=_named(progress, "look"))
    if content is not None:
        seen = dataclasses.replace(seen, digests=_told_apart(seen.digests, content))
    finite = embeddings is not None and embeddings.size > 0 and bool(np.isfinite(embeddings).all())
    issues = _copies(parts, seen, progress)
    if embeddings is not None and finite and look_alikes:
        issues += _look_alikes(embeddings, seen.digests)
    issues += _outliers(embeddings if embeddings is not None and finite else seen.shapes)
    issues += [] if sizes is None else _odd_sizes(sizes)
    issues += _poor(seen)
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(issues, key=lambda issue: (order[issue.kind], -1 if issue.group is None else issue.group))


def issue_columns(issues: Sequence[Issue], ids: Sequence[str], splits: Sequence[str]) -> dict[str, list[object]]:
    """Return the columns image, split, kind, score and group of a table; ids and splits of all images, (n,)."""
    return {
        "image": [str(ids[issue.row]) for issue in issues],
        "split": [splits[issue.row] for issue in issues],
        "kind": [issue.kind for issue in issues],
        "score": [f"{issue.score:.4g}" for issue in issues],
        "group": ["" if issue.group is None else issue.group for issue in issues],
    }


def _told_apart(digests: np.ndarray, content: Callable[[int], bytes]) -> np.ndarray:
    """Return digests (n,) that differ for images with other contents too."""
    _, same_as, counts = np.unique(digests, return_inverse=True, return_counts=True)
    result = digests.copy()
    for row in np.flatnonzero(counts[same_as] > 1).tolist():
        both = digests[row].tobytes() + content(row)
        result[row] = int.from_bytes(hashlib.blake2b(both, digest_size=8).digest(), "little")
    return result


def robust_deviations(values: np.ndarray, *, least: float = 1e-9) -> np.ndarray:
    """Return (x − median) / (1.4826 · median of |x − median|), which for normal values are standard deviations.

    least: the smallest deviation divided by, for values most of which are the same.

    >>> robust_deviations(np.array([1.0, 2.0, 3.0, 100.0])).round(1).tolist()
    [-1.0, -0.3, 0.3, 65.8]
    """
    centred = values - np.median(values)
    return centred / max(1.4826 * float(np.median(np.abs(centred))), least)


def _named(progress: Progress | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)


# ------------------------------------------------------------------------------------------------------------- copies


def _copies(parts: Sequence[np.ndarray], seen: Appearance, progress: Progress | None) -> list[Issue]:
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
    across = starts[pairs_within(distinct, _radius(distinct), progress=_named(progress, "find copies"))]
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
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    weights = np.ones(len(links), dtype=np.int8)
    labels = connected_components(coo_matrix((weights, (links[:, 0], links[:, 1])), (n, n)), directed=False)[1]
    _, first, inverse, counts = np.unique(labels, return_index=True, return_inverse=True, return_counts=True)
    numbers = np.full(len(first), -1)
    several = np.flatnonzero(counts > 1)
    numbers[several[np.argsort(first[several])]] = np.arange(len(several))
    return numbers[inverse]


# ------------------------------------------------------------------------------------------------------ by embeddings


def _look_alikes(embeddings: np.ndarray, digests: np.ndarray) -> list[Issue]:
    """Return images whose embedding all but coincides with another's; of the same images, the first stands for all."""
    import torch

    from smidgen.maths.neighbours import nearest_neighbours
    from smidgen.maths.scaling import unit_rows

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


def _outliers(points: np.ndarray) -> list[Issue]:
    """Return the images that lie farther from their neighbours than these from theirs, the most so first."""
    if len(points) < 2 * _NEIGHBOURS:
        return []
    factors, distances = local_outlier_factors(points)
    unusual = robust_deviations(np.log(factors), least=0.05) > UNUSUAL
    chosen = unusual & (factors > SPARSE) & (distances > np.median(distances))
    return [Issue(int(row), "outlier", float(factors[row])) for row in _worst(-factors, chosen)]


def local_outlier_factors(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return how far each row lies from its neighbours, by what is usual around it, and how far the last of them is.

    points: (n, features), 20 rows or more; both results (n,). The first is about 1 for most: the mean reachability
    distance (LOF) by the upper quartile of those of the rows that are its neighbours or have it as theirs. Without
    these last, which are those of Jin et al. (INFLO, PAKDD 2006), and with a mean, a photograph whose nearest
    neighbours are a burst would be an outlier.
    """
    n = len(points)
    n_neighbours = min(_NEIGHBOURS, max(_LEAST_NEIGHBOURS, n // _NEIGHBOURS))
    drawn = np.arange(n) if n <= _OTHERS else np.sort(np.random.default_rng(0).permutation(n)[:_OTHERS])
    neighbours, distances = _neighbours(np.require(points, np.float32, ["C", "W"]), drawn, n_neighbours)
    last = distances[:, -1].astype(np.float64)
    reach = np.maximum(distances, last[neighbours]).mean(axis=1)
    reach += np.finfo(np.float64).tiny + 1e-6 * np.median(last)  # where so many are the same
    links = np.stack([np.repeat(np.arange(n), n_neighbours), neighbours.ravel()], axis=1)
    links = np.unique(np.concatenate([links, links[:, ::-1]]), axis=0)  # both ways
    around = reach[links[:, 1]]
    starts = np.searchsorted(links[:, 0], np.arange(n + 1))
    quartile = starts[:-1] + np.ceil(0.75 * (np.diff(starts) - 1)).astype(np.int64)
    return reach / around[np.lexsort([around, links[:, 0]])[quartile]], last


def _neighbours(points: np.ndarray, drawn: np.ndarray, n_neighbours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the nearest of the drawn rows to every row, as rows (n, n_neighbours), and how far they are."""
    import torch

    from smidgen.maths.neighbours import nearest_neighbours

    x = torch.from_numpy(points)
    if len(drawn) == len(points):
        indices, distances = nearest_neighbours(x, n_neighbours)
        return indices.numpy(), distances.numpy()
    others = torch.from_numpy(drawn)
    found, far = (part.numpy() for part in nearest_neighbours(x[others], n_neighbours + 1, queries=x))
    found = drawn[found]
    itself = found == np.arange(len(points))[:, None]
    itself[:, -1] |= ~itself.any(axis=1)  # not drawn, or behind copies of itself: the last one is too many
    return found[~itself].reshape(len(points), -1), far[~itself].reshape(len(points), -1)


# ---------------------------------------------------------------------------------------------------------- by itself


def _odd_sizes(sizes: np.ndarray) -> list[Issue]:
    known = np.flatnonzero((sizes > 0).all(axis=1))
    if not len(known):
        return []
    logs = np.log(sizes[known].astype(np.float64))
    measures = logs.mean(axis=1), np.abs(logs[:, 0] - logs[:, 1])  # of the area's root, of long by short side
    factors = np.exp(np.max([np.abs(m - np.median(m)) for m in measures], axis=0))
    return [Issue(int(known[row]), "odd_size", float(factors[row])) for row in _worst(-factors, factors > 2)]


def _poor(seen: Appearance) -> list[Issue]:
    """Return the images of which little can be seen."""
    logs = np.log(np.where(np.isfinite(seen.sharpness), np.maximum(seen.sharpness, 1e-6), 20))
    unsharp = (robust_deviations(logs, least=0.1) < -UNUSUAL) & (seen.sharpness < BLURRED)
    span = seen.high - seen.low
    found = {
        "blurred": (seen.sharpness, seen.sharpness, unsharp),
        "dark": (seen.high, seen.high, seen.high < DARK),
        "bright": (seen.low, -seen.low, seen.low > BRIGHT),
        "low_contrast": (span, span, span < FLAT),
    }
    return [
        Issue(int(row), kind, float(score[row]))
        for kind, (score, order, holds) in found.items()
        if 2 * holds.sum() <= len(holds)
        for row in _worst(order, holds)
    ]


def _worst(order: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the chosen rows by rising `order`, then by row."""
    rows = np.flatnonzero(chosen)
    return rows[np.argsort(order[rows], kind="stable")]
