"""What images are likely to be, given the counts and proportions of all bags that they are in."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.evidence.resolved import Resolved
from smidgen.maths.bag_posteriors import labels_given_counts, labels_given_proportions
from smidgen.maths.counts import cluster_subsets, n_subsets

MOST_SETS = 20_000
"""The largest number of sets of clusters to enumerate."""

LEAK = 0.1
"""The probability that an image looks like a class that its bag does not hold."""

PSEUDO_COUNTS = 0.1
"""Images added to each class where sizes are estimated, as a multiple of the mean size of a class."""

_NUMBERS = 20_000_000  # in one table of images and sets


def sets_of_counts(evidence: Resolved, n_clusters: int) -> Tensor:
    """Return the sets that bags with counts may hold, (clusters, sets); none where there are too many to enumerate."""
    counts = evidence.counts_max
    most = min(int(counts.max()), n_clusters) if len(counts) else 0
    if most == 0 or n_subsets(n_clusters, max_count=most) > MOST_SETS:
        return torch.zeros(n_clusters, 0)
    return cluster_subsets(n_clusters, most).float()


def kinds_given_bags(sets: Tensor) -> tuple[str, ...]:
    """Return the kinds of evidence that `labels_given_bags` hears; counts only with sets of `sets_of_counts`."""
    return ("proportions", *(("counts",) if sets.shape[1] else ()))


def labels_given_bags(
    evidence: Resolved, p: Tensor, *, sets: Tensor, right: Tensor | None = None, leak: float = LEAK
) -> tuple[Tensor, Tensor]:
    """Return what images are likely to be, averaged over their bags (images, clusters), and which are in any (images,).

    Images in no bag with proportions or a count keep p: assignments (images, clusters), rows sum to one. sets: of
    `sets_of_counts`; without any, counts say nothing. right: (counts,), the probability that each count is right, None
    for 1; images whose counts are all likely to be wrong keep p as far as they are. leak: the probability that an image
    looks like a class that its bag does not hold.
    """
    sums, heard = _heard(evidence, p, sets, right, leak)
    rest = (1 - heard).clamp_min(0)
    return (sums + rest[:, None] * p) / (heard + rest)[:, None], heard > 0


def shares_given_bags(
    evidence: Resolved, p: Tensor, *, sets: Tensor, right: Tensor | None = None, leak: float = LEAK
) -> Tensor:
    """Return the clusters' shares of the images (clusters,), as far as bags cover the images, and else equal ones.

    They are the mean of what images are likely to be: a step of EM. Assignments alone would confirm themselves, so
    without proportions or counts all shares are equal. The arguments are those of `labels_given_bags`.
    """
    sums, heard = _heard(evidence, p, sets, right, leak)
    each, equal = heard.clamp(max=1), 1 / p.shape[1]
    covered = (heard > 0).float().mean()
    mean = (sums * (each / heard.clamp_min(1e-12))[:, None]).sum(0) / each.sum().clamp_min(1e-12)
    mean = (mean + PSEUDO_COUNTS * equal) / (1 + PSEUDO_COUNTS)
    return covered * mean + (1 - covered) * equal


def _heard(evidence: Resolved, p: Tensor, sets: Tensor, right: Tensor | None, leak: float) -> tuple[Tensor, Tensor]:
    """Return the sum of what images are likely to be by each of their bags (images, clusters), and how many speak.

    A bag speaks as far as its count is right: (images,), not whole numbers.
    """
    sums, heard, sets = torch.zeros_like(p), p.new_zeros(len(p)), sets.to(p)
    right = torch.ones(len(evidence.count_bags)) if right is None else right.cpu()
    for images, q, weight in chain(_by_proportions(evidence, p), _by_counts(evidence, p, sets, right, leak)):
        sums.index_add_(0, images, q * weight[:, None])
        heard.index_add_(0, images, weight)
    return sums, heard


def _by_proportions(evidence: Resolved, p: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield images (i,) of some bags, what they are likely to be (i, clusters), and weights of one (i,)."""
    known = F.pad(evidence.proportions, (0, p.shape[1] - evidence.proportions.shape[1])).to(p)
    bags = evidence.proportion_bags
    for rows in _blocks(evidence.bag_sizes[bags], _NUMBERS // p.shape[1]):
        images, offsets = evidence.images_of(bags[rows])
        images = images.to(p.device)
        yield images, labels_given_proportions(p[images], offsets, known[rows]), p.new_ones(len(images))


def _by_counts(
    evidence: Resolved, p: Tensor, sets: Tensor, right: Tensor, leak: float
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Yield the same by the counts of bags, weighed by how likely these are right; nothing without sets."""
    bags = evidence.count_bags if sets.shape[1] else evidence.count_bags[:0]
    for rows in _blocks(evidence.bag_sizes[bags], _NUMBERS // max(1, sets.shape[1])):
        images, offsets = evidence.images_of(bags[rows])
        images = images.to(p.device)
        low, high = evidence.counts_min[rows].to(p.device), evidence.counts_max[rows].to(p.device)
        q = labels_given_counts(p[images], offsets, low, high, sets=sets, leak=leak)
        yield images, q, right[rows].repeat_interleave(offsets.diff()).to(p)


def _blocks(sizes: Tensor, most: int) -> Iterator[Tensor]:
    """Yield rows of bags of these sizes, in order, of at most so many images together, but at least one bag."""
    block = (sizes.cumsum(0) - 1).clamp_min(0) // max(1, most)
    for number in block.unique().tolist():
        yield (block == number).nonzero().flatten()
