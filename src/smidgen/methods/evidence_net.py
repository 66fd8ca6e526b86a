"""The small network by which `fusion-embeddings` learns from evidence: it starts from assignments found without it.

It distils those assignments at first, then learns pseudo-labels by its own slow average (the teacher), while every kind
of evidence adds its likelihood. Bags with counts or proportions are learned in steps of EM: what each image is likely
to be, given its bag, is the target of its cross-entropy. Its mean assignment is drawn to the classes' shares, which
are learned in steps of EM too: equal ones at first, then the mean of what the images are likely to be.

Equation → function
    π_k ← mean_i q_ik, with pseudo-counts, as far as bags cover the images       bag_labels.shares_given_bags
    q_i ∝ p_i Σ_T P(T | bag) [k ∈ T] / p_i(T);  −Σ_k q_ik log p_ik               bag_posteriors, EvidenceNet._bag_losses
    −log P(evidence | p), each averaged over its own items                       terms.EvidenceTerms
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.evidence.bag_labels import kinds_given_bags, sets_of_counts, shares_given_bags
from smidgen.evidence.terms import LEAST_BETWEEN, EvidenceTerms, KnownBags
from smidgen.hardware import to_device
from smidgen.maths.bag_posteriors import labels_given_counts, labels_given_proportions
from smidgen.maths.counts import bag_numbers
from smidgen.methods.base import Problem
from smidgen.methods.fusion_options import FusionEmbeddingsConfig
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.priors import Prior, unfairness
from smidgen.methods.pure_bags import labels_of_pure_bags
from smidgen.nets.average import Average
from smidgen.nets.projection import one_layer

BAGS = 48
"""Bags per step, of at most `bag_images` images together."""

PASSES = 5
"""How often it is estimated which counts are wrong, and how large the classes are."""


class EvidenceNet(nn.Module):
    """Projected embeddings (batch, features) → assignments (batch, clusters) by a net's slow average.

    prior: the clusters' shares that its mean assignment is drawn to, and whether they are to be learned.
    """

    training_only: ClassVar[tuple[str, ...]] = ("net.", "start", "anchors", "prior", "terms.", "sets")
    sees_embeddings: ClassVar[bool] = False
    """Whether it is shown the embeddings as they are, and not what they are projected to."""

    start: Tensor
    anchors: Tensor
    sets: Tensor
    prior: Tensor

    def __init__(self, config: FusionEmbeddingsConfig, problem: Problem, features: int, *, prior: Prior) -> None:
        super().__init__()
        self.config, self._host, self._learns_shares = config, HostCopies(), prior.learned
        n_clusters = problem.n_clusters
        self.terms = EvidenceTerms(
            problem.evidence, n_clusters, epsilon=config.wrong, bags=BAGS, images=config.bag_images
        )
        self.net = self._new_net(problem, features)
        self.teacher = Average(self.net, decay=config.decay)
        self.register_buffer("start", torch.zeros(0, n_clusters))
        self.register_buffer("anchors", torch.full((problem.n_images,), -1))
        self.register_buffer("sets", sets_of_counts(problem.evidence, n_clusters), persistent=False)
        self.register_buffer("prior", prior.shares.clone())

    def _new_net(self, problem: Problem, features: int) -> nn.Sequential:
        layer = one_layer(features, self.config.hidden, dropout=self.config.dropout)
        return nn.Sequential(*layer, nn.Linear(self.config.hidden, problem.n_clusters))

    @property
    def likelihoods(self) -> tuple[str, ...]:
        """The losses of evidence that is not learned in steps of EM: counts too, where the sets are too many."""
        return self.terms.names(without=kinds_given_bags(self.sets))

    def forward(self, projected: Tensor) -> Tensor:
        """Return the teacher's assignments (batch, clusters), rows sum to one."""
        return self.teacher.net(projected).softmax(1)

    def begin(self, projected: Tensor, start: Tensor) -> None:
        """Take the assignments (images, clusters) to start from. projected: (images, features), of all images."""
        self.start = start
        self._judge_counts(projected, start)

    def begins(self, steps: int) -> tuple[int, ...]:
        """Return the steps of the refinement before which `judge` is to be called, the first of them for `begin`."""
        if not len(self.terms.evidence.proportion_bags):
            return self.terms.begins(steps, passes=PASSES)
        return tuple(range(0, max(steps, 1), max(LEAST_BETWEEN, steps // PASSES)))

    @torch.no_grad()
    def judge(self, projected: Tensor) -> None:
        """Find again which counts are wrong, and how large the classes are, by what has been learned meanwhile."""
        p = self(projected)
        self._judge_counts(projected, p)
        if self._learns_shares:
            shares = shares_given_bags(
                self.terms.evidence, p, sets=self.sets, right=self.terms.right, leak=self.config.leak
            )
            self.prior.copy_(shares)

    @torch.no_grad()
    def _judge_counts(self, projected: Tensor, p: Tensor) -> None:
        """Find which counts are wrong by the assignments of all images, and label the images of bags of one class."""
        self.terms.judge_counts(p)
        found = labels_of_pure_bags(self.terms.evidence, projected, p, right=self.terms.right)
        self.anchors = found.to(self.anchors)

    def request(self, size: int, generator: torch.Generator) -> dict[str, Request]:
        """Ask for images of bags of one class, a quarter of `size`, and for what evidence is about."""
        requests = {}
        known = self._host("anchors", self.anchors, lambda anchors: (anchors >= 0).nonzero().flatten())
        if len(known):
            requests["anchors"] = Request(known[torch.randint(len(known), (size // 4,), generator=generator)])
        return requests | self.terms.request(generator, view=None)

    def losses(self, parts: Mapping[str, Part], every: Tensor, *, progress: int) -> dict[str, Tensor]:
        """Return the net's own losses, those of each kind of evidence, and their sum as `total`.

        every: projected embeddings (images, features) of all images. progress: steps of the refinement done, or more.
        """
        projected = {name: every[part.indices] for name, part in parts.items()}
        sizes = [len(x) for x in projected.values()]
        logits = dict(zip(projected, self.net(torch.cat([*projected.values()])).split(sizes), strict=True))
        distill_weight = self._distill_weight(progress)
        losses = self._unsupervised_losses(parts["images"], projected["images"], logits["images"], distill_weight)
        p = {name: values.softmax(1) for name, values in logits.items()}
        known = self.terms.losses(parts, p, kinds=self.likelihoods)
        if "bags" in parts:
            known |= self._bag_losses(parts["bags"], projected["bags"], logits["bags"], distill_weight)
        if "anchors" in parts:
            known["pure_bags"] = F.cross_entropy(logits["anchors"], self.anchors[parts["anchors"].indices])
        own = losses["begun"] + losses["own"] + self.config.refine_balance * losses["balance"]
        return {"total": own + self.config.evidence * sum(known.values()), **losses, **known}

    def _distill_weight(self, progress: int) -> float:
        return max(0.0, 1 - progress / max(1e-9, self.config.warm * self.config.refine_steps))

    def _unsupervised_losses(
        self, part: Part, projected: Tensor, logits: Tensor, distill_weight: float
    ) -> dict[str, Tensor]:
        """Return the losses without evidence: distillation of the start, the teacher's pseudo-labels, balance."""
        log_p = logits.log_softmax(1)
        with torch.no_grad():
            confidence, labels = self(projected).max(1)
            sure = (confidence > self.config.threshold).float()
        pseudo_label = (F.nll_loss(log_p, labels, reduction="none") * sure).sum() / sure.sum().clamp_min(1)
        distill = -(self.start[part.indices] * log_p).sum(1).mean()
        balance = unfairness(log_p.exp().mean(0), self.prior)
        return {"begun": distill_weight * distill, "own": (1 - distill_weight) * pseudo_label, "balance": balance}

    def _bag_losses(self, part: Part, projected: Tensor, logits: Tensor, distill_weight: float) -> dict[str, Tensor]:
        """Return the cross-entropy with the posterior of images, given the counts or proportions of their bags."""
        with torch.no_grad():
            believed = distill_weight * self.start[part.indices] + (1 - distill_weight) * self(projected)
            posteriors = self._posteriors(part, believed)
        losses = -logits.log_softmax(1)
        return {kind: known.of_images((q * losses).sum(1)).mean() for kind, (q, known) in posteriors.items()}

    def _posteriors(self, part: Part, believed: Tensor) -> dict[str, tuple[Tensor, KnownBags]]:
        """Return for counts and proportions what each image of bags is likely to be, and of which bags they speak."""
        assert part.offsets is not None
        found = {}
        known = self.terms.known("counts", part)
        if known is not None and self.sets.shape[1]:
            low, high, right = (
                self.terms.target(name)[known.rows] for name in ("counts_min", "counts_max", "count_right")
            )
            q = labels_given_counts(believed, part.offsets, low, high, sets=self.sets, leak=self.config.leak)
            found["counts"] = q * right[to_device(bag_numbers(part.offsets), right.device)][:, None], known
        known = self.terms.known("proportions", part)
        if known is not None:
            wanted = self.terms.target("proportions")[known.rows]
            found["proportions"] = labels_given_proportions(believed, part.offsets, wanted), known
        return found

    def follow(self, step: int) -> None:
        """Let the teacher follow the net, fast at first."""
        self.teacher.update(self.net, decay=min(self.config.decay, (1 + step) / (10 + step)))

    def as_layers(self) -> tuple[nn.Sequential, tuple[Tensor, Tensor]]:
        """Return the teacher but for its last layer, and weight (clusters, hidden) and bias (clusters,) of that."""
        *layers, last = self.teacher.net.children()
        assert isinstance(last, nn.Linear)
        return nn.Sequential(*layers), (last.weight, last.bias)
