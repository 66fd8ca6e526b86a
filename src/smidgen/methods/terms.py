"""The terms that evidence adds to an objective: which images to ask for, and the losses of what is known about them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.resolved import Resolved
from smidgen.data.views import View
from smidgen.maths.counts import admissible_counts, count_frequencies, count_loss, unique_count_log_probabilities
from smidgen.maths.likelihoods import class_count_loss, label_loss, pair_loss, presence_loss, proportion_loss

EVERY_KIND = ("labels", "counts", "proportions", "presence", "pairs")
"""The kinds of evidence there are terms for."""

NAMING = ("labels", "proportions", "presence")
"""The kinds of evidence that name classes; their terms need clusters that are matched to the classes."""

CLASS_COUNTS = "class_counts"
"""Proportions that are whole numbers of images, by the exact law: a term for clusters that have formed."""

_WHOLE = 0.1  # images: what shares may be off a whole number for having been rounded


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
        self._rows("proportions", evidence.proportion_bags)
        self._buffer("shares", F.pad(evidence.proportions, (0, n_clusters - n_classes)))
        sizes = evidence.bag_sizes[evidence.proportion_bags]
        self._buffer("class_counts", _whole_counts(self.shares, sizes))
        self._rows("presence", evidence.presence_bags)
        self._buffer("present", F.pad(evidence.presence, (0, n_clusters - n_classes), value=-1))

    def _buffer(self, name: str, values: Tensor) -> None:
        self.register_buffer(name, values.clone(), persistent=False)

    def _rows(self, name: str, bags: Tensor) -> None:
        """Store the row of each bag in a table that speaks of `bags`, -1 where it does not."""
        rows = torch.full((len(self.evidence.bag_names),), -1)
        rows[bags] = torch.arange(len(bags))
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
        rows, known = self.known("counts", part)
        if known.any() and "counts" in kinds:
            losses["counts"] = self.count_losses(p, part.offsets, rows)[known].mean()
        rows, known = self.known("proportions", part)
        if known.any() and "proportions" in kinds:
            losses["proportions"] = proportion_loss(p, part.offsets, self.shares[rows])[known].mean()
        if known.any() and CLASS_COUNTS in kinds:
            counts = self.class_counts[rows]
            exact = class_count_loss(p, part.offsets, counts, epsilon=self.epsilon)[known & (counts.sum(1) > 0)]
            losses |= {CLASS_COUNTS: exact.mean().float()} if len(exact) else {}
        rows, known = self.known("presence", part)
        if known.any() and "presence" in kinds:
            present = presence_loss(p, part.offsets, self.present[rows], epsilon=self.epsilon)
            losses["presence"] = present[known].mean()
        return losses

    def count_losses(self, p: Tensor, offsets: Tensor, rows: Tensor) -> Tensor:
        """Return the loss of each bag's unique class count, (bags,) float32; `rows`: of the table of counts."""
        admissible = self.admissible[rows]
        law = unique_count_log_probabilities(p, offsets, max_count=admissible.shape[1], admissible=admissible)
        loss = count_loss(
            law, self.counts_min[rows], self.counts_max[rows], admissible=admissible, epsilon=self.epsilon
        )
        return loss.float()

    def known(self, kind: str, part: Part) -> tuple[Tensor, Tensor]:
        """Return the rows of a batch's bags in a table, 0 where it does not speak of one, and where it does."""
        rows = getattr(self, f"{kind}_row")[part.items]
        return rows.clamp_min(0), rows >= 0

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
