"""`fusion` of embeddings, computed by a frozen encoder or given by the user.

Idea. In the embedding space of a good encoder neighbours mostly belong to one class, and classes are nearly linearly
separable, the more so in features that are moved towards their neighbours (`nets.spread_features`). Linear heads that
are trained for agreement of neighbours (`methods.voting_heads`) and do best with many images, and k-means and Ward's
method on those features, which do best with few, are matched and averaged; one softmax layer on the features learns
their mean (`methods.feature_layer`). From labels several classifiers learn, are weighted by how well they predict
held-out labels, and make one such layer, the sizes of the classes estimated (`methods.label_pool`). Other evidence
trains a small network that starts by distilling that layer; it learns from the evidence's likelihood and pseudo-labels.

Source. Neighbours after SCAN (Van Gansbeke et al., ECCV 2020), the heads as `methods.voting_heads` says, the sizes of
classes after Saerens et al. (2002), classes by the graph after Calder et al. (ICML 2020), written from the equations;
what evidence adds (`evidence.terms`) is ours.

Equation → function
    ½ CE(Sinkhorn(z_neighbour / T), z) + ½ CE(Sinkhorn(z / T), z_neighbour)      voting_heads.swapped_loss
    T ← T + γ (softness − loss / ln clusters)                                    voting_heads.updated_temperature
    mean over k-means, Ward and heads, clusters matched                          feature_layer.unsupervised_layer
    p_k ∝ π_k Π_m p_mk^w_m;  argmax_w Π p(held-out label)                        label_pool.labelled_layer
    q_i ∝ p_i Σ_T P(T | bag) [k ∈ T] / p_i(T);  −Σ_k q_ik log p_ik               bag_posteriors, _bag_losses
    −log P(evidence | p), each averaged over its own items                       terms.EvidenceTerms
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.terms import EvidenceTerms
from smidgen.hardware import to_device
from smidgen.maths.bag_posteriors import labels_given_counts, labels_given_proportions
from smidgen.maths.counts import bag_numbers, cluster_subsets, n_subsets
from smidgen.maths.graph_spreading import neighbour_mean
from smidgen.maths.matching import in_order_of_classes
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.feature_layer import FeatureLayer, layer_of_shares, unsupervised_layer
from smidgen.methods.fusion_options import FusionConfig
from smidgen.methods.fusion_sizes import batch_by_size, neighbours_by_size
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.label_pool import Views, labelled_layer, pooled_assignments
from smidgen.methods.priors import read_prior, unfairness
from smidgen.methods.pure_bags import labels_of_pure_bags
from smidgen.methods.voting_heads import VotingHeads
from smidgen.nets.average import Average
from smidgen.nets.composed import Projected
from smidgen.nets.projection import ProjectedEncoder, Projection, one_layer
from smidgen.nets.spread_features import SpreadFeatures
from smidgen.options import Count, CountOrZero, Several, Share, ShareBelowOne, Weight, option

COOLING = (0.6, 0.9)
"""The fractions of the stage "select" between which the softness is lowered; before that the heads are compared."""

MOST_SETS = 20_000
"""The largest number of sets of clusters to enumerate."""

LEAST = 0.2
"""The fraction of the heads' steps without which no clusters form."""

LESS = 4
"""How many times fewer rounds of spreading labels see as well: they say more of what is near at hand."""

FORMED = 200
"""The heads' steps before which there are no clusters whose sizes could be released."""

TRUST = 1.0
"""Weight of the heads' assignments beside the classifiers that learn from labels, of many images."""

MOST_LABELS = 10_000
"""Labels from which those classifiers learn, of many images; the net learns from all."""

OFFERED_STRENGTH = 1e-3
"""C of the regression by which the projection takes over the layer's assignments."""

PASSES = 5
"""How often in the refinement it is estimated which counts are wrong."""

BAGS = 48
"""Bags per step, of at most `bag_images` images together."""


@dataclass(frozen=True, eq=False)
class FusionEmbeddingsConfig(FusionConfig):
    """Settings of `fusion-embeddings`; the defaults were measured on CIFAR-10 and on small collections (LAB.md)."""

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
    rounds: Count = option(8, "rounds of moving features towards their neighbours")
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
    small: CountOrZero = option(600, "images per cluster below which one layer learns from heads, k-means and labels")
    leak: Share = option(0.1, "probability that an image looks like a class that its bag does not hold")


@dataclass(frozen=True, eq=False, kw_only=True)
class ProjectedStart(StartingPoint):
    """What a run offers to other `fusion-embeddings` runs: also the projection alone."""

    projection: Projection


class FusionEmbeddings(Method):
    """See the module's docstring."""

    name = "fusion-embeddings"
    training_only = (
        *("spread", "projected", "neighbours", *(f"heads.{name}" for name in VotingHeads.training_only)),
        *("net.", "start", "anchors", "terms.", "sets"),
    )
    evidence_use = EvidenceUse(kinds=LEARNED)

    spread: Tensor
    projected: Tensor
    neighbours: Tensor
    start: Tensor
    anchors: Tensor
    refined: Tensor
    sets: Tensor
    prior: Tensor

    def __init__(self, config: FusionEmbeddingsConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        n_clusters = problem.n_clusters
        self.terms = EvidenceTerms(
            problem.evidence, n_clusters, epsilon=config.wrong, bags=BAGS, images=config.bag_images
        )
        self.features = self._new_features()
        size, projected = self.features.features, self.projection.features
        self.heads = VotingHeads(projected, n_clusters, heads=config.heads, kept=config.kept, votes=config.votes)
        self.layer = FeatureLayer(size, n_clusters)
        self.offered = FeatureLayer(projected, n_clusters)  # the same, as far as it can be learned from the projection
        layer = one_layer(projected, config.hidden, dropout=config.dropout)
        self.net = nn.Sequential(*layer, nn.Linear(config.hidden, n_clusters))
        self.teacher = Average(self.net, decay=config.decay)
        self.register_buffer("spread", torch.zeros(0, size))
        self.register_buffer("projected", torch.zeros(0, projected))
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("start", torch.zeros(0, n_clusters))
        self.register_buffer("anchors", torch.full((problem.n_images,), -1))
        self.register_buffer("refined", torch.tensor(False))
        self.register_buffer("sets", _sets(problem), persistent=False)
        self._prior = read_prior(config.prior, n_clusters, of="clusters")
        self.register_buffer("prior", self._prior.shares, persistent=False)
        chance = {kind: loss for kind, loss in self.terms.chance_losses().items() if kind in self._likelihoods}
        self.evidence_use = dataclasses.replace(self.evidence_use, chance_losses=chance)

    def stages(self) -> list[Stage]:
        """Return "cluster" (all heads), "select" (the best of them, made surer), and with more than labels "refine"."""
        half = self._first_half
        stages = [
            # The temperature holds the loss where it is.
            Stage("cluster", half, schedule="constant", loss_should_decrease=False, least=LEAST),
            Stage("select", self.config.steps - half, schedule="cosine", loss_should_decrease=False, least=LEAST),
        ]
        learned = {"labels"} if self._is_small else set()  # by the layer
        steps = self.config.refine_steps
        refines = steps > 0 and bool(self.terms.evidence.sizes().keys() - learned)
        begins = self.terms.begins(steps, passes=PASSES)
        return [*stages, Stage("refine", steps, begins=begins)] if refines else stages

    @property
    def _is_small(self) -> bool:
        return self.problem.n_images < self.config.small * self.problem.n_clusters

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
            inputs = embed(lambda images: images.flatten(1))
            if self._is_small:
                self.spread = self.features.fit(inputs).to(self.heads.order.device)
            else:
                self.projection.fit(inputs)
            self.projected = embed(self.projection).to(self.heads.order.device)
            # Of few images, most of many neighbours would be of other clusters.
            most = max(1, len(self.projected) // (2 * self.problem.n_clusters))
            wanted = min(self.config.neighbours, most, len(self.projected) - 1)
            self.neighbours = nearest_neighbours(self.projected, wanted, metric="cosine")[0].to(torch.int32)
        elif stage == "select":
            self.heads.keep_best()
        elif self.refined:
            self._judge_counts(self.teacher.net(self.projected).softmax(1))
        else:
            self._settle(embed, generator)
            self.start = self._begun(embed)
            self._judge_counts(self.start)
            self.refined.fill_(True)

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Ask for images and one random neighbour each, or for images and evidence."""
        size = self.config.images_per_step(stage)
        if self._is_small:
            size = batch_by_size(size, n_images=self.problem.n_images)
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
        done = progress + (self._first_half if stage == "select" else 0)
        exponent = self._prior.exponent(done / self.config.steps) if done >= FORMED else 1.0
        losses = self.heads.losses(
            *(self.projected[parts[name].indices] for name in ("images", "neighbours")),
            step=step,
            kept_only=stage == "select",
            softness=self._softness(share),
            gain=self.config.gain,
            scored=share < COOLING[0] and exponent == 1,  # released, heads with merged clusters lose least
            prior=self.prior,
            exponent=exponent,
        )
        return {"total": losses.sum(), "swapped": losses.mean(), "temperature": self.heads.temperature.clone()}

    def _softness(self, share: float) -> float:
        first, last = self.config.softness, self.config.final_softness
        cooled = (share - COOLING[0]) / (COOLING[1] - COOLING[0])
        return first + (last - first) * min(1.0, max(0.0, cooled))

    # ------------------------------------------------------------------------------------------------------- the layer

    @property
    def projection(self) -> Projection:
        """The components of the standardised embeddings, on which the net learns from evidence."""
        return self.features.standardised

    def _settle(self, embed: Embed, generator: torch.Generator) -> None:
        """Learn the layer from heads, k-means and Ward's method; name its clusters by evidence; learn the labels."""
        self.heads.align_heads(self.projected)
        if not self._is_small:
            self._name_heads()
            return
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        votes = self.heads.ensemble(self.projected).detach()
        self.layer.take(unsupervised_layer(self.spread, votes, generator=torch.Generator().manual_seed(seed)))
        if self.terms.names_classes:
            near = neighbour_mean(self.layer(self.spread), self.neighbours.long())  # where labels are few, own misleads
            self.layer.reorder(in_order_of_classes(self.terms.class_evidence(near.cpu()).numpy()))
        labels, layer = self.terms.evidence.labels, (self.layer.weight, self.layer.bias)
        given = None if self._prior.learned else self.prior
        if bool((labels >= 0).any()):
            inputs = embed(lambda images: images.flatten(1))
            self.layer.take(
                labelled_layer(self._views(inputs, self.features, self.spread), labels, layer, shares=given)
            )
        else:
            if given is not None:
                self.layer.take(layer_of_shares(self.spread, layer, self._shares_in_order(given)))
            self.layer.calibrate(self.spread, self.neighbours[:, :10])
        assignments = self.layer(self.spread)
        self.offered.take(softmax_regression(self.projected, assignments, strength=OFFERED_STRENGTH))

    def _new_features(self) -> SpreadFeatures:
        """Return spread features of the problem's sizes, not fitted."""
        n_images, n_clusters = self.problem.n_images, self.problem.n_clusters
        neighbours = neighbours_by_size(n_images=n_images, n_clusters=n_clusters)
        inputs, components = math.prod(self.problem.shape), self.config.components
        return SpreadFeatures(inputs, components, neighbours=neighbours, rounds=self.config.rounds)

    def _views(self, inputs: Tensor, features: SpreadFeatures, spread: Tensor) -> Views:
        """Return what classifiers learn from labels, on the CPU. features: fitted to inputs; spread: what they gave."""
        less, near = features.moved_less(inputs, rounds=max(1, self.config.rounds // LESS))
        return Views(spread.cpu(), less.cpu(), self.projected.cpu(), [rows.cpu() for rows in near])

    @torch.no_grad()
    def _begun(self, embed: Embed) -> Tensor:
        """Return the assignments that the net starts from: of the layer, or of heads and, of many images, of labels."""
        if self.layer.learned:
            return self.layer(self.spread)
        said, labels = self.heads.ensemble(self.projected), self.terms.evidence.labels.cpu()
        known = (labels >= 0).nonzero().flatten()
        if not len(known):
            return said
        inputs, features = embed(lambda images: images.flatten(1)), self._new_features().to(said.device)
        views = self._views(inputs, features, features.fit(inputs))
        learned, step = torch.full_like(labels, -1), -(-len(known) // MOST_LABELS)  # the net learns from all
        for label in labels[known].unique():
            some = (labels == label).nonzero().flatten()[::step]
            learned[some] = label
        given = None if self._prior.learned else self.prior
        return pooled_assignments(views, learned, said.clamp_min(1e-6).log(), trust=TRUST, shares=given).to(said)

    def _shares_in_order(self, shares: Tensor) -> Tensor:
        """Return the shares in the order of the clusters: where nothing names these, the largest for the largest."""
        if self.terms.names_classes:
            return shares
        order = self.layer(self.spread).mean(0).argsort()
        return torch.empty_like(shares).scatter(0, order, shares.sort().values)

    @torch.no_grad()
    def _name_heads(self) -> None:
        """Match the heads' clusters to classes of the evidence, and calibrate the ensemble."""
        if self.terms.names_classes:
            near = neighbour_mean(self.heads.ensemble(self.projected), self.neighbours.long())
            self.heads.match_to_classes(self.terms.class_evidence(near.cpu()))
        self.heads.calibrate(self.projected, self.neighbours[:, :10])

    # --------------------------------------------------------------------------------------------------- the evidence

    @torch.no_grad()
    def _judge_counts(self, p: Tensor) -> None:
        """Find which counts are wrong by the assignments of all images, and label the images of bags of one class."""
        self.terms.judge_counts(p)
        evidence = self.terms.evidence
        right = self.terms.target("count_right") if len(evidence.count_bags) else None
        self.anchors = labels_of_pure_bags(evidence, self.projected, p, right=right).to(self.anchors)

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
        balance = unfairness(log_p.exp().mean(0), self.prior)
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
            low, high, right = (
                self.terms.target(name)[known.rows] for name in ("counts_min", "counts_max", "count_right")
            )
            q = labels_given_counts(believed, part.offsets, low, high, sets=self.sets, leak=self.config.leak)
            targets["counts"] = q * right[to_device(bag_numbers(part.offsets), right.device)][:, None], known
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
        """Make the layer, or let the heads vote, if that has not been done."""
        if not self.layer.learned and not self.refined:
            self._settle(embed, generator)

    # ------------------------------------------------------------------------------------------------------- results

    @property
    def starting_point(self) -> ProjectedStart:
        """The net's slow average on the projection, else the voters' geometric mean or what it can say of the layer."""
        components, projection = self.config.components, self.projection
        if self.refined:
            *layer, last = self.teacher.net.children()
            assert isinstance(last, nn.Linear)
            parts = Projected(components, self.config.hidden)
            net = ProjectedEncoder(projection, nn.Sequential(*layer))
            return ProjectedStart(parts, net, (last.weight, last.bias), projection=projection)
        head = (self.offered.weight, self.offered.bias) if self.offered.learned else self.heads.as_layer()
        return ProjectedStart(Projected(components), projection, head, projection=projection)

    def start_from(self, start: StartingPoint) -> None:
        """Take the projection of another run of this method; its clusters are looked for anew."""
        if isinstance(start, ProjectedStart):
            self.projection.load_state_dict(start.projection.state_dict())
        else:
            super().start_from(start)

    @property
    def is_calibrated(self) -> bool:
        """Whether the layer alone learned labels: its members are weighted by labels that they had not seen."""
        return bool(self.layer.learned) and not self.refined and bool((self.terms.evidence.labels >= 0).any())

    def encode(self, images: Tensor) -> Tensor:
        """Return the principal components (batch, features) that are clustered."""
        return self.projection(images)

    def assign(self, images: Tensor) -> Tensor:
        """Return assignments (batch, clusters) by voters or the layer, or by the net's slow average once trained."""
        with torch.autocast(images.device.type, enabled=False):
            features, projected = self.features(images), self.projection(images)
            found = torch.where(self.layer.learned, self.layer(features), self.heads.ensemble(projected))
            learned = self.teacher.net(projected).softmax(1)
            return torch.where(self.refined, learned, found)  # no `if`: an export follows tensors only


def _sets(problem: Problem) -> Tensor:
    """Return the sets that bags with counts may hold, (clusters, sets); none where there are too many to look at."""
    counts = problem.evidence.counts_max
    most = min(int(counts.max()), problem.n_clusters) if len(counts) else 0
    if most == 0 or n_subsets(problem.n_clusters, max_count=most) > MOST_SETS:
        return torch.zeros(problem.n_clusters, 0)
    return cluster_subsets(problem.n_clusters, most).float()
