"""`fusion` of embeddings, computed by a frozen encoder or given by the user.

Idea. In the embedding space of a good encoder neighbours mostly belong to one class, and classes are nearly linearly
separable. So many linear heads are trained in parallel to make the same prediction for an image and its neighbour, with
balanced clusters and without becoming confident too early (`methods.voting_heads`). The best heads by their own loss,
which needs no labels, are aligned and averaged into an ensemble. Given evidence, a small network is initialised by
distilling that ensemble, its clusters matched to classes; it learns from the evidence's likelihood and pseudo-labels.

Source. Neighbours after SCAN (Van Gansbeke et al., ECCV 2020), the heads as `methods.voting_heads` says, written from
the equations; what evidence adds (`evidence.terms`) is ours.

Equation → function
    ½ CE(Sinkhorn(z_neighbour / T), z) + ½ CE(Sinkhorn(z / T), z_neighbour)      voting_heads.swapped_loss
    T ← T + γ (softness − loss / ln clusters)                                    voting_heads.updated_temperature
    mean over the best heads of softmax(z), clusters matched to the best head's  voting_heads.VotingHeads.ensemble
    q_i ∝ p_i Σ_T P(T | bag) [k ∈ T] / p_i(T);  −Σ_k q_ik log p_ik               bag_posteriors, _bag_losses
    −log P(evidence | p), each averaged over its own items                       terms.EvidenceTerms
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.terms import EvidenceTerms
from smidgen.maths.bag_posteriors import labels_given_counts, labels_given_proportions
from smidgen.maths.counts import cluster_subsets, n_subsets
from smidgen.maths.entropy import entropy
from smidgen.maths.matching import match_counts
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.fusion_options import FusionConfig
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.voting_heads import VotingHeads
from smidgen.nets.average import Average
from smidgen.nets.composed import Projected
from smidgen.nets.projection import ProjectedEncoder, Projection, one_layer
from smidgen.options import Count, CountOrZero, Several, Share, ShareBelowOne, Weight, option

COOLING = (0.6, 0.9)
"""The fractions of the stage "select" between which the softness is lowered; before that the heads are compared."""

MOST_SETS = 20_000
"""The largest number of sets of clusters to enumerate."""

LEAST = 0.2
"""The fraction of the heads' steps without which no clusters form."""

LEAST_PURE = 3
"""Bags of one class per cluster from which on bags are clustered by their means."""

BAGS = 48
"""Bags per step, of at most `bag_images` images together."""


@dataclass(frozen=True, eq=False)
class FusionEmbeddingsConfig(FusionConfig):
    """Settings of `fusion-embeddings`; the defaults are the ones measured on CIFAR-10 (LAB.md)."""

    heads: Count = 32
    steps: Count = 720
    batch_size: Several = 2048
    learning_rate: Weight = 3e-3
    refine_steps: CountOrZero = option(1500, "optimiser steps of the refinement, where there is evidence")
    refine_batch_size: Several | None = 1024
    refine_learning_rate: Weight | None = 1e-3
    weight_decay: Weight = 1e-2
    components: Count = 256
    neighbours: Count = option(30, "number of nearest neighbours per image, at most half of the mean cluster size")
    refine_balance: Weight = 0.5
    threshold: Share = 0.8
    decay: Share = 0.99
    evidence: Weight = 1.0
    wrong: Share = 0.1
    bag_images: Count = 1536
    kept: Count = option(8, "number of heads trained beyond the first half of their stage")
    votes: Count = option(5, "number of heads in the ensemble")
    softness: Share = option(0.7, "target of the heads' loss / ln(clusters): 0 is confident, 1 uniform")
    final_softness: Share = option(0.5, "`softness` at the end of the stage")
    gain: Weight = option(0.02, "step size of the temperature towards `softness`")
    hidden: Count = option(512, "hidden units of the network that learns from evidence")
    dropout: ShareBelowOne = option(0.5, "of that layer")
    warm: Share = option(0.3, "fraction of the refinement over which distillation of the ensemble fades out")
    leak: Share = option(0.1, "probability that an image looks like a class that its bag does not hold")


@dataclass(frozen=True, eq=False, kw_only=True)
class ProjectedStart(StartingPoint):
    """What a run offers to other `fusion-embeddings` runs: also the projection alone."""

    projection: Projection


class FusionEmbeddings(Method):
    """See the module's docstring."""

    name = "fusion-embeddings"
    training_only = (
        *("projected", "neighbours", *(f"heads.{name}" for name in VotingHeads.training_only)),
        *("net.", "start", "anchors", "terms.", "sets"),
    )
    evidence_use = EvidenceUse(kinds=LEARNED)

    projected: Tensor
    neighbours: Tensor
    start: Tensor
    anchors: Tensor
    refined: Tensor
    sets: Tensor

    def __init__(self, config: FusionEmbeddingsConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        n_clusters = problem.n_clusters
        self.terms = EvidenceTerms(
            problem.evidence, n_clusters, epsilon=config.wrong, bags=BAGS, images=config.bag_images
        )
        self.projection = Projection(math.prod(problem.shape), config.components)
        self.heads = VotingHeads(
            self.projection.features, n_clusters, heads=config.heads, kept=config.kept, votes=config.votes
        )
        layer = one_layer(self.projection.features, config.hidden, dropout=config.dropout)
        self.net = nn.Sequential(*layer, nn.Linear(config.hidden, n_clusters))
        self.teacher = Average(self.net, decay=config.decay)
        self.register_buffer("projected", torch.zeros(0, self.projection.features))
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("start", torch.zeros(0, n_clusters))
        self.register_buffer("anchors", torch.full((problem.n_images,), -1))
        self.register_buffer("refined", torch.tensor(False))
        self.register_buffer("sets", _sets(problem), persistent=False)
        chance = {kind: loss for kind, loss in self.terms.chance_losses().items() if kind in self._likelihoods}
        self.evidence_use = dataclasses.replace(self.evidence_use, chance_losses=chance)

    def stages(self) -> list[Stage]:
        """Return "cluster" (all heads), "select" (the best of them, made surer), and with evidence "refine"."""
        half = self._first_half
        stages = [
            # The temperature holds the loss where it is.
            Stage("cluster", half, schedule="constant", loss_should_decrease=False, least=LEAST),
            Stage("select", self.config.steps - half, schedule="cosine", loss_should_decrease=False, least=LEAST),
        ]
        known = self.config.refine_steps > 0 and bool(self.terms.evidence.sizes())
        return [*stages, Stage("refine", self.config.refine_steps)] if known else stages

    @property
    def _first_half(self) -> int:
        return max(1, self.config.steps // 2)

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW over the heads, or over the net that learns from evidence."""
        trained, rate = self.net if stage == "refine" else self.heads, self.config.peak_rate(stage)
        return [torch.optim.AdamW(trained.parameters(), lr=rate, weight_decay=self.config.weight_decay)]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Project and find neighbours; choose the heads to go on with; let them vote and evidence name the clusters."""
        if stage == "cluster":
            self.projection.fit(embed(lambda images: images.flatten(1)))
            self.projected = embed(self.projection).to(self.heads.order.device)
            # Of few images, most of many neighbours would be of other clusters.
            most = max(1, len(self.projected) // (2 * self.problem.n_clusters))
            wanted = min(self.config.neighbours, most, len(self.projected) - 1)
            self.neighbours = nearest_neighbours(self.projected, wanted, metric="cosine")[0].to(torch.int32)
        elif stage == "select":
            self.heads.keep_best()
        else:
            self._align_heads()
            self.start = self.heads.ensemble(self.projected).detach()
            self._anchor()
            self.refined.fill_(True)

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Ask for images and one random neighbour each, or for images and evidence."""
        size = self.config.images_per_step(stage)
        rows = torch.randint(self.problem.n_images, (size,), generator=generator)
        if stage != "refine":
            column = torch.randint(self.neighbours.shape[1], rows.shape, generator=generator)
            near = self._host("neighbours", self.neighbours)[rows, column].long()
            return {"images": Request(rows), "neighbours": Request(near)}
        requests = {"images": Request(rows)}
        known = self._host("anchors", self.anchors, lambda anchors: (anchors >= 0).nonzero().flatten())
        if len(known):
            requests["anchors"] = Request(known[torch.randint(len(known), (size // 4,), generator=generator)])
        return requests | self.terms.request(generator, view=None)

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the heads' swapped loss, or the net's own and that of each kind of evidence; in float32."""
        with torch.autocast(self.projected.device.type, enabled=False):
            return (
                self._net_losses(parts, progress)
                if stage == "refine"
                else self._head_losses(parts, stage, step, progress)
            )

    # ---------------------------------------------------------------------------------------------------------- heads

    def _head_losses(self, parts: Mapping[str, Part], stage: str, step: int, progress: int) -> dict[str, Tensor]:
        share = progress / max(1, self.config.steps - self._first_half) if stage == "select" else 0.0
        losses = self.heads.losses(
            *(self.projected[parts[name].indices] for name in ("images", "neighbours")),
            step=step,
            kept_only=stage == "select",
            softness=self._softness(share),
            gain=self.config.gain,
            scored=share < COOLING[0],
        )
        return {"total": losses.sum(), "swapped": losses.mean(), "temperature": self.heads.temperature.clone()}

    def _softness(self, share: float) -> float:
        first, last = self.config.softness, self.config.final_softness
        cooled = (share - COOLING[0]) / (COOLING[1] - COOLING[0])
        return first + (last - first) * min(1.0, max(0.0, cooled))

    def _align_heads(self) -> None:
        """Align the best heads, match their clusters to classes of the evidence, and calibrate the ensemble."""
        self.heads.align_heads(self.projected)
        if self.terms.names_classes:
            self.heads.match_to_classes(self.terms.class_evidence(self._neighbour_mean().cpu()))
        self.heads.calibrate(self.projected, self.neighbours[:, :10])

    @torch.no_grad()
    def _neighbour_mean(self) -> Tensor:
        """Return the mean assignment of each image's neighbours: more robust than its own if labels are few."""
        own = self.heads.ensemble(self.projected)
        mean = torch.zeros_like(own)
        for near in self.neighbours.T:
            mean += own[near.long()] / self.neighbours.shape[1]
        return mean

    # --------------------------------------------------------------------------------------------------- the evidence

    def _anchor(self) -> None:
        """Label the images of pure bags, whose images are all of one class, by clustering the bags' means.

        The mean of some twenty embeddings lies far closer to its class than one does, and Ward's method finds the
        classes among such means where k-means mostly does not.
        """
        known, n_clusters = self.terms.evidence, self.problem.n_clusters
        pure = known.count_bags[(known.counts_max == 1) & (known.bag_sizes[known.count_bags] > 1)]
        if len(pure) < LEAST_PURE * n_clusters:
            return
        members = [known.members[known.offsets[bag] : known.offsets[bag + 1]] for bag in pure.tolist()]
        unit, start = F.normalize(self.projected, dim=1).cpu(), self.start.cpu().double()
        means = torch.stack([unit[rows].mean(0) for rows in members]).double()
        found = AgglomerativeClustering(n_clusters, linkage="ward").fit_predict(means.numpy())
        votes = torch.zeros(n_clusters, n_clusters, dtype=torch.float64)
        for label, rows in zip(found.tolist(), members, strict=True):
            votes[label] += start[rows].mean(0)
        cluster = match_counts(votes.numpy())
        for label, rows in zip(found.tolist(), members, strict=True):
            self.anchors[rows.to(self.anchors.device)] = int(cluster[label])

    def _net_losses(self, parts: Mapping[str, Part], progress: int) -> dict[str, Tensor]:
        projected = {name: self.projected[part.indices] for name, part in parts.items()}
        sizes = [len(x) for x in projected.values()]
        logits = dict(zip(projected, self.net(torch.cat([*projected.values()])).split(sizes), strict=True))
        distill_weight = max(0.0, 1 - progress / max(1e-9, self.config.warm * self.config.refine_steps))
        losses = self._unsupervised_losses(parts["images"], projected["images"], logits["images"], distill_weight)
        p = {name: values.softmax(1) for name, values in logits.items()}
        known = self.terms.losses(parts, p, kinds=self._likelihoods)
        if "bags" in parts:
            known |= self._bag_losses(parts["bags"], projected["bags"], logits["bags"], distill_weight)
        if "anchors" in parts:
            known["pure_bags"] = F.cross_entropy(logits["anchors"], self.anchors[parts["anchors"].indices])
        own = losses["begun"] + losses["own"] + self.config.refine_balance * losses["balance"]
        return {"total": own + self.config.evidence * sum(known.values()), **losses, **known}

    @property
    def _likelihoods(self) -> tuple[str, ...]:
        """The losses of evidence that is not taken in steps of EM: counts too, where the sets are too many."""
        by_posterior = ("proportions", *(("counts",) if self.sets.shape[1] else ()))
        return tuple(name for name in self.terms.names() if name not in by_posterior)

    def _unsupervised_losses(
        self, part: Part, projected: Tensor, logits: Tensor, distill_weight: float
    ) -> dict[str, Tensor]:
        """Return the losses without evidence: distillation of the ensemble, the teacher's pseudo-labels, balance."""
        log_p = logits.log_softmax(1)
        with torch.no_grad():
            confidence, labels = self.teacher.net(projected).softmax(1).max(1)
            sure = (confidence > self.config.threshold).float()
        pseudo_label = (F.nll_loss(log_p, labels, reduction="none") * sure).sum() / sure.sum().clamp_min(1)
        distill = -(self.start[part.indices] * log_p).sum(1).mean()
        balance = -entropy(log_p.exp().mean(0))
        return {"begun": distill_weight * distill, "own": (1 - distill_weight) * pseudo_label, "balance": balance}

    def _bag_losses(self, part: Part, projected: Tensor, logits: Tensor, distill_weight: float) -> dict[str, Tensor]:
        """Return the cross-entropy with the posterior of images, given the counts or proportions of their bags."""
        assert part.offsets is not None
        with torch.no_grad():
            believed = distill_weight * self.start[part.indices] + (1 - distill_weight) * self.teacher.net(
                projected
            ).softmax(1)
        targets = {}
        known = self.terms.known("counts", part)
        if known is not None and self.sets.shape[1]:
            low, high = (self.terms.target(name)[known.rows] for name in ("counts_min", "counts_max"))
            q = labels_given_counts(believed, part.offsets, low, high, sets=self.sets, leak=self.config.leak)
            targets["counts"] = q, known
        known = self.terms.known("proportions", part)
        if known is not None:
            targets["proportions"] = (
                labels_given_proportions(believed, part.offsets, self.terms.target("proportions")[known.rows]),
                known,
            )
        losses = -logits.log_softmax(1)
        return {kind: known.of_images((q * losses).sum(1)).mean() for kind, (q, known) in targets.items()}

    def after_step(self, stage: str, step: int) -> None:
        """Update the EMA teacher."""
        if stage == "refine":
            self.teacher.update(self.net, decay=min(self.config.decay, (1 + step) / (10 + step)))  # fast at first

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Let the heads vote, if that has not been done."""
        if not self.refined:
            self._align_heads()

    # ------------------------------------------------------------------------------------------------------- results

    @property
    def starting_point(self) -> ProjectedStart:
        """The net's slow average on the projection; without evidence the voters as one layer: their geometric mean."""
        components, projection = self.config.components, self.projection
        if self.refined:
            *layer, last = self.teacher.net.children()
            assert isinstance(last, nn.Linear)
            parts = Projected(components, self.config.hidden)
            net = ProjectedEncoder(projection, nn.Sequential(*layer))
            return ProjectedStart(parts, net, (last.weight, last.bias), projection=projection)
        return ProjectedStart(Projected(components), projection, self.heads.as_layer(), projection=projection)

    def start_from(self, start: StartingPoint) -> None:
        """Take the projection of another run of this method; its clusters are looked for anew."""
        if isinstance(start, ProjectedStart):
            self.projection.load_state_dict(start.projection.state_dict())
        else:
            super().start_from(start)

    def encode(self, images: Tensor) -> Tensor:
        """Return the principal components (batch, features) that are clustered."""
        return self.projection(images)

    def assign(self, images: Tensor) -> Tensor:
        """Return the voters' assignments (batch, clusters), or with evidence those of the net's slow average."""
        with torch.autocast(images.device.type, enabled=False):
            projected = self.projection(images)
            learned, voted = self.teacher.net(projected).softmax(1), self.heads.ensemble(projected)
            return torch.where(self.refined, learned, voted)  # no `if`: an export follows tensors only


def _sets(problem: Problem) -> Tensor:
    """Return the sets that bags with counts may hold, (clusters, sets); none where there are too many to look at."""
    counts = problem.evidence.counts_max
    most = min(int(counts.max()), problem.n_clusters) if len(counts) else 0
    if most == 0 or n_subsets(problem.n_clusters, max_count=most) > MOST_SETS:
        return torch.zeros(problem.n_clusters, 0)
    return cluster_subsets(problem.n_clusters, most).float()
