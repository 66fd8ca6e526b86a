"""`fusion` of embeddings, computed by a frozen encoder or given by the user.

Idea. In the embedding space of a good encoder neighbours mostly belong to one class, and classes are nearly linearly
separable, the more so in features that are moved towards their neighbours (`nets.spread_features`). Linear heads that
are trained for agreement of neighbours (`methods.voting_heads`) and do best with many images, and k-means and Ward's
method on those features, which do best with few, are matched and averaged; one softmax layer on the features learns
their mean (`methods.feature_layer`). From labels several classifiers learn, are weighted by how well they predict
held-out labels, and make one such layer, the sizes of the classes estimated (`methods.label_pool`). Other evidence
trains a small network that starts by distilling that layer (`methods.evidence_net`), and so do labels of many images
(`methods.label_net`).

Source. Neighbours after SCAN (Van Gansbeke et al., ECCV 2020), the heads as `methods.voting_heads` says, the sizes of
classes after Saerens et al. (2002), classes by the graph after Calder et al. (ICML 2020), written from the equations;
what evidence adds (`methods.evidence_net`) is ours.

Equation → function
    ½ CE(Sinkhorn(z_neighbour / T), z) + ½ CE(Sinkhorn(z / T), z_neighbour)      voting_heads.swapped_loss
    T ← T + γ (softness − loss / ln clusters)                                    voting_heads.updated_temperature
    mean over k-means, Ward and heads, clusters matched                          feature_layer.unsupervised_layer
    p_k ∝ π_k Π_m p_mk^w_m;  argmax_w Π p(held-out label)                        label_pool.labelled_layer
    −log P(evidence | p), each averaged over its own items                       evidence_net.EvidenceNet
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from smidgen.data.batches import Part, Request
from smidgen.errors import InputError
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.terms import EvidenceTerms
from smidgen.maths.graph_spreading import neighbour_mean
from smidgen.maths.matching import in_order_of_classes
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.evidence_net import EvidenceNet
from smidgen.methods.feature_layer import FeatureLayer, layer_of_shares, unsupervised_layer
from smidgen.methods.fusion_options import FusionEmbeddingsConfig
from smidgen.methods.fusion_sizes import batch_by_size, neighbours_by_size
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.label_net import LabelNet
from smidgen.methods.label_pool import Views, labelled_layer, pooled_assignments, thinned
from smidgen.methods.priors import RELEASED_AT, read_prior
from smidgen.methods.voting_heads import VotingHeads
from smidgen.nets.composed import Projected
from smidgen.nets.encoders import VECTORS
from smidgen.nets.projection import ProjectedEncoder, Projection
from smidgen.nets.spread_features import FEW, SpreadFeatures, metric_of

COOLING = (0.6, 0.9)
"""The fractions of the stage "select" between which the softness is lowered; before that the heads are compared."""

LEAST = 0.2
"""The fraction of the heads' steps without which no clusters form."""

LESS = 4
"""How many times fewer rounds of spreading labels see as well: they say more of what is near at hand."""

RELEASED_AT_OF_MANY = 0.8
"""The fraction of the heads' steps after which sizes are released of many images: only heads find their clusters, and
are compared while sizes are equal."""

FORMED = 200
"""The heads' steps before which there are no clusters whose sizes could be released."""

TRUST = 1.0
"""Weight of the heads' assignments beside the classifiers that learn from labels, of many images."""

OFFERED_STRENGTH = 1e-3
"""C of the regression by which the projection takes over the layer's assignments."""


@dataclass(frozen=True, eq=False, kw_only=True)
class ProjectedStart(StartingPoint):
    """What a run offers to other `fusion-embeddings` runs: also the projection alone."""

    projection: Projection


class FusionEmbeddings(Method):
    """See the module's docstring."""

    name = "fusion-embeddings"
    training_only = (
        *("spread", "projected", "neighbours", *(f"heads.{name}" for name in VotingHeads.training_only)),
        *(f"learner.{name}" for name in LabelNet.training_only),
    )
    evidence_use = EvidenceUse(kinds=LEARNED)

    spread: Tensor
    projected: Tensor
    neighbours: Tensor
    refined: Tensor
    prior: Tensor

    def __init__(self, config: FusionEmbeddingsConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        n_clusters = problem.n_clusters
        self.features = self._new_features()
        size, projected = self.features.features, self.projection.features
        self.heads = VotingHeads(projected, n_clusters, heads=config.heads, kept=config.kept, votes=config.votes)
        self.layer = FeatureLayer(size, n_clusters)
        self.offered = FeatureLayer(projected, n_clusters)  # the same, as far as it can be learned from the projection
        self._prior = read_prior(config.prior, n_clusters, of="clusters")
        learner = LabelNet if self._what_is_seen == "embeddings" else EvidenceNet
        self.learner = learner(config, problem, projected, prior=self._prior)
        self.register_buffer("spread", torch.zeros(0, size))
        self.register_buffer("projected", torch.zeros(0, projected))
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("refined", torch.tensor(False))
        self.register_buffer("prior", self._prior.shares, persistent=False)
        chance = {kind: loss for kind, loss in self.terms.chance_losses().items() if kind in self.learner.likelihoods}
        self.evidence_use = dataclasses.replace(self.evidence_use, chance_losses=chance)

    @property
    def _what_is_seen(self) -> Literal["components", "embeddings"]:
        """What the network that learns from evidence sees, see the option `sees`."""
        kinds = self.problem.evidence.sizes().keys() & {*LEARNED}
        if self.config.sees == "auto":
            return "embeddings" if kinds == {"labels"} and not self._is_small else "components"
        if self.config.sees == "embeddings" and kinds - {"labels"}:
            raise InputError("`sees=embeddings` is for labels alone, and there is other evidence: leave it out.")
        return self.config.sees

    @property
    def saved_config(self) -> FusionEmbeddingsConfig:
        """The options, with what the learning network sees as evidence and the number of images decided it."""
        return dataclasses.replace(self.config, sees=self._what_is_seen)

    @property
    def terms(self) -> EvidenceTerms:
        """What is known of the training images."""
        return self.learner.terms

    def stages(self) -> list[Stage]:
        """Return "cluster" (all heads), "select" (the best of them, made surer), and with more than labels "refine".

        Of few images whose labels name all clusters the first two are left out: heads would hardly count beside labels.
        """
        half = self._first_half
        stages = [
            # The temperature holds the loss where it is.
            Stage("cluster", half, schedule="constant", loss_should_decrease=False, least=LEAST, assigns=False),
            Stage("select", self.config.steps - half, schedule="cosine", loss_should_decrease=False, least=LEAST),
        ]
        stages = stages if self._has_heads else []
        learned = {"labels"} if self._is_small else set()  # by the layer
        steps = self.config.refine_steps
        refines = steps > 0 and bool(self.terms.evidence.sizes().keys() - learned)
        return [*stages, Stage("refine", steps, begins=self.learner.begins(steps))] if refines else stages

    @property
    def _is_small(self) -> bool:
        """Whether one layer learns from several clusterings: of few images, or of too few values for linear heads."""
        few_images = self.problem.n_images < self.config.small * self.problem.n_clusters
        return few_images or (self._has_few_values and self.config.small > 0)

    @property
    def _has_few_values(self) -> bool:
        return math.prod(self.problem.shape) <= FEW

    @property
    def _has_heads(self) -> bool:
        labels = self.terms.evidence.labels
        return not self._is_small or len(labels[labels >= 0].unique()) < self.problem.n_clusters

    @property
    def _first_half(self) -> int:
        return max(1, self.config.steps // 2)

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW over the heads, or over the net that learns from evidence."""
        trained, rate = self.learner.net if stage == "refine" else self.heads, self.config.peak_rate(stage)
        return [torch.optim.AdamW(trained.parameters(), lr=rate, weight_decay=self.config.weight_decay)]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Project and find neighbours; choose the heads to go on with; let them vote and evidence name the clusters."""
        if stage == "cluster":
            self._project(embed)
        elif stage == "select":
            self.heads.keep_best()
        elif self.refined:
            self.learner.judge(self.projected)
        else:
            self._settle(embed, generator)
            self.learner.begin(self.projected, self._begun(embed))
            self.refined.fill_(True)

    def _project(self, embed: Embed) -> None:
        """Learn the features of all images, and find neighbours."""
        inputs, device = embed(lambda images: images.flatten(1)), self.heads.order.device
        if self._is_small:
            self.spread = self.features.fit(inputs).to(device)
        else:
            self.projection.fit(inputs)
        self.projected = embed(self.projection).to(device)
        # Of few images, most of many neighbours would be of other clusters.
        most = max(1, len(self.projected) // (2 * self.problem.n_clusters))
        wanted, metric = min(self.config.neighbours, most, len(self.projected) - 1), metric_of(self.projected)
        self.neighbours = nearest_neighbours(self.projected, wanted, metric=metric)[0].to(torch.int32)

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
        return {"images": Request(rows)} | self.learner.request(size, generator)

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the heads' swapped loss, or the net's own and that of each kind of evidence; in float32."""
        with torch.autocast(self.projected.device.type, enabled=False):
            return (
                self.learner.losses(parts, self.projected, progress=progress)
                if stage == "refine"
                else self._head_losses(parts, stage, step, progress)
            )

    # ---------------------------------------------------------------------------------------------------------- heads

    def _head_losses(self, parts: Mapping[str, Part], stage: str, step: int, progress: int) -> dict[str, Tensor]:
        share = progress / max(1, self.config.steps - self._first_half) if stage == "select" else 0.0
        done = progress + (self._first_half if stage == "select" else 0)
        after = RELEASED_AT if self._is_small else RELEASED_AT_OF_MANY
        exponent = self._prior.exponent(done / self.config.steps, after=after) if done >= FORMED else 1.0
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
        if not len(self.projected):
            self._project(embed)
        votes = None
        if self._has_heads:
            self.heads.align_heads(self.projected)
            votes = self.heads.ensemble(self.projected).detach()
        if not self._is_small:
            self._name_heads()
            return
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        most, own = 1.0 if self._has_few_values else math.inf, torch.Generator().manual_seed(seed)
        n_clusters = self.problem.n_clusters
        self.layer.take(unsupervised_layer(self.spread, n_clusters, votes=votes, generator=own, most_for_heads=most))
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
                self.layer.take(layer_of_shares(self.spread, layer, given, named=self.terms.names_classes))
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
        if not bool((labels >= 0).any()):
            return said
        inputs, features = embed(lambda images: images.flatten(1)), self._new_features().to(said.device)
        views = self._views(inputs, features, features.fit(inputs))
        given = None if self._prior.learned else self.prior
        return pooled_assignments(views, thinned(labels), said.clamp_min(1e-6).log(), trust=TRUST, shares=given).to(
            said
        )

    @torch.no_grad()
    def _name_heads(self) -> None:
        """Match the heads' clusters to classes of the evidence, and calibrate the ensemble."""
        if self.terms.names_classes:
            near = neighbour_mean(self.heads.ensemble(self.projected), self.neighbours.long())
            self.heads.match_to_classes(self.terms.class_evidence(near.cpu()))
        self.heads.calibrate(self.projected, self.neighbours[:, :10])

    def after_step(self, stage: str, step: int) -> None:
        """Let the teacher follow."""
        if stage == "refine":
            self.learner.follow(step)

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
            if isinstance(self.learner, LabelNet):
                return ProjectedStart(VECTORS, *self.learner.as_encoder(), projection=projection)
            layers, last = self.learner.as_layers()
            parts = Projected(components, self.config.hidden)
            return ProjectedStart(parts, ProjectedEncoder(projection, layers), last, projection=projection)
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
            learned = self.learner(images.flatten(1) if self.learner.sees_embeddings else projected)
            return torch.where(self.refined, learned, found)  # no `if`: an export follows tensors only
