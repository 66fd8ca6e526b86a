"""Finds image issues: copies, outliers, and pictures too blurred, dark or uniform to be recognised.

Nothing here is proof: thresholds are chosen so that few good images are named (see `issues.KINDS`), scores say how
clear a case is, and the worst come first.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from smidgen.errors import InputError
from smidgen.inspection.appearance import describe
from smidgen.inspection.copies import find_copies, find_look_alikes
from smidgen.inspection.issues import KINDS, Issue, Progress, named_progress
from smidgen.inspection.outliers import find_outliers
from smidgen.inspection.quality import find_odd_sizes, find_poor


def find_issues(
    parts: Sequence[np.ndarray],
    *,
    embeddings: np.ndarray | None = None,
    look_alikes: bool = False,
    sizes: np.ndarray | None = None,
    content: Callable[[int], bytes] | None = None,
    progress: Progress | None = None,
) -> list[Issue]:
    """Return the issues found, by kind in the order of `KINDS`, the worst first.

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
      embeddings, the lowest frequencies of the brightness stand for them, which separate outliers among drawings but
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
    seen = describe(parts, progress=named_progress(progress, "inspect"))
    if content is not None:
        seen = dataclasses.replace(seen, digests=_told_apart(seen.digests, content))
    finite = embeddings is not None and embeddings.size > 0 and bool(np.isfinite(embeddings).all())
    issues = find_copies(parts, seen, progress)
    if embeddings is not None and finite and look_alikes:
        issues += find_look_alikes(embeddings, seen.digests)
    issues += find_outliers(embeddings if embeddings is not None and finite else seen.shapes)
    issues += [] if sizes is None else find_odd_sizes(sizes)
    issues += find_poor(seen)
    order = {kind: place for place, kind in enumerate(KINDS)}
    return sorted(issues, key=lambda issue: (order[issue.kind], -1 if issue.group is None else issue.group))


def _told_apart(digests: np.ndarray, content: Callable[[int], bytes]) -> np.ndarray:
    """Return digests (n,) that differ for images with other contents too."""
    _, same_as, counts = np.unique(digests, return_inverse=True, return_counts=True)
    result = digests.copy()
    for row in np.flatnonzero(counts[same_as] > 1).tolist():
        both = digests[row].tobytes() + content(row)
        result[row] = int.from_bytes(hashlib.blake2b(both, digest_size=8).digest(), "little")
    return result
