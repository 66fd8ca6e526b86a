"""The law of the unique class count of a bag, three ways: by class subsets, image by image, and approximately."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from smidgen.hardware import to_device

Law = Literal["auto", "subsets", "sequential", "independent"]

_TINY = 1e-30  # added to every probability: its log and the log's gradient stay finite in float32 too
_EPSILON = 2.0**-53  # rounding of float64
_CHUNK = 1 << 16  # numbers worked on at a time, so that they stay in the processor's cache


def unique_count_log_probabilities(
    assignments: Tensor,
    offsets: Tensor,
    *,
    max_count: int,
    admissible: Tensor | None = None,
    law: Law = "auto",
    max_subsets: int = 8192,
    tolerance: float = 1e-4,
) -> Tensor:
    """Return log P(a bag holds u different clusters), u = 1 … max_count, as (bags, max_count) float64.

    Images are independent given their assignments. `law` names the way:

    - "subsets": exact, by inclusion–exclusion over cluster subsets (docs/methods.md §9). With p_i(T) = Σ_{k∈T} p_ik and
      A_t = Σ_{|T|=t} Π_i p_i(T), P(u) = Σ_{t=1..u} (−1)^{u−t} C(K−t, u−t) A_t. The signs alternate, so digits are lost
      where the model is sure of fewer clusters than u: the absolute error is about 1e-14 (10 clusters, 32 images; bound
      1e-10), so a P(u) of 1e-8 keeps six digits and one of 1e-14 none; counts below the likely one keep all. A bag
      whose error may exceed `tolerance` times its admissible probability is done again by "sequential": never where
      all counts are admissible, but a bag that looks pure (all but about 1e-7) where 1 is not.
    - "sequential": exact, image by image over the sets of clusters seen so far; all terms are positive, so nothing is
      lost, but it takes as many steps as the largest bag has images.
    - "independent": the presences of clusters taken as independent, see `independent_count_log_probabilities`.
    - "auto": for each bag by itself, "subsets" where the counts that it can have need at most `max_subsets` subsets
      (every count of 13 clusters, counts to 4 of 20, to 2 of 100), else "independent".

    assignments: (images, clusters) in [0, 1], rows sum to one; any float type, worked on in float64.
    offsets: (bags + 1,) int64; the images of bag b are rows offsets[b] … offsets[b + 1] − 1, at least one; best on
    the CPU, whatever the device of the assignments: what depends on the sizes of bags is decided there.
    max_count: largest count asked for, 1 … clusters; admissible: (bags, max_count) bool, the counts among which the
    law will be normalised (None: all), which is what `tolerance` is relative to.
    Probabilities are not normalised over the counts. A count whose probability is lost in rounding gets the bound of
    the error instead, and an impossible one (more than the bag has images) exp(−700), both with no gradient; all values
    and gradients are finite.

    >>> two_images = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    >>> unique_count_log_probabilities(two_images, torch.tensor([0, 2]), max_count=2).exp()
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    p, offsets = in_float64(assignments), offsets.cpu()
    if law == "sequential":
        result = _sequential(p, offsets, max_count)
    else:
        most = {"subsets": max_count, "independent": 0}.get(law, _largest_exact(p.shape[1], max_count, max_subsets))
        exact = offsets.diff().clamp(max=max_count) <= most
        result = p.new_zeros(len(exact), max_count)
        if bool(exact.any()):
            some = None if admissible is None else _chosen(admissible, exact)
            law_of_some = _by_subsets(*some_bags(p, offsets, exact), max_count, admissible=some, tolerance=tolerance)
            result = put_bags(result, exact, law_of_some)
        if not bool(exact.all()):
            law_of_some = independent_count_log_probabilities(*some_bags(p, offsets, ~exact), max_count=max_count)
            result = put_bags(result, ~exact, law_of_some)
    possible = torch.arange(1, max_count + 1) <= offsets.diff().unsqueeze(1)
    result = torch.where(to_device(possible, p.device), result, _IMPOSSIBLE)
    return back_to(assignments, result)


def n_subsets(n_clusters: int, *, max_count: int) -> int:
    """Return how many cluster subsets the exact law of the counts 1 … max_count sums over.

    >>> n_subsets(10, max_count=4)
    385
    """
    return sum(math.comb(n_clusters, t) for t in range(1, max_count + 1))


def _largest_exact(n_clusters: int, max_count: int, max_subsets: int) -> int:
    """Return the largest count, up to `max_count`, whose exact law needs at most `max_subsets` subsets, 0 if none."""
    return sum(n_subsets(n_clusters, max_count=count) <= max_subsets for count in range(1, max_count + 1))


def some_bags(rows: Tensor, offsets: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows of the chosen bags and their offsets. rows: (images, columns); chosen: (bags,) bool.

    >>> some_bags(torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 2, 3]), torch.tensor([False, True]))
    (tensor([[3.]]), tensor([0, 1]))
    """
    sizes = offsets.diff()
    return _chosen(rows, torch.repeat_interleave(chosen, sizes)), F.pad(sizes[chosen].cumsum(0), (1, 0))


def _chosen(rows: Tensor, chosen: Tensor) -> Tensor:
    """Return the rows that are chosen by (rows,) bool on the host, without waiting for the rows' device."""
    return rows if bool(chosen.all()) else rows[to_device(chosen.nonzero().flatten(), rows.device)]


def put_bags(rows: Tensor, chosen: Tensor, values: Tensor) -> Tensor:
    """Return the rows (bags, …) of all bags, where those of the chosen ones are `values`; the device is not waited for.

    chosen: (bags,) bool on the CPU. (The gradient of `masked_scatter` would wait for a GPU.)
    """
    return rows.index_copy(0, to_device(chosen.nonzero().flatten(), rows.device), values)


def count_frequencies(counts_min: Tensor, counts_max: Tensor, possible: Tensor) -> Tensor:
    """Return how often each count occurs, (counts,) float64, as far as ranges tell; its sum is one.

    Where no count is known exactly every possible one is as frequent; otherwise 50 steps of EM from there, in which a
    range counts for what lies in it by its frequency. counts_min, counts_max: (bags,) int64. possible: (counts,) bool.

    >>> count_frequencies(torch.tensor([1, 1, 2]), torch.tensor([1, 1, 4]), torch.tensor([True] * 4))[0]
    tensor(0.6667, dtype=torch.float64)
    """
    frequency = possible.double() / possible.sum()
    if bool((counts_min == counts_max).any()):
        counts = torch.arange(1, len(possible) + 1)
        stated = ((counts >= counts_min[:, None]) & (counts <= counts_max[:, None]) & possible).double()
        for _ in range(50):
            joint = stated * frequency
            frequency = (joint / joint.sum(1, keepdim=True).clamp_min(1e-300)).mean(0)
    return frequency


def in_float64(assignments: Tensor) -> Tensor:
    """Return the assignments in float64, on the CPU where the device has no such type (Apple's)."""
    return (assignments.cpu() if assignments.device.type == "mps" else assignments).double()


def back_to(assignments: Tensor, result: Tensor) -> Tensor:
    """Return a float64 result on the device of the assignments, in float32 where that has no float64 (Apple's)."""
    return (result.float() if assignments.device.type == "mps" else result).to(assignments.device)


# ---------------------------------------------------------------------------------------------------------- by subsets


@lru_cache(maxsize=16)
def cluster_subsets(n_clusters: int, max_count: int) -> Tensor:
    """Return (clusters, subsets) float64, 1 where the cluster is in the subset; all of 1 to max_count, smaller first.

    >>> cluster_subsets(3, 2).T.int().tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 0, 1], [0, 1, 1]]
    """
    sets = [s for t in range(1, max_count + 1) for s in combinations(range(n_clusters), t)]
    rows = torch.tensor([k for s in sets for k in s])
    columns = torch.tensor([j for j, s in enumerate(sets) for _ in s])
    table = torch.zeros(n_clusters, len(sets), dtype=torch.float64)
    table[rows, columns] = 1
    return table


def _inclusion_exclusion(p: Tensor, offsets: Tensor, max_count: int) -> tuple[Tensor, Tensor]:
    """Return (bags, max_count) log probabilities and the logs of the bounds of their absolute errors."""
    n_clusters = p.shape[1]
    log_products: Tensor = _LogProducts.apply(p, to_device(cluster_subsets(n_clusters, max_count), p.device), offsets)
    by_size = log_products.split([math.comb(n_clusters, t) for t in range(1, max_count + 1)], dim=1)
    log_a = torch.stack([part.logsumexp(1) for part in by_size], 1)  # (bags, t)
    log_binomial, sign = _signed_binomials(n_clusters, max_count)
    terms = log_a.unsqueeze(1) + to_device(log_binomial, p.device)  # (bags, u, t)
    largest = terms.detach().amax(2)
    total = (to_device(sign, p.device) * (terms - largest.unsqueeze(2)).exp()).sum(2)
    bag_sizes = to_device(offsets.diff().unsqueeze(1), p.device)
    n_terms = bag_sizes.clamp(max=max_count)
    bound = _EPSILON * (8 + 2 * bag_sizes) * n_terms  # each product has bag_size factors, rounded once or twice
    return largest + total.clamp(min=bound).log(), largest + bound.log()


@lru_cache(maxsize=16)
def _signed_binomials(n_clusters: int, max_count: int) -> tuple[Tensor, Tensor]:
    """Return log C(K−t, u−t) and (−1)^{u−t} as (u, t) tables, −inf and 1 where t > u."""
    log_binomial = torch.full((max_count, max_count), -math.inf, dtype=torch.float64)
    sign = torch.ones(max_count, max_count, dtype=torch.float64)
    for u in range(1, max_count + 1):
        for t in range(1, u + 1):
            log_binomial[u - 1, t - 1] = math.log(math.comb(n_clusters - t, u - t))
            sign[u - 1, t - 1] = (-1) ** (u - t)
    return log_binomial, sign


class _LogProducts(torch.autograd.Function):
    """Σ_{i in bag} log p_i(T) for every bag and subset T; p_i(T) is made again in the backward pass, not kept."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, subsets: Tensor, offsets: Tensor) -> Tensor:
        bags = to_device(bag_numbers(offsets), p.device)
        ctx.save_for_backward(p, subsets, bags)
        sums = p.new_zeros(len(offsets) - 1, subsets.shape[1])
        for rows in _chunks(p, subsets):
            sums.index_add_(0, bags[rows], (p[rows] @ subsets).add_(_TINY).log_())
        return sums

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        p, subsets, bags = ctx.saved_tensors
        result = torch.empty_like(p)
        for rows in _chunks(p, subsets):
            result[rows] = gradient[bags[rows]].div_((p[rows] @ subsets).add_(_TINY)) @ subsets.T
        return result, None, None


def bag_numbers(offsets: Tensor) -> Tensor:
    """Return the bag of each row, (images,) int64.

    >>> bag_numbers(torch.tensor([0, 2, 3]))
    tensor([0, 0, 1])
    """
    return torch.repeat_interleave(torch.arange(len(offsets) - 1, device=offsets.device), offsets.diff())


def _chunks(p: Tensor, subsets: Tensor) -> Iterator[slice]:
    length = max(1, _CHUNK // subsets.shape[1])
    for start in range(0, len(p), length):
        yield slice(start, start + length)


def _by_subsets(p: Tensor, offsets: Tensor, max_count: int, *, admissible: Tensor | None, tolerance: float) -> Tensor:
    """Return the law by subsets, with the bags that lost their digits done again, image by image."""
    sizes = offsets.diff().unsqueeze(1)
    possible = min(max_count, int(sizes.max()))
    result, error = _inclusion_exclusion(p, offsets, possible)
    if tolerance == math.inf:
        return F.pad(result, (0, max_count - possible), value=_IMPOSSIBLE)
    wanted = to_device(torch.arange(1, possible + 1) <= sizes, p.device)
    if admissible is not None:
        wanted = wanted & admissible.to(p.device)[:, :possible]
    with torch.no_grad():
        errors, sums = (x.masked_fill(~wanted, -math.inf) for x in (error, result))
        lost = (errors.amax(1) > sums.logsumexp(1) + math.log(tolerance)).cpu()  # waits for the device
    if bool(lost.any()):
        result = put_bags(result, lost, _sequential(*some_bags(p, offsets, lost), possible))
    return F.pad(result, (0, max_count - possible), value=_IMPOSSIBLE)


# ------------------------------------------------------------------------------------------------------ image by image


@lru_cache(maxsize=16)
def _transitions(n_clusters: int, max_count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the states of "clusters seen so far" and where each leads.

    after: (states, clusters), the state after seeing the cluster. before: (states, clusters), the state that lacks
    it; `states`, a state of no probability, stands where there is none. sizes: (states,) clusters seen.
    """
    sets = [frozenset(s) for t in range(max_count + 1) for s in combinations(range(n_clusters), t)]
    number = {s: j for j, s in enumerate(sets)}
    nowhere = len(sets)
    after = torch.tensor([[number.get(s | {k}, nowhere) for k in range(n_clusters)] for s in sets])
    before = torch.tensor([[number[s - {k}] if k in s else nowhere for k in range(n_clusters)] for s in sets])
    return after, before, torch.tensor([len(s) for s in sets])


def _sequential(p: Tensor, offsets: Tensor, max_count: int) -> Tensor:
    sizes = offsets.diff()
    padded = p.new_zeros(len(sizes), int(sizes.max()), p.shape[1])
    rows = bag_numbers(offsets)
    columns = torch.arange(len(p), device=rows.device) - offsets[rows]
    padded = padded.index_put((to_device(rows, p.device), to_device(columns, p.device)), p + _TINY)
    result: Tensor = _Sequential.apply(padded, to_device(sizes, p.device), max_count)
    return result


class _Sequential(torch.autograd.Function):
    """Forward–backward over the sets of clusters seen; every step is rescaled, so nothing underflows."""

    @staticmethod
    def forward(ctx: Any, p: Tensor, sizes: Tensor, max_count: int) -> Tensor:
        _, before, counts = (to_device(t, p.device) for t in _transitions(p.shape[2], max_count))
        holds = (before < len(before)).to(p)  # (states, clusters)
        alpha = p.new_zeros(len(p), len(before) + 1)
        alpha[:, 0] = 1
        kept, scales = [alpha], []
        for i in range(p.shape[1]):
            from_others = torch.einsum("bsk,bk->bs", alpha[:, before], p[:, i])
            step = alpha[:, :-1] * (p[:, i] @ holds.T) + from_others
            scale = step.amax(1, keepdim=True)
            alive = (i < sizes).unsqueeze(1)
            alpha = torch.where(alive, torch.cat([step / scale, torch.zeros_like(scale)], 1), alpha)
            kept.append(alpha)
            scales.append(torch.where(alive, scale, 1.0))
        scale = torch.cat(scales, 1)
        by_count = p.new_zeros(len(p), max_count + 1).index_add_(1, counts, alpha[:, :-1])[:, 1:]
        ctx.max_count = max_count
        ctx.save_for_backward(p, sizes, torch.stack(kept), scale, by_count)
        return by_count.clamp(min=_LEAST).log() + scale.log().sum(1, keepdim=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        p, sizes, alphas, scale, by_count = ctx.saved_tensors
        after, _, counts = (to_device(t, p.device) for t in _transitions(p.shape[2], ctx.max_count))
        seed = torch.where(by_count > _LEAST, gradient / by_count.clamp(min=_LEAST), 0.0)
        beta = torch.cat([torch.zeros_like(seed[:, :1]), seed], 1)[:, counts]  # (bags, states)
        result = torch.zeros_like(p)
        for i in reversed(range(p.shape[1])):
            onwards = torch.cat([beta, torch.zeros_like(beta[:, :1])], 1)[:, after] / scale[:, i, None, None]
            alive = i < sizes
            result[:, i] = torch.einsum("bs,bsk->bk", alphas[i, :, :-1], onwards) * alive.unsqueeze(1)
            beta = torch.where(alive.unsqueeze(1), torch.einsum("bsk,bk->bs", onwards, p[:, i]), beta)
        return result, None, None


_LEAST = 1e-100  # relative to the largest state; a smaller probability is given as this, with no gradient


# -------------------------------------------------------------------------------------------------------- approximately


def independent_count_log_probabilities(assignments: Tensor, offsets: Tensor, *, max_count: int) -> Tensor:
    """Return log P(u) as if the presences of clusters were independent, (bags, max_count) float64.

    A cluster is present with q_k = 1 − Π_i (1 − p_ik), and the count follows the Poisson-binomial law of q, by dynamic
    programming over the clusters. Not the exact law: clusters compete for images. Impossible counts (0, and more than
    the bag has images) are left out and the rest is normalised, which makes it exact for bags of one image. Sharpen
    the assignments first (docs/methods.md §9: logits × 2): in a bag of 1,000 a leak of .001 each reads as presence .63.

    assignments, offsets, max_count: as in `unique_count_log_probabilities`; p is held in [1e-9, 1 − 1e-4].

    >>> one_image = torch.tensor([[0.5, 0.5]])
    >>> independent_count_log_probabilities(one_image, torch.tensor([0, 1]), max_count=2).exp().round(decimals=4)
    tensor([[1., 0.]], dtype=torch.float64)
    """
    p, offsets = in_float64(assignments), offsets.cpu()
    log_absent = p.new_zeros(len(offsets) - 1, p.shape[1])
    bags = to_device(bag_numbers(offsets), p.device)
    log_absent = log_absent.index_add(0, bags, torch.log1p(-p.clamp(1e-9, 1 - 1e-4)))
    log_present = (-torch.expm1(log_absent)).log()
    law = _poisson_binomial(log_present, log_absent)
    counts = torch.arange(law.shape[1])
    possible = (counts >= 1) & (counts <= offsets.diff().unsqueeze(1))
    result = torch.where(to_device(possible, p.device), law, _IMPOSSIBLE)
    return (result - result.logsumexp(1, keepdim=True))[:, 1 : max_count + 1]


_IMPOSSIBLE = -700.0  # exp of it is still a normal float64


def _poisson_binomial(log_present: Tensor, log_absent: Tensor) -> Tensor:
    """Return the log law (bags, clusters + 1) of the number of present clusters."""
    law = torch.full_like(log_present[:, :1], 0.0)
    for k in range(log_present.shape[1]):
        stays = law + log_absent[:, k : k + 1]
        grows = law + log_present[:, k : k + 1]
        middle = torch.logaddexp(stays[:, 1:], grows[:, :-1])
        law = torch.cat([stays[:, :1], middle, grows[:, -1:]], 1)
    return law


# ---------------------------------------------------------------------------------------------------------------- loss


def count_loss(
    log_probabilities: Tensor,
    counts_min: Tensor,
    counts_max: Tensor,
    *,
    admissible: Tensor | None = None,
    epsilon: float | Tensor = 0.1,
) -> Tensor:
    """Return −log((1 − ε) P(count in its range) + ε · share of the range), one per bag, in float64.

    P is normalised over the admissible counts; with probability ε the given count is wrong and any admissible one is
    as likely, so a wrong count costs at most log(admissible / ε) and its gradient fades.

    log_probabilities: (bags, counts) for the counts 1, 2, …; from `unique_count_log_probabilities`.
    counts_min, counts_max: (bags,) int64, the range that the evidence gives, equal for a known count.
    admissible: (bags, counts) bool, the counts that are possible at all; None for all. A range that holds none of
    them costs what one wrong count costs, and has no gradient.
    epsilon: in [0, 1), or (bags,) of them.

    >>> law = torch.tensor([[0.25, 0.75]]).log()
    >>> count_loss(law, torch.tensor([2]), torch.tensor([2]), epsilon=0.1)  # −log(.9 · .75 + .1 / 2)
    tensor([0.3216])
    """
    counts = torch.arange(1, log_probabilities.shape[1] + 1, device=log_probabilities.device)
    if admissible is None:
        admissible = torch.ones_like(log_probabilities, dtype=torch.bool)
    given = (counts >= counts_min.unsqueeze(1)) & (counts <= counts_max.unsqueeze(1)) & admissible
    law = log_probabilities.masked_fill(~admissible, -1e30).softmax(1)  # not −inf: a row may have none
    share = given.sum(1).clamp(min=1).to(law) / admissible.sum(1).clamp(min=1)
    probability = torch.where(given, law, 0.0).sum(1)
    return -((1 - epsilon) * probability + epsilon * share).clamp(min=_TINY).log()


def admissible_counts(counts_min: Tensor, counts_max: Tensor, bag_sizes: Tensor, *, n_clusters: int) -> Tensor:
    """Return (bags, largest) bool: the counts among which the law of each bag is to be normalised.

    Bags collected to hold 1–4 classes tell little by holding no more than 4, and a law over all counts has no gradient
    at the start, where the model expects far more: known counts are judged among those from the least to the largest
    known anywhere. Where only one count is known anywhere that would say nothing; there, and for a bag whose count is
    a range, all counts from 1 to `n_clusters` are admissible. No bag can hold more clusters than images.

    counts_min, counts_max, bag_sizes: (bags,) int64, of the whole evidence: index the rows for a batch.

    >>> admissible_counts(torch.tensor([2, 3]), torch.tensor([2, 3]), torch.tensor([8, 2]), n_clusters=10)
    tensor([[False,  True,  True],
            [False,  True, False]])
    """
    counts = torch.arange(1, n_clusters + 1, device=counts_min.device)
    result = (counts <= bag_sizes.unsqueeze(1)).clone()
    known = counts_min == counts_max
    values = counts_min[known].unique()
    if len(values) > 1:
        result[known] &= (counts >= values[0]) & (counts <= values[-1])
    largest = int(counts[result.any(0)].max()) if bool(result.any()) else 1
    return result[:, :largest]
