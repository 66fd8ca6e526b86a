"""Fusion on ready embeddings: what `fusion` does where a frozen encoder, or the user, has made images into vectors.

Idea. In the space of a good encoder neighbours mostly show the same thing and classes are nearly linear. So many small
linear heads are trained side by side to say of an image what they say of its neighbour, all clusters being used
equally. Most heads end in poor optima when they are sure too soon; kept soft, near the temperature above which they
say nothing, nearly all of them find the same, better one. So the temperature is steered by how unsure the heads are.
The best ones by their own loss, which needs no labels, are brought into one order and vote. Where there is evidence, a
small net starts from that vote, named by the evidence, and learns the evidence's likelihood beside its own labels.

Source. Neighbours after SCAN (Van Gansbeke et al., ECCV 2020), swapped balanced targets after SeLa and SwAV (Asano et
al., ICLR 2020; Caron et al., NeurIPS 2020), softness as in deterministic annealing (Rose, Proc. IEEE 1998), written
from their equations; steering the temperature by the loss is ours, and so is what evidence adds (`methods.terms`).

Equation → function
    ½ CE(Sinkhorn(z_neighbour / T), z) + ½ CE(Sinkhorn(z / T), z_neighbour)      swapped_loss
    T ← T + γ (softness − loss / ln clusters)                                    steered
    mean over the best heads of softmax(z), clusters matched to the best head's  Consensus
    −log P(evidence | p), each averaged over its own items                       terms.EvidenceTerms
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.maths.matching import match_counts
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.sinkhorn import sinkhorn
from smidgen.methods.base import Embed, Method, Problem, Stage, at_least
from smidgen.methods.terms import EVERY_KIND, EvidenceTerms
from smidgen.nets.average import Average
from smidgen.nets.heads import LinearHeads
from smidgen.nets.projection import Projection

COOLING = (0.6, 0.9)
"""From which share of the stage "select" to which the heads are made surer; before it they are compared."""


@dataclass(frozen=True)
class FusionEmbeddingsConfig:
    """Settings of `fusion` on embeddings; the defaults are the ones measured on CIFAR-10 (LAB.md).

    components: principal components that are clustered. neighbours: how many nearest images count as neighbours, at
    most half of a cluster's share of the images.
    heads: how many are trained; kept: how many of them beyond the first half; votes: how many decide.
    steps: of the heads. softness, final_softness: how unsure the heads are kept, and how unsure they end: their loss
    as a share of ln(clusters), 0 sure, 1 saying nothing. gain: how fast the temperature follows.
    refine_steps: of the net that learns from evidence; hidden, dropout: its layer. evidence: weight of every kind of
    evidence; wrong: the share of it that may be wrong. threshold: the confidence above which the net's slow average
    labels an image; decay: of that average. learning_rate, weight_decay: of AdamW, for heads and net.
    """

    components: int = 256
    neighbours: int = 30
    heads: int = 32
    kept: int = 8
    votes: int = 5
    steps: int = 720
    batch_size: int = 2048
    softness: float = 0.7
    final_softness: float = 0.5
    gain: float = 0.02
    refine_steps: int = 900
    hidden: int = 512
    dropout: float = 0.5
    evidence: float = 1.0
    wrong: float = 0.1
    threshold: float = 0.8
    decay: float = 0.99
    learning_rate: float = 3e-3
    refine_learning_rate: float = 1e-3
    weight_decay: float = 1e-2

    def __post_init__(self) -> None:
        at_least(self, components=1, neighbours=1, heads=1, kept=1, votes=1, steps=2, batch_size=2, refine_steps=0)
        at_least(self, softness=0, final_softness=0, gain=0, hidden=1, dropout=0, evidence=0, wrong=0, threshold=0)
        at_least(self, decay=0, learning_rate=0, refine_learning_rate=0, weight_decay=0)


def swapped_loss(first: Tensor, second: Tensor, *, temperature: float | Tensor) -> Tensor:
    """Return how badly each image predicts its neighbour's balanced assignment, for each head.

    first, second: logits (batch, heads, clusters) of images and of one neighbour each. Targets are three Sinkhorn
    iterations on the other's logits / temperature, without gradient. Returns (heads,), in nats.
    """
    first, second = first.transpose(0, 1), second.transpose(0, 1)
    with torch.no_grad():
        targets = sinkhorn(torch.stack([second, first]) / temperature)
    found = torch.stack([first, second]).log_softmax(-1)
    return -(targets * found).sum(-1).mean((0, 2))


def steered(temperature: Tensor, loss: Tensor, *, softness: float, gain: float) -> Tensor:
    """Return a temperature that moves loss / ln(clusters) towards `softness`; from 0.3 to 1.

    loss: as a share of ln(clusters). Above 1 the balanced targets would be softer than what made them, and every
    head would end in saying nothing.
    """
    return (temperature + gain * (softness - loss)).clamp(0.3, 1.0)


class FusionEmbeddings(Method):
    """See the module's docstring."""

    name = "fusion-embeddings"
    training_only = ("neighbours", "net.", "running_loss", "scores", "terms.", "start", "temperature")
    evidence_used = EVERY_KIND

    neighbours: Tensor
    running_loss: Tensor
    scores: Tensor
    kept: Tensor
    voters: Tensor
    order: Tensor
    temperature: Tensor
    start: Tensor
    refined: Tensor

    def __init__(self, config: FusionEmbeddingsConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem = config, problem
        n_clusters = problem.n_clusters
        self.terms = EvidenceTerms(problem.evidence, n_clusters, epsilon=config.wrong)
        self.projection = Projection(math.prod(problem.image_shape), config.components)
        self.heads = LinearHeads(self.projection.features, n_clusters, heads=config.heads)
        nn.init.normal_(self.heads.linear.weight, std=0.01)
        self.net = _net(self.projection.features, n_clusters, hidden=config.hidden, dropout=config.dropout)
        self.teacher = Average(self.net, decay=config.decay)
        kept = min(config.kept, config.heads)
        votes = min(config.votes, kept)
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("running_loss", torch.zeros(config.heads))
        self.register_buffer("scores", torch.zeros(config.heads))
        self.register_buffer("kept", torch.arange(kept))
        self.register_buffer("voters", torch.arange(votes))
        self.register_buffer("order", torch.arange(n_clusters).repeat(votes, 1))  # cluster → output of the voter
        self.register_buffer("temperature", torch.tensor(0.9))
        self.register_buffer("start", torch.zeros(0, n_clusters))
        self.register_buffer("refined", torch.tensor(False))

    def stages(self) -> list[Stage]:
        """Return "cluster" (all heads), "select" (the best of them, made surer), and with evidence "refine"."""
        half = self.config.steps // 2
        stages = [
            Stage("cluster", half, schedule="constant", falls=False),  # the temperature holds the loss where it is
            Stage("select", self.config.steps - half, schedule="cosine", falls=False),
        ]
        known = self.config.refine_steps > 0 and bool(self.terms.evidence.sizes())
        return [*stages, Stage("refine", self.config.refine_steps)] if known else stages

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW over the heads, or over the net that learns from evidence."""
        decay = self.config.weight_decay
        if stage == "refine":
            rate = self.config.refine_learning_rate
            return [torch.optim.AdamW(self.net.parameters(), lr=rate, weight_decay=decay)]
        return [torch.optim.AdamW(self.heads.parameters(), lr=self.config.learning_rate, weight_decay=decay)]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Project and find neighbours; choose the heads to go on with; let them vote and evidence name the clusters."""
        if stage == "cluster":
            self.projection.fit(embed(lambda images: images.flatten(1)))
            projected = embed(self.projection)
            # Of few images, most of many neighbours would be of other clusters.
            most = max(1, len(projected) // (2 * self.problem.n_clusters))
            wanted = min(self.config.neighbours, most, len(projected) - 1)
            self.neighbours = nearest_neighbours(projected, wanted, metric="cosine")[0].to(torch.int32)
        elif stage == "select":
            self.kept = self.running_loss.argsort()[: len(self.kept)]
        else:
            self._agree(embed)
            self.start = self._name(embed).to(self.start)
            self.refined.fill_(True)

    def request(self, stage: str, step: int, generator: torch.Generator) -> dict[str, Request]:
        """Ask for images and one random neighbour each, and in "refine" for evidence."""
        rows = torch.randint(self.problem.n_images, (self.config.batch_size,), generator=generator)
        column = torch.randint(self.neighbours.shape[1], rows.shape, generator=generator)
        near = self.neighbours.cpu()[rows, column].long()
        requests = {"images": Request(rows), "neighbours": Request(near)}
        return requests | self.terms.request(generator, view=None) if stage == "refine" else requests

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int) -> dict[str, Tensor]:
        """Return the heads' swapped loss, or the net's own and that of each kind of evidence."""
        with torch.autocast(parts["images"].images.device.type, enabled=False):
            return self._refine_losses(parts, step) if stage == "refine" else self._head_losses(parts, stage, step)

    def _head_losses(self, parts: Mapping[str, Part], stage: str, step: int) -> dict[str, Tensor]:
        rows = self.kept if stage == "select" else torch.arange(self.config.heads, device=self.kept.device)
        first, second = (self.heads(self.projection(parts[name].images))[:, rows] for name in ("images", "neighbours"))
        losses = swapped_loss(first, second, temperature=self.temperature)
        progress = step / max(1, self.config.steps - self.config.steps // 2) if stage == "select" else 0.0
        with torch.no_grad():
            share = losses.mean() / max(math.log(self.problem.n_clusters), 1e-6)
            softness = self._softness(progress)
            self.temperature.copy_(steered(self.temperature, share, softness=softness, gain=self.config.gain))
            followed = self.running_loss[rows].lerp(losses, 1 / min(step + 1, 30))
            self.running_loss[rows] = followed
            if stage == "select" and progress < COOLING[0]:
                self.scores[rows] = followed  # heads that have been made surer cannot be told apart by their loss
        return {"total": losses.sum(), "swapped": losses.mean(), "temperature": self.temperature.clone()}

    def _softness(self, progress: float) -> float:
        first, last = self.config.softness, self.config.final_softness
        cooled = (progress - COOLING[0]) / (COOLING[1] - COOLING[0])
        return first + (last - first) * min(1.0, max(0.0, cooled))

    # ------------------------------------------------------------------------------------------------------ consensus

    def _agree(self, embed: Embed) -> None:
        """Choose the voters by their loss and bring their clusters into the order of the best one's."""
        ranked = self.kept[self.scores[self.kept].argsort()]
        self.voters = ranked[: len(self.voters)]
        p = embed(lambda images: self.heads(self.projection(images))[:, self.voters].softmax(-1).flatten(1))
        votes = p.view(len(p), len(self.voters), -1).double()
        for voter in range(len(self.voters)):
            together = votes[:, 0].T @ votes[:, voter]
            self.order[voter] = torch.from_numpy(match_counts(together.numpy())).to(self.order)

    def _vote(self, projected: Tensor) -> Tensor:
        p = self.heads(projected)[:, self.voters].softmax(-1)
        return p.gather(2, self.order.expand(len(p), -1, -1)).mean(1)

    # --------------------------------------------------------------------------------------------------- the evidence

    def _name(self, embed: Embed) -> Tensor:
        """Put the voters' clusters into the order of the classes that evidence names; return their votes."""
        votes = embed(lambda images: self._vote(self.projection(images)))
        if self.terms.names_classes:
            evidence = self.terms.class_evidence(votes)
            named = match_counts((evidence - evidence.min()).T.numpy())  # class → cluster
            others = [k for k in range(self.problem.n_clusters) if k not in named]
            order = torch.tensor([*named, *others])
            self.order, votes = self.order[:, order.to(self.order.device)], votes[:, order]
        return votes

    def _refine_losses(self, parts: Mapping[str, Part], step: int) -> dict[str, Tensor]:
        projected = {name: self.projection(part.images) for name, part in parts.items()}
        sizes = [len(x) for x in projected.values()]
        logits = dict(zip(projected, self.net(torch.cat([*projected.values()])).split(sizes), strict=True))
        known = self.terms.losses(parts, {name: values.softmax(1) for name, values in logits.items()})
        own = self._own_loss(parts, projected, logits, step)
        total = own + self.config.evidence * sum(known.values())
        return {"total": total, "own": own, **known}

    def _own_loss(
        self, parts: Mapping[str, Part], projected: dict[str, Tensor], logits: dict[str, Tensor], step: int
    ) -> Tensor:
        with torch.no_grad():
            teacher = self.teacher.net(projected["neighbours"]).softmax(1)
            start = self.start[parts["images"].indices]
        warm = step < 0.3 * self.config.refine_steps
        if warm:
            return -(start * logits["images"].log_softmax(1)).sum(1).mean()
        confidence, labels = teacher.max(1)
        sure = (confidence > self.config.threshold).float()
        return (F.cross_entropy(logits["images"], labels, reduction="none") * sure).sum() / sure.sum().clamp_min(1)

    def after_step(self, stage: str, step: int) -> None:
        """Let the teacher follow the net."""
        if stage == "refine":
            self.teacher.update(self.net)

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Let the heads vote, and evidence name the clusters, if that has not been done."""
        if not self.refined:
            self._agree(embed)
            self._name(embed)

    @property
    def uninformed(self) -> Mapping[str, float]:
        """What the evidence's losses are for a model that does not look at the images."""
        return self.terms.uninformed()

    @property
    def backbone(self) -> nn.Module:
        """The projection: there is no other encoder here."""
        return self.projection

    def encode(self, images: Tensor) -> Tensor:
        """Return the principal components (batch, features) that are clustered."""
        return self.projection(images)

    def assign(self, images: Tensor) -> Tensor:
        """Return the voters' mean assignments (batch, clusters), or with evidence those of the net's slow average."""
        projected = self.projection(images)
        if self.refined:
            return self.teacher.net(projected).softmax(1)
        return self._vote(projected)


def _net(features: int, n_clusters: int, *, hidden: int, dropout: float) -> nn.Sequential:
    layers = [nn.Linear(features, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, n_clusters))
