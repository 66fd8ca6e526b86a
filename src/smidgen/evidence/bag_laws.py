"""What assignments say of bags: laws of the unique count, mean assignments, and the calibration of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from smidgen.maths.counts import unique_count_log_probabilities

Progress = Callable[[int, int], None]

_MOST_SUBSETS = 4096  # of clusters, up to which the law of the count is exact: all counts of 12 clusters
_BAGS, _IMAGES = 512, 16_384  # looked at together: what bounds the memory


@dataclass(frozen=True)
class Calibration:
    """What makes assignments, which are trained to be sure, probabilities that hold for bags.

    sharpness, leak: p' ∝ p^sharpness, mixed with leak / clusters: the share of images that the model mistakes although
    it is sure. gathering: what bags are, from 0 (images drawn at random from all clusters, so that a bag of 32 hardly
    ever holds few of them) to 1 (gathered so that every count is as likely, few clusters sharing the bag evenly; one
    image alone of its cluster is most likely a mistake). wrong: the rate at which evidence is wrong.
    The defaults are for a good model and bags of any kind; `explained.explain` learns them where counts are known.
    """

    sharpness: float = 1.0
    leak: float = 0.01
    gathering: float = 0.5
    wrong: float = 0.05

    def soften(self, p: np.ndarray) -> np.ndarray:
        """Return the assignments (…, clusters) as float64 probabilities p', rows sum to one.

        >>> Calibration(leak=0.5).soften(np.array([1.0, 0.0])).tolist()
        [0.75, 0.25]
        """
        q = p.astype(np.float64) ** self.sharpness
        return (1 - self.leak) * q / q.sum(-1, keepdims=True) + self.leak / p.shape[-1]


def over_bags(
    function: Callable[[np.ndarray, np.ndarray], np.ndarray],
    assignments: np.ndarray,
    members: np.ndarray,
    offsets: np.ndarray,
    *,
    progress: Progress | None = None,
) -> np.ndarray:
    """Return a function of bags for all of them, (bags, …), a stretch of bags at a time.

    function: of (assignments of the images of some bags, one bag after the other; their offsets), a row for each bag.
    members, offsets: as in `Resolved`; progress: called with (bags done, bags).
    """
    results = []
    for first, last in _stretches(offsets):
        rows = members[offsets[first] : offsets[last]]
        results.append(function(assignments[rows], offsets[first : last + 1] - offsets[first]))
        if progress is not None:
            progress(last, len(offsets) - 1)
    return np.concatenate(results) if results else np.zeros((0, 0))


def _stretches(offsets: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (first bag, last bag + 1) of stretches of few bags and few images, a bag at least."""
    first, n_bags = 0, len(offsets) - 1
    while first < n_bags:
        fit = int(np.searchsorted(offsets, offsets[first] + _IMAGES, side="right")) - 1
        last = min(max(fit, first + 1), first + _BAGS, n_bags)
        yield first, last
        first = last


def count_log_law(p: np.ndarray, offsets: np.ndarray, *, max_count: int) -> np.ndarray:
    """Return log P(a bag holds u different clusters), u = 1 … max_count, (bags, max_count) float64.

    p: (images, clusters); offsets: (bags + 1,). max_count: the largest count that is possible at all.
    """
    log_law = unique_count_log_probabilities(
        torch.from_numpy(np.ascontiguousarray(p)),
        torch.from_numpy(offsets),
        max_count=max_count,
        max_subsets=_MOST_SUBSETS,
    )
    result: np.ndarray = log_law.numpy()
    return result


def random_count_log_law(sizes: np.ndarray, *, n_clusters: int, max_count: int) -> np.ndarray:
    """Return log P(u different clusters) of bags of images that each are of any cluster, as likely, (bags, max_count).

    The classical occupancy law, by recursion over the images. sizes: (bags,) int64.

    >>> np.exp(random_count_log_law(np.array([2, 1]), n_clusters=4, max_count=2)).tolist()
    [[0.25, 0.75], [1.0, 0.0]]
    """
    counts = np.arange(1, max_count + 1)
    stays, grows = np.log(counts / n_clusters), np.log((n_clusters - counts + 1) / n_clusters)
    law = np.where(counts == 1, 0.0, -np.inf)  # of one image
    laws = {}
    for size in range(1, int(sizes.max(initial=1)) + 1):
        if size > 1:
            law = np.logaddexp(law + stays, np.concatenate([[-np.inf], law[:-1]]) + grows)
        laws[size] = law
    return np.stack([laws[int(size)] for size in sizes]) if len(sizes) else np.zeros((0, max_count))


def gathered(log_law: np.ndarray, random_log_law: np.ndarray, *, gathering: float) -> np.ndarray:
    """Return P(count) ∝ law / (random law)^gathering, (bags, counts), rows sum to one; impossible counts have 0.

    Bayes' rule with another prior. At gathering 1 it is exact for bags whose count was drawn first, then as many
    clusters, then images of these, all as likely.
    """
    possible = np.isfinite(random_log_law)
    log_law = np.where(possible, log_law - gathering * np.where(possible, random_log_law, 0.0), -np.inf)
    law = np.exp(log_law - log_law.max(1, keepdims=True, initial=-np.inf))
    result: np.ndarray = law / law.sum(1, keepdims=True)
    return result


def mean_assignments(p: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the share of each cluster in each bag, (bags, clusters) float64; no bag is empty."""
    sums: np.ndarray = np.add.reduceat(p.astype(np.float64), offsets[:-1], axis=0)
    return sums / np.diff(offsets)[:, None]
