"""What an image of a bag is likely to be, given what it looks like and what is known of its bag: one step of EM.

A likelihood of a bag asks the assignments of all its images to fit at once. Where a fifth of the images look like
another class than theirs, as photographs do, no bag of thirty fits its own count, and whoever follows that likelihood
is led to assignments that say less. The posteriors here let single images be mistaken.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from smidgen.errors import InputError
from smidgen.hardware import to_device
from smidgen.maths.counts import bag_numbers


def labels_given_counts(
    p: Tensor, offsets: Tensor, counts_min: Tensor, counts_max: Tensor, *, sets: Tensor, leak: float = 0.1
) -> Tensor:
    """Return what each image is likely to be, (images, clusters), given how many classes its bag holds.

    p: assignments (images, clusters), rows sum to one. offsets: (bags + 1,), where bags begin and end.
    counts_min, counts_max: (bags,) int64, the unique class count or its range.
    sets: from `counts.cluster_subsets`, up to the largest of `counts_max`.
    leak: the probability that an image looks like a class that its bag does not hold.

    A bag's classes T, with min ≤ |T| ≤ max, all sizes and all T of one size equally likely beforehand, have
    probability ∝ Π_i ((1 − leak) p_i(T) + leak). An image's labels are p_ik / p_i(T) within T, averaged over T.

    >>> from smidgen.maths.counts import cluster_subsets
    >>> p = torch.tensor([[0.9, 0.1, 0.0], [0.8, 0.0, 0.2], [0.2, 0.1, 0.7]])
    >>> one = torch.tensor([1])
    >>> labels_given_counts(p, torch.tensor([0, 3]), one, one, sets=cluster_subsets(3, 1).float()).argmax(1).tolist()
    [0, 0, 0]
    """
    size = sets.sum(0)
    within = p @ sets  # p_i(T), (images, sets)
    bag = to_device(bag_numbers(offsets), p.device)
    fit = torch.zeros(len(counts_min), sets.shape[1], device=p.device, dtype=p.dtype)
    fit.index_add_(0, bag, ((1 - leak) * within + leak).log())
    n_of_size = p.new_zeros(len(sets) + 1).index_add_(0, size.long(), torch.ones_like(size).to(p))
    fit = fit - n_of_size[size.long()].log()
    allowed = (size >= counts_min[:, None]) & (size <= counts_max[:, None])
    posterior = fit.masked_fill(~allowed, -torch.inf).softmax(1)
    labels = p * ((posterior[bag] / within.clamp_min(1e-6)) @ sets.T)
    return labels / labels.sum(1, keepdim=True).clamp_min(1e-12)


def labels_given_proportions(p: Tensor, offsets: Tensor, proportions: Tensor, *, iterations: int = 20) -> Tensor:
    """Return what each image is likely to be, (images, clusters), given its bag's proportions of the classes.

    The assignments nearest to p, in the sense of Sinkhorn, whose mean over a bag is its row of `proportions`
    (bags, clusters). p: (images, clusters), rows sum to one; clamped at 1e-4, so that no image is ruled out.
    Raises InputError for iterations below 1.

    >>> p = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
    >>> labels_given_proportions(p, torch.tensor([0, 2]), torch.tensor([[0.5, 0.5]])).argmax(1).tolist()
    [0, 1]
    """
    if iterations < 1:
        raise InputError(f"`iterations` must be 1 or above, got {iterations}.")
    sizes = offsets.cpu().diff()
    log = pad_sequence(list(p.clamp_min(1e-4).log().split(sizes.tolist())), batch_first=True)
    is_image = torch.arange(log.shape[1]) < sizes[:, None]
    there = to_device(is_image, p.device)
    log = log.masked_fill(~there[:, :, None], -torch.inf)
    wanted = (proportions * to_device(sizes[:, None], p.device)).clamp_min(1e-6).log()[:, None]
    for _ in range(iterations):
        log = log + (wanted - log.logsumexp(1, keepdim=True))
        log = torch.where(there[:, :, None], log - log.logsumexp(2, keepdim=True), log)
    bags, places = (to_device(index, p.device) for index in is_image.nonzero(as_tuple=True))
    return log[bags, places].exp()
