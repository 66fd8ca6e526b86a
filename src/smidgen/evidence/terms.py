"""The terms that evidence adds to an objective: which images to ask for, and the losses of what is known about them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import View
from smidgen.evidence.resolved import Resolved
from smidgen.hardware import to_device
from smidgen.maths.counts import (
    admissible_counts,
    bag_numbers,
    count_frequencies,
    count_loss,
    unique_count_log_probabilities,
)
from smidgen.maths.likelihoods import class_count_loss, label_loss, pair_loss, presence_loss, proportion_loss

EVERY_KIND = ("labels", "counts", "proportions", "presence", "pairs")
"""The kinds of evidence there are terms for."""

NAMING = ("labels", "proportions", "presence")
"""The kinds of evidence that name classes; their terms need clusters that are matched to the classes."""

CLASS_COUNTS = "class_counts"
"""Proportions that are whole numbers of images, by the exact law: a term for clusters that have formed."""

_WHOLE = 0.1  # images: what shares may be off a whole number for having been rounded


@dataclass(frozen=True)
class KnownBags:
    """Of which bags of a batch a table of evidence speaks.

    rows: (bags,) of the table, 0 where it does not speak of one. bags, images: the bags of which it does, and their
    images, None for all.
    """

    rows: Tensor
    bags: Tensor | None = None
    images: Tensor | None = None

    def of_bags(self, values: Tensor) -> Tensor:
        """Return the values (bags, …) of these bags."""
        return values if self.bags is None else values[self.bags]

    def of_images(self, values: Tensor) -> Tensor:
        """Return the values (images, …) of their images."""
        return values if self.images is None else values[self.images]


class EvidenceTerms(nn.Module):
    """The evidence of one training set as parts of a batch and as losses, each averaged over its own items.

    Holds no state of a training: its buffers are made again from the evidence and are not in the checkpoint.
    bags, labels, pairs: how many of each a batch asks for; images: the most images that its bags may have together.
    epsilon: the probability that a statement is wrong.
    """

    labels: Tensor
    same: Tensor
    counts_min: Tensor
    counts_max: Tensor
    admissible: Tensor
    shares: Tensor
    class_counts: Tensor
    present: Tensor

    def __init__(
        self,
        evidence: Resolved,
        n_clusters: int,
        *,
        bags: int = 20,
        images: int = 1024,
        labels: int = 64,
        pairs: int = 64,
        epsilon: float = 0.1,
    ) -> None:
        super().__init__()
        self.evidence, self.n_clusters, self.epsilon = evidence, n_clusters, epsilon
        self._rows_on_host: dict[str, Tensor] = {}
        self.sizes = {"bags": bags, "images": images, "labels": labels, "pairs": pairs}
        self.labelled = (evidence.labels >= 0).nonzero().flatten()
        kinds = (evidence.count_bags, evidence.proportion_bags, evidence.presence_bags)
        self.known_bags = torch.cat(kinds).unique()
        n_classes = len(evidence.class_names)
        self._buffer("labels", evidence.labels)
        self._buffer("same", evidence.same)
        self._rows("counts", evidence.count_bags)
        self._buffer("counts_min", evidence.counts_min)
        self._buffer("counts_max", evidence.counts_max)
        sizes = evidence.bag_sizes[evidence.count_bags]
        self._buffer(
            "admissible", admissible_counts(evidence.counts_min, evidence.counts_max, sizes, n_clusters=n_clusters)
        )
        possible = torch.arange(1, self.admissible.shape[1] + 1) <= sizes.unsqueeze(1)
        self._all_admissible = bool((self.admissible == possible).all())
        self._rows("proportions", evidence.proportion_bags)
        self._buffer("shares", F.pad(evidence.proportions, (0, n_clusters - n_classes)))
        sizes = evidence.bag_sizes[evidence.proportion_bags]
        self._buffer("class_counts", _whole_counts(self.shares, sizes))
        self._is_whole = self.class_counts.sum(1) > 0
        self._rows("presence", evidence.presence_bags)
        self._buffer("present", F.pad(evidence.presence, (0, n_clusters - n_classes), value=-1))

    def _buffer(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.clone(), persistent=False)

    def _rows(self, name: str, bags: Tensor) -> None:
        """Store the row of each bag in a table that speaks of `bags`, -1 where it does not."""
        rows = torch.full((len(self.evidence.bag_names),), -1)
        rows[bags] = torch.arange(len(bags))
        self._rows_on_host[name] = rows
        self._buffer(f"{name}_row", rows)

    @property
    def names_classes(self) -> bool:
        """Whether any evidence names classes."""
        e = self.evidence
        return bool(len(self.labelled) or len(e.proportion_bags) or len(e.presence_bags))

    def request(self, generator: torch.Generator, *, view: View | None) -> dict[str, Request]:
        """Return the parts "labels", "bags" and "pairs" of a batch, those that there is evidence for."""
        requests = {}
        if len(self.labelled):
            draws = torch.randint(len(self.labelled), (self.sizes["labels"],), generator=generator)
            requests["labels"] = Request(self.labelled[draws], view)
        if len(self.known_bags):
            requests["bags"] = self._bag_request(generator, view)
        if len(self.evidence.pairs):
            rows = torch.randint(len(self.evidence.pairs), (self.sizes["pairs"],), generator=generator)
            requests["pairs"] = Request(self.evidence.pairs[rows].T.flatten(), view, items=rows)
        return requests

    def _bag_request(self, generator: torch.Generator, view: View | None) -> Request:
        bags = self.known_bags[torch.randperm(len(self.known_bags), generator=generator)[: self.sizes["bags"]]]
        sizes = self.evidence.bag_sizes[bags]
        fit = max(1, int((sizes.cumsum(0) <= self.sizes["images"]).sum()))
        bags, sizes = bags[:fit], sizes[:fit]
        starts = self.evidence.offsets[bags]
        members = [self.evidence.members[s : s + n] for s, n in zip(starts.tolist(), sizes.tolist(), strict=True)]
        offsets = F.pad(sizes.cumsum(0), (1, 0))
        return Request(torch.cat(members), view, offsets=offsets, items=bags)

    def losses(
        self, parts: Mapping[str, Part], assignments: Mapping[str, Tensor], *, kinds: Collection[str] = EVERY_KIND
    ) -> dict[str, Tensor]:
        """Return the mean loss of each kind of evidence in the batch, of those that are asked for.

        assignments: (images, clusters) for each of the parts "labels", "bags", "pairs" that the batch has.
        """
        losses = {}
        if "labels" in parts and "labels" in kinds:
            labels = self.labels[parts["labels"].indices]
            losses["labels"] = label_loss(assignments["labels"], labels, epsilon=self.epsilon).mean()
        if "pairs" in parts and "pairs" in kinds:
            first, second = assignments["pairs"].chunk(2)
            same = self.same[parts["pairs"].items]
            losses["pairs"] = pair_loss(first, second, same, epsilon=self.epsilon).mean()
        if "bags" in parts:
            losses |= self._bag_losses(parts["bags"], assignments["bags"], kinds)
        return losses

    def _bag_losses(self, part: Part, p: Tensor, kinds: Collection[str]) -> dict[str, Tensor]:
        assert part.offsets is not None
        losses = {}
        known = self.known("counts", part)
        if known is not None and "counts" in kinds:
            losses["counts"] = known.of_bags(self.count_losses(p, part.offsets, known.rows)).mean()
        known = self.known("proportions", part)
        if known is not None and "proportions" in kinds:
            losses["proportions"] = known.of_bags(proportion_loss(p, part.offsets, self.shares[known.rows])).mean()
        known = self.known("proportions", part, which=self._is_whole)
        if known is not None and CLASS_COUNTS in kinds:
            exact = class_count_loss(p, part.offsets, self.class_counts[known.rows], epsilon=self.epsilon)
            losses[CLASS_COUNTS] = known.of_bags(exact).mean().float()
        known = self.known("presence", part)
        if known is not None and "presence" in kinds:
            present = presence_loss(p, part.offsets, self.present[known.rows], epsilon=self.epsilon)
            losses["presence"] = known.of_bags(present).mean()
        return losses

    def count_losses(self, p: Tensor, offsets: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each bag's unique class count, (bags,) float32; `rows`: of the table of counts."""
        admissible = self.admissible[rows]
        tolerance = math.inf if self._all_admissible else 1e-4  # no digits are lost where all counts are admissible
        law = unique_count_log_probabilities(
            p, offsets, max_count=admissible.shape[1], admissible=admissible, tolerance=tolerance
        )
        loss = count_loss(
            law, self.counts_min[rows], self.counts_max[rows], admissible=admissible, epsilon=self.epsilon
        )
        return loss.float()

    def known(self, kind: str, part: Part, *, which: Tensor | None = None) -> KnownBags | None:
        """Return of which bags of a batch a table speaks, None if of none; decided without waiting for the device.

        which: (rows of the table,) bool on the host, for those that count; None for all.
        """
        assert part.items is not None
        assert part.offsets is not None
        on_host = self._rows_on_host[kind][part.host_items]
        known = on_host >= 0
        if which is not None and len(which):
            known = known & which[on_host.clamp_min(0)]
        if not bool(known.any()):
            return None
        rows = getattr(self, f"{kind}_row")[part.items].clamp_min(0)
        if bool(known.all()):
            return KnownBags(rows)
        of_images = known[bag_numbers(part.offsets.cpu())]
        return KnownBags(rows, *(to_device(mask.nonzero().flatten(), rows.device) for mask in (known, of_images)))

    def uninformed(self) -> dict[str, float]:
        """Return the mean loss of each kind of evidence for a model that says the same of every image and bag.

        It knows how often each label, count, share, presence and answer occurs in the evidence, and nothing else; of
        counts with equal frequencies and ε = 0 that is the logarithm of how many are admissible.
        """
        e, losses = self.evidence, {}
        if len(self.labelled):
            labels = e.labels[self.labelled]
            frequency = torch.bincount(labels, minlength=self.n_clusters) / len(labels)
            losses["labels"] = label_loss(frequency.expand(len(labels), -1), labels, epsilon=self.epsilon)
        if len(e.pairs):
            together = e.same.float().mean()
            answer = torch.stack([together, 1 - together]).expand(len(e.same), 2)
            losses["pairs"] = pair_loss(answer, torch.tensor([[1.0, 0.0]]), e.same, epsilon=self.epsilon)
        if len(e.count_bags):
            losses["counts"] = self._uninformed_counts()
        if len(e.proportion_bags):
            shares, offsets = self.shares.cpu(), torch.arange(len(self.shares) + 1)
            losses["proportions"] = proportion_loss(shares.mean(0).expand_as(shares), offsets, shares)
        if len(e.presence_bags):
            present, offsets = self.present.cpu(), torch.arange(len(self.present) + 1)  # bags of one image
            frequency = (present == 1).sum(0) / (present >= 0).sum(0).clamp_min(1)
            losses["presence"] = presence_loss(frequency.expand(present.shape), offsets, present, epsilon=self.epsilon)
        return {kind: float(loss.mean()) for kind, loss in losses.items()}

    def _uninformed_counts(self) -> Tensor:
        e, admissible = self.evidence, self.admissible.cpu()
        frequency = count_frequencies(e.counts_min, e.counts_max, admissible.any(0))
        law = frequency.clamp_min(1e-9).log().float().expand(admissible.shape)
        return count_loss(law, e.counts_min, e.counts_max, admissible=admissible, epsilon=self.epsilon)

    def class_evidence(self, p: Tensor) -> Tensor:
        """Return (clusters, classes) float64: how much speaks for a cluster being a class.

        p: (n_images, clusters) assignments of all training images, on the CPU. Labelled images vote with their
        assignment; bags with known proportions with the product of theirs and the bag's mean assignment, above what
        independence would give.
        """
        e, n_classes = self.evidence, len(self.evidence.class_names)
        p = p.double()
        votes = torch.zeros(p.shape[1], n_classes, dtype=torch.float64)
        if len(self.labelled):
            votes.index_add_(1, e.labels[self.labelled], p[self.labelled].T)
        if len(e.proportion_bags):
            means = self._bag_means(p)[e.proportion_bags]
            shares = e.proportions.double()
            votes += (means - means.mean(0)).T @ (shares - shares.mean(0)) + means.mean(0)[:, None] * shares.mean(0)
        elif len(e.presence_bags):
            means = self._bag_means(p)[e.presence_bags]
            stated = (e.presence == 1).double() - (e.presence == 0).double()
            votes += (means - means.mean(0)).T @ stated
        return votes

    def _bag_means(self, p: Tensor) -> Tensor:
        numbers = torch.repeat_interleave(torch.arange(len(self.evidence.bag_names)), self.evidence.bag_sizes)
        sums = torch.zeros(len(self.evidence.bag_names), p.shape[1], dtype=p.dtype)
        sums.index_add_(0, numbers, p[self.evidence.members])
        return sums / self.evidence.bag_sizes.clamp_min(1).unsqueeze(1)


def _whole_counts(shares: Tensor, sizes: Tensor) -> Tensor:
    """Return how many images of each class a bag holds, (bags, clusters) int64; zeros where no whole numbers are meant.

    >>> _whole_counts(torch.tensor([[0.333, 0.667], [0.4, 0.6]]), torch.tensor([3, 3])).tolist()
    [[1, 2], [0, 0]]
    """
    images = shares * sizes[:, None]
    counts = images.round()
    whole = ((images - counts).abs() <= _WHOLE).all(1) & (counts.sum(1) == sizes)
    return torch.where(whole[:, None], counts, 0.0).long()
