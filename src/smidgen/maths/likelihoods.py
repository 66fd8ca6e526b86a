"""Losses of labels, pairs, proportions, class counts and presence given soft assignments, each robust to errors.

Every loss mixes in the possibility, of probability ε, that the evidence is wrong and anything was as likely: it is
bounded, and a statement that the model firmly contradicts loses its pull. Losses come one per item (image, pair, bag),
unreduced: average them for training, sort them to find the items that contradict the model most.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.hardware import to_device
from smidgen.maths.counts import back_to, bag_numbers, in_float64, put_bags, some_bags

_LEAST = 1e-6  # probabilities are held above this where ε = 0
_SURE = 1 - 1e-6
_EXACT_BAG = 128  # largest bag whose class counts get the exact law


def label_loss(assignments: Tensor, labels: Tensor, *, epsilon: float = 0.05) -> Tensor:
    """Return −log((1 − ε) p_label + ε / clusters), (images,).

    assignments: (images, clusters), rows sum to one. labels: (images,) int64 in 0 … clusters − 1.

    >>> label_loss(torch.tensor([[0.9, 0.1]]), torch.tensor([0]), epsilon=0.0)
    tensor([0.1054])
    """
    given = assignments.gather(1, labels.unsqueeze(1)).squeeze(1)
    return _robust(given, epsilon, outcomes=assignments.shape[1])


def label_posterior(assignments: Tensor, labels: Tensor, *, epsilon: float = 0.05) -> Tensor:
    """Return q_k ∝ p_k ((1 − ε) [k = label] + ε / clusters), (images, clusters): what is believed once labels are seen.

    assignments: (images, clusters), rows sum to one. labels: (images,) int64, -1 where there is none: such rows stay.
    epsilon: above 0, as a label may contradict what is certain.

    >>> label_posterior(torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.01, 0.99]]), torch.tensor([0, -1, 0]), epsilon=0.1)
    tensor([[0.9500, 0.0500],
            [0.5000, 0.5000],
            [0.1610, 0.8390]])
    """
    clusters = torch.arange(assignments.shape[1], device=labels.device)
    likelihood = (1 - epsilon) * (labels[:, None] == clusters) + epsilon / len(clusters)
    q = assignments * torch.where(labels[:, None] >= 0, likelihood, 1.0)
    return q / q.sum(1, keepdim=True)


def pair_loss(first: Tensor, second: Tensor, same: Tensor, *, epsilon: float = 0.1) -> Tensor:
    """Return −log((1 − ε) P(as stated) + ε / 2), (pairs,), with P(same) = Σ_k p_k p'_k and P(different) = 1 − P(same).

    first, second: (pairs, clusters) assignments of the two images, rows sum to one. same: (pairs,) bool.

    >>> left, right = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    >>> pair_loss(left, right, torch.tensor([True]), epsilon=0.0)
    tensor([0.6931])
    """
    together = (first * second).sum(1)
    return _robust(torch.where(same, together, 1 - together), epsilon, outcomes=2)


def proportion_loss(assignments: Tensor, offsets: Tensor, proportions: Tensor, *, epsilon: float = 0.01) -> Tensor:
    """Return Σ_k π'_k log(π'_k / m'_k) with m_k = mean_i p_ik of the bag, (bags,); 0 where the means are as given.

    DLLP (docs/methods.md §2) with x' = (1 − ε) x + ε / clusters on both sides: bounded by log(clusters / ε), and the
    least value stays at m = π, where mixing one side only would move it.

    assignments: (images, clusters), rows sum to one. offsets: (bags + 1,) int64, as in `maths.counts`.
    proportions: (bags, clusters), rows sum to one. epsilon in (0, 1).

    >>> p = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> proportion_loss(p, torch.tensor([0, 2]), torch.tensor([[0.5, 0.5]]))
    tensor([0.])
    """
    mean = bag_means(assignments, offsets)
    n_clusters = assignments.shape[1]
    given = (1 - epsilon) * proportions.to(mean) + epsilon / n_clusters
    found = (1 - epsilon) * mean + epsilon / n_clusters
    return (torch.xlogy(given, given) - given * found.clamp(min=_LEAST).log()).sum(1)


def class_count_log_probabilities(assignments: Tensor, offsets: Tensor, class_counts: Tensor) -> Tensor:
    """Return log P(the bag holds exactly that many images of class k), (bags, clusters) float64.

    Each class alone follows the Poisson-binomial law of its column; exact by dynamic programming over the images
    for a bag of up to 128, for a larger one a normal density of the same mean and variance (+ 1/12 for the rounding to
    whole numbers). Unlike the mean of the assignments, this prefers images that are decided: .5 and .5 is not one of
    each for sure.

    class_counts: (bags, clusters) int64, rows sum to the bag sizes; the other arguments as in `proportion_loss`.

    >>> p = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    >>> class_count_log_probabilities(p, torch.tensor([0, 2]), torch.tensor([[1, 1]])).exp()
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    p, offsets = in_float64(assignments), offsets.cpu()
    class_counts = to_device(class_counts, p.device)
    small = offsets.diff() <= _EXACT_BAG
    law = _normal_class_counts(p, offsets, class_counts)
    if bool(small.any()):
        class_counts, _ = some_bags(class_counts, torch.arange(len(small) + 1), small)  # rows as bags of one
        exact = _exact_class_counts(*some_bags(p, offsets, small), class_counts)
        law = put_bags(law, small, exact)
    return back_to(assignments, law)


def _normal_class_counts(p: Tensor, offsets: Tensor, class_counts: Tensor) -> Tensor:
    variance = bag_sums(p * (1 - p), offsets) + 1 / 12
    distance = class_counts - bag_sums(p, offsets)
    log_density = -0.5 * (2 * math.pi * variance).log() - distance.square() / (2 * variance)
    return log_density.clamp(max=0)


def _exact_class_counts(p: Tensor, offsets: Tensor, class_counts: Tensor) -> Tensor:
    sizes, rows = offsets.diff(), bag_numbers(offsets)
    columns = torch.arange(len(p), device=rows.device) - offsets[rows]
    padded = p.new_zeros(len(sizes), int(sizes.max()), p.shape[1])
    padded = padded.index_put((to_device(rows, p.device), to_device(columns, p.device)), p)
    law = F.pad(torch.ones_like(padded[:, :1]).transpose(1, 2), (0, padded.shape[1]))  # (bags, clusters, numbers)
    for i in range(padded.shape[1]):
        q = padded[:, i].unsqueeze(2)
        law = law * (1 - q) + F.pad(law[..., :-1], (1, 0)) * q
    return law.gather(2, class_counts.unsqueeze(2)).squeeze(2).clamp(min=1e-300).log()


def class_count_loss(assignments: Tensor, offsets: Tensor, class_counts: Tensor, *, epsilon: float = 0.1) -> Tensor:
    """Return the mean over classes of −log((1 − ε) P(exactly that many) + ε / (bag size + 1)), (bags,) float64.

    Far from the truth it has no gradient (by construction, as a wrong count must not pull): start with
    `proportion_loss`, switch to or add this once clusters have formed. Arguments as in
    `class_count_log_probabilities`.
    """
    law = class_count_log_probabilities(assignments, offsets, class_counts).exp()
    numbers = to_device(offsets.diff() + 1, law.device, law.dtype).unsqueeze(1)
    return -((1 - epsilon) * law + epsilon / numbers).clamp(min=_LEAST).log().mean(1)


def presence_loss(
    assignments: Tensor, offsets: Tensor, presence: Tensor, *, epsilon: float = 0.1, independent_images: int = 10
) -> Tensor:
    """Return the mean over the stated classes of −log((1 − ε) P(as stated) + ε / 2), (bags,); 0 where none is stated.

    P(class k is absent) = Π_i (1 − p_ik). A statement of absence about a large bag speaks of every image at once and
    would be contradicted so firmly at the start that its gradient vanishes; it therefore counts as that of
    `independent_images` images: the product is taken to the power independent_images / bag size, at most 1.

    presence: (bags, clusters) int64, 1 present, 0 absent, -1 unknown; the other arguments as in `proportion_loss`.

    >>> p = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    >>> presence_loss(p, torch.tensor([0, 2]), torch.tensor([[1, -1]]), epsilon=0.0)  # −log(1 − ½ · ½)
    tensor([0.2877])
    """
    log_absent = bag_sums(torch.log1p(-assignments.clamp(max=_SURE)), offsets)
    weight = (independent_images / offsets.diff()).clamp(max=1).unsqueeze(1)
    weight = to_device(weight, log_absent.device, log_absent.dtype)
    absent = (log_absent * weight).exp()
    stated = presence >= 0
    loss = _robust(torch.where(presence == 1, -torch.expm1(log_absent), absent), epsilon, outcomes=2)
    return torch.where(stated, loss, 0.0).sum(1) / stated.sum(1).clamp(min=1)


def _robust(probability: Tensor, epsilon: float, *, outcomes: int) -> Tensor:
    return -((1 - epsilon) * probability + epsilon / outcomes).clamp(min=_LEAST).log()


def bag_sums(values: Tensor, offsets: Tensor) -> Tensor:
    """Return (bags, columns) the sums of the rows of each bag."""
    return values.new_zeros(len(offsets) - 1, values.shape[1]).index_add(
        0, to_device(bag_numbers(offsets), values.device), values
    )


def bag_means(values: Tensor, offsets: Tensor) -> Tensor:
    """Return (bags, columns) the means of the rows of each bag."""
    return bag_sums(values, offsets) / to_device(offsets.diff().unsqueeze(1), values.device, values.dtype)
