"""`fusion` of images, with a network trained on them: one model p(k | image), one objective for all evidence.

Idea. Neighbouring images mostly belong to one class, and no cluster is empty; so a softmax head that predicts the same
for neighbours under random views, and uses all clusters, finds classes. Every piece of evidence adds its log-likelihood
under the same p. Several heads share the encoder; the one with the best loss on neighbours and evidence is kept, which
needs no labels. In a second stage an exponential moving average of the network (the teacher) assigns pseudo-labels on
weak views where it is confident, and the network learns them on strong views.

Source. Neighbours and balance after SCAN (Van Gansbeke et al., ECCV 2020), teacher and strong views after FixMatch
(Sohn et al., NeurIPS 2020) and Mean Teacher (Tarvainen & Valpola, NIPS 2017), written from their equations; the law of
the unique class count and the robust mixtures are ours (`maths.counts`, `maths.likelihoods`).

Equation → function
    L_nb = −mean log((1 − ε) Σ_k p_k(view of x) p_k(view of neighbour) + ε / clusters)   neighbour_loss
    f KL(mean p ‖ π), f = 1 until clusters have formed and less later                    balance_loss, Prior.exponent
    CE(p(strong view), argmax q) where max q > τ, q = P(class | teacher, label)          self_label_loss
    −log P(evidence | p), each averaged over its own items                               terms.EvidenceTerms

Clusters are of equal sizes at first. Where nothing, or only bags, are known, several times as many groups are learned
beside them, united by their neighbours, and take the clusters' place if the normalised cut is lower or the evidence
likelier (`group_heads`): so classes of unequal sizes are found. Bags then say how large they are (EM), and counts part
those that still share a cluster (`empty_clusters`).

The first stage works with ε = 0 until clusters have formed (`settle`). Then ε makes the loss tolerate wrong neighbours,
and clusters are matched to the classes that evidence names, so that one label per class never pulls at half-formed
clusters: only from here on do kinds of evidence that name classes add their terms. In the second stage proportions
also use the exact law of a bag's class counts, as a bag's mean barely changes when one image in thirty is wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import weak_and_strong
from smidgen.evidence.bag_labels import labels_given_bags, sets_of_counts, shares_given_bags
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.kinds.proportions import CLASS_COUNTS
from smidgen.evidence.terms import EvidenceTerms
from smidgen.maths.entropy import entropy
from smidgen.maths.likelihoods import label_posterior
from smidgen.maths.matching import in_order_of_classes
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.pca import fit_pca
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.empty_clusters import refilled
from smidgen.methods.fusion_options import LEAST_WRONG, FusionConfig
from smidgen.methods.group_heads import GAIN, GroupHeads, association_of, has_groups
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.priors import read_prior
from smidgen.nets.average import Average
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoders import make_encoder
from smidgen.nets.heads import HeadedNet
from smidgen.options import Count, CountOrZero, Several, Share, Weight, option

LEAST = 0.1
"""The fraction of the first stage's steps without which no clusters form."""

LIKELIER = 0.005
"""By how many nats a statement must be likelier on average for other clusters to be taken."""

PASSES = 3
"""How often in the refinement it is estimated which counts are wrong."""

UNITED_STRENGTH = 1.0
"""C of the regression by which a head takes over united groups."""

CLASS_COUNT_WEIGHT = 3.0
"""Of the exact law of class counts: it is a mean over all clusters, and an image in the wrong one concerns two."""


@dataclass(frozen=True, eq=False)
class FusionImagesConfig(FusionConfig):
    """Settings of `fusion-images`; the defaults are the ones measured on MNIST (LAB.md)."""

    heads: Count = 5
    steps: Count = 600
    batch_size: Several = 256
    learning_rate: Weight = 2e-3
    refine_steps: CountOrZero = 1500
    refine_batch_size: Several | None = None
    refine_learning_rate: Weight | None = None
    weight_decay: Weight = 1e-2
    components: Count = 50
    neighbours: Count = 10
    refine_balance: Weight = 0.5
    threshold: Share = 0.9
    decay: Share = 0.99
    evidence: Weight = 1.0
    wrong: Share = 0.1
    bag_images: Count = 320
    encoder: EncoderOption = option("conv", "the trained encoder, see `smidgen list encoders`")
    labelled_factor: Weight = option(
        2.0,
        "factor on the refinement's steps if there are labels and no bags: such steps cost less than those with"
        " bags, and labels profit from more of them",
    )
    settle: Share = option(0.6, "fraction of the first stage after which clusters are taken to have formed")
    doubt: Share = option(0.3, "ε, assumed fraction of wrong neighbours once clusters have formed")
    erase: Share = option(0.5, "largest side of the square that a strong view lacks, as a share of the image's")
    balance: Weight = option(5.0, "weight of the divergence of clusters' shares from `prior` in the first stage")


def neighbour_loss(p: Tensor, q: Tensor, *, doubt: float = 0.0) -> Tensor:
    """Return L_nb = −mean_i log((1 − ε) Σ_k p_ik q_ik + ε / clusters) for each head: the disagreement of neighbours.

    p, q: assignments (batch, heads, clusters), rows sum to one. doubt: ε. Returns (heads,), ≥ 0; the logarithm's
    argument is clamped at 1e-6.
    """
    agreement = (1 - doubt) * (p * q).sum(-1) + doubt / p.shape[-1]
    return -agreement.clamp_min(1e-6).log().mean(0)


def balance_loss(p: Tensor, *, prior: Tensor | None = None) -> Tensor:
    """Return KL(mean_i p_i ‖ π) − ln(clusters) in nats for each head; smallest where the shares are those of the prior.

    With equal shares it is −H(mean_i p_i). p: assignments (batch, heads, clusters). prior: π, (clusters,), sums to one;
    None for equal shares. Returns (heads,).
    """
    mean = p.mean(0)
    return -entropy(mean) if prior is None else -entropy(mean) - (mean * (len(prior) * prior).log()).sum(-1)


def self_label_loss(logits: Tensor, teacher: Tensor, *, threshold: float) -> Tensor:
    """Return the mean cross-entropy with the teacher's labels where it is confident, 0 if it never is.

    logits: (batch, clusters) on strong views. teacher: assignments (batch, clusters) on weak views, no gradient.
    """
    confidence, labels = teacher.max(1)
    sure = (confidence > threshold).float()
    return (F.cross_entropy(logits, labels, reduction="none") * sure).sum() / sure.sum().clamp_min(1)


class FusionImages(Method):
    """See the module's docstring."""

    name = "fusion-images"
    training_only = ("neighbours", "net.", "groups.", "running_loss", "refining", "prior", "terms.")
    evidence_use = EvidenceUse(kinds=LEARNED)

    neighbours: Tensor
    running_loss: Tensor
    head: Tensor
    refining: Tensor
    order: Tensor
    prior: Tensor
    labels: Tensor

    def __init__(self, config: FusionImagesConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        self.weak, strong = weak_and_strong(problem.shape)
        self.strong = None if strong is None else dataclasses.replace(strong, erase=config.erase)
        self.terms = EvidenceTerms(problem.evidence, problem.n_clusters, epsilon=config.wrong, images=config.bag_images)
        encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
        self.evidence_use = dataclasses.replace(self.evidence_use, chance_losses=self.terms.chance_losses())
        self.net = HeadedNet(encoder, problem.n_clusters, heads=config.heads)
        self.teacher = Average(self.net, decay=config.decay)
        self._prior = read_prior(config.prior, problem.n_clusters, of="clusters")
        self.groups = GroupHeads(encoder.features, problem.n_clusters) if self._has_groups else None
        self.register_buffer("prior", self._prior.shares.clone())
        self.register_buffer("labels", problem.evidence.labels.clone(), persistent=False)
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("running_loss", torch.zeros(config.heads))
        self.register_buffer("head", torch.tensor(0))
        self.register_buffer("refining", torch.tensor(False))
        self.register_buffer("order", torch.arange(problem.n_clusters).repeat(config.heads, 1))  # cluster → output

    def stages(self) -> list[Stage]:
        """Return "cluster" (neighbours agree) and "refine" (the teacher labels)."""
        first = Stage("cluster", self.config.steps, begins=(0, self._settled), cost=2, least=LEAST)
        steps = self._refine_steps
        return [first, Stage("refine", steps, begins=self.terms.begins(steps, passes=PASSES))]

    @property
    def _refine_steps(self) -> int:
        labelled = self.terms.names_classes_of_images and not len(self.terms.known_bags)
        return round(self.config.refine_steps * (self.config.labelled_factor if labelled else 1))

    @property
    def _settled(self) -> int:
        """The step of the first stage at which clusters have formed."""
        return max(1, round(self.config.settle * self.config.steps))

    @property
    def _has_groups(self) -> bool:
        """Whether sizes are to be learned, and neither labels nor pairs show by themselves where clusters are wrong."""
        enough = has_groups(n_images=self.problem.n_images, n_clusters=self.problem.n_clusters)
        return self._prior.learned and enough and not self.terms.kinds_of_images and self.config.refine_steps > 0

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW over the net; the teacher has no gradient."""
        rate, decay = self.config.peak_rate(stage), self.config.weight_decay
        trained = [*self.net.parameters(), *([] if self.groups is None else self.groups.parameters())]
        return [torch.optim.AdamW(trained, lr=rate, weight_decay=decay)]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> list[nn.Parameter] | None:
        """Find neighbours among the pixels; name the clusters once they have formed; choose the head to refine.

        Later, judge the bags by what was learned, and refill empty clusters.
        """
        had_begun = bool(self.refining)
        if stage == "cluster" and step == 0:
            self._find_neighbours(embed)
        elif not self.refining:
            if stage == "refine":
                self.head = self.running_loss.argmin()
                if self.groups is not None and len(self.neighbours):
                    self._unite_groups(embed)
                self.teacher.update(self.net, decay=0)
                self.refining.fill_(True)
            if self.terms.names_classes:
                self._name_clusters(embed)
        if stage == "refine" and len(self.terms.known_bags):
            knows_counts = len(self.terms.evidence.count_bags) > 0
            replaced = self._refill(embed, generator) if had_begun and knows_counts and self._prior.learned else None
            self._judge_bags(embed(self.assign))
            return replaced
        return None

    def _judge_bags(self, p: Tensor) -> None:
        """Find which counts are wrong and how large classes are. p: assignments (images, clusters) of all images."""
        self.terms.judge_counts(p)
        if self._prior.learned:
            self.prior.copy_(shares_given_bags(self.terms.evidence, p, sets=self._sets, right=self.terms.right))

    @property
    def _sets(self) -> Tensor:
        return sets_of_counts(self.terms.evidence, self.problem.n_clusters)

    def _find_neighbours(self, embed: Embed) -> None:
        pixels = embed(lambda images: images.flatten(1))
        pca = fit_pca(pixels, min(self.config.components, *pixels.shape))
        wanted = min(self.config.neighbours, len(pixels) - 1)
        self.neighbours = nearest_neighbours(pca.transform(pixels), wanted)[0].to(torch.int32)

    @torch.no_grad()
    def _unite_groups(self, embed: Embed) -> None:
        """Let the united groups take the place of the chosen head's clusters, if they are better by more than a bit.

        That is judged by the likelihood of the evidence, or where there is none by how far neighbours are together.
        """
        assert self.groups is not None
        embeddings = embed.on_device(self.net.encoder)
        clusters = self._ordered(self.net.heads(embeddings).float()).softmax(-1)[:, self.head]
        is_judged = bool(self.terms.names(late=True))
        judge = self._likelihood(named=self.terms.names_classes) if is_judged else self._association
        gain = LIKELIER if is_judged else GAIN
        united = [(judge(p), p) for p in self.groups.united(embeddings, self.neighbours)]
        best, found = max(united, key=lambda each: each[0])
        if best > judge(clusters) + gain:
            self._take(embeddings, found, [self.net])

    @torch.no_grad()
    def _refill(self, embed: Embed, generator: torch.Generator) -> list[nn.Parameter] | None:
        """Part classes that share a cluster while another is empty; return what was replaced, None if nothing was."""
        embeddings = embed.on_device(self.teacher.net.encoder)
        clusters = self._ordered(self.teacher.net.heads(embeddings).float()).softmax(-1)[:, self.head]
        seed = int(torch.randint(2**31 - 1, (), generator=generator, device=generator.device))
        found = refilled(
            clusters,
            embeddings,
            given=partial(labels_given_bags, self.terms.evidence, sets=self._sets, right=self.terms.right),
            worth=self._likelihood(named=False),
            gain=LIKELIER,
            generator=torch.Generator().manual_seed(seed),
        )
        if found is None:
            return None
        self._take(embeddings, found, [self.net, self.teacher.net])
        return [*self.net.heads.parameters()]

    def _take(self, embeddings: Tensor, p: Tensor, nets: Sequence[HeadedNet]) -> None:
        """Let the chosen head give nearly these assignments (images, clusters), by a regression on embeddings."""
        weight, bias = softmax_regression(embeddings.cpu(), p.cpu(), strength=UNITED_STRENGTH)
        rows = int(self.head) * self.problem.n_clusters + self.order[self.head]
        for net in nets:
            net.heads.linear.weight[rows] = weight.to(rows.device)
            net.heads.linear.bias[rows] = bias.to(rows.device)

    def _association(self, p: Tensor) -> float:
        return association_of(p, self.neighbours)

    def _likelihood(self, *, named: bool) -> Callable[[Tensor], float]:
        """Return what gives the likelihood of the evidence under assignments (images, clusters), in nats.

        Counts are believed at the assumed rate: one that was learned with wrong clusters would explain them away.
        named: whether the clusters are first to be put into the order of the classes.
        """
        terms = EvidenceTerms(self.terms.evidence, self.problem.n_clusters, epsilon=self.config.wrong)
        terms = terms.to(self.order.device)

        def likelihood(p: Tensor) -> float:
            if named:
                p = p[:, in_order_of_classes(terms.class_evidence(p.cpu()).numpy())]
            return terms.log_likelihood(p)

        return likelihood

    def _name_clusters(self, embed: Embed) -> None:
        """Put each head's outputs into the order of the classes that the evidence names."""
        p = embed(lambda images: self._assignments(self.net, images).flatten(1))
        for head, assignments in enumerate(p.view(len(p), -1, self.problem.n_clusters).unbind(1)):
            order = in_order_of_classes(self.terms.class_evidence(assignments).numpy())
            self.order[head] = self.order[head, torch.tensor(order, device=self.order.device)]

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Ask for images and one random neighbour each, or for images as weak and strong views; and for evidence."""
        rows = torch.randint(self.problem.n_images, (self.config.images_per_step(stage),), generator=generator)
        if stage == "refine":
            requests = {"weak": Request(rows, self.weak), "strong": Request(rows, self.strong)}
        else:
            column = torch.randint(self.neighbours.shape[1], rows.shape, generator=generator)
            near = self._host("neighbours", self.neighbours)[rows, column].long()
            requests = {"images": Request(rows, self.weak), "neighbours": Request(near, self.weak)}
        return requests | self.terms.request(generator, view=self.weak)

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the stage's own loss, balance, and the loss of each kind of evidence; totals are sums over heads."""
        shown = {name: part for name, part in parts.items() if name != "weak"}
        embeddings = self.net.encoder(torch.cat([part.images for part in shown.values()]))
        logits, sizes = self._ordered(self.net.heads(embeddings).float()), [len(part.images) for part in shown.values()]
        by_part = dict(zip(shown, logits.split(sizes), strict=True))
        if stage == "refine":
            own = self._refine_losses(parts["weak"], by_part.pop("strong"))
            heads, weight = [self._head], self.config.refine_balance * self._prior.exponent(1)
        else:
            share = progress / max(1, self.config.steps)
            own = self._cluster_losses(
                by_part.pop("images"), by_part.pop("neighbours"), settled=progress >= self._settled
            )
            heads, weight = list(range(self.config.heads)), self.config.balance * self._prior.exponent(share)
        known = self._evidence_losses(parts, by_part, heads, kinds=self._kinds(stage, progress))
        per_head = own["own"] + self.config.evidence * sum(known.values())
        if stage == "cluster":
            with torch.no_grad():
                self.running_loss.lerp_(per_head, 1 / min(step + 1, 100))
        logged = {name: values.mean() for name, values in (own | known).items() if name != "own"}
        unfair = own["balance"] + math.log(self.problem.n_clusters)  # 0 at best: the total falls though the weight does
        total = (per_head + weight * unfair).sum()
        if self.groups is not None and stage == "cluster":
            total = total + self._group_losses(*embeddings.split(sizes)[:2]).sum()
        return {"total": total, **logged}

    def _group_losses(self, images: Tensor, neighbours: Tensor) -> Tensor:
        """Return the loss of each head of groups, (heads,), of equal sizes until the end."""
        assert self.groups is not None
        p, q = (self.groups(each).float().softmax(-1) for each in (images, neighbours))
        unfair = balance_loss(torch.cat([p, q])) + math.log(p.shape[-1])
        return neighbour_loss(p, q) + self.config.balance * unfair

    @property
    def _head(self) -> int:
        """The head that is refined, on the host."""
        head: int = self._host("head", self.head, int)
        return head

    def _cluster_losses(self, images: Tensor, neighbours: Tensor, *, settled: bool) -> dict[str, Tensor]:
        p, q = images.softmax(-1), neighbours.softmax(-1)
        near = neighbour_loss(p, q, doubt=self.config.doubt if settled else 0.0)
        return {"own": near, "neighbour": near, "balance": balance_loss(torch.cat([p, q]), prior=self.prior)}

    def _refine_losses(self, weak: Part, strong: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            teacher = self._assignments(self.teacher.net, weak.images)[:, self._head]
            believed = label_posterior(teacher, self.labels[weak.indices], epsilon=max(LEAST_WRONG, self.config.wrong))
        logits = strong[:, self._head]
        labelled = self_label_loss(logits, believed, threshold=self.config.threshold).view(1)
        sure = (believed.amax(1) > self.config.threshold).float()
        balance = balance_loss(logits.softmax(1)[:, None], prior=self.prior)
        return {"own": labelled, "self_label": labelled, "balance": balance, "sure": sure}

    def _kinds(self, stage: str, progress: int) -> tuple[str, ...]:
        """Return the losses of evidence: those that name classes, or need clusters, only where there are such."""
        return self.terms.names(named=stage == "refine" or progress >= self._settled, late=stage == "refine")

    def _evidence_losses(
        self, parts: Mapping[str, Part], logits: Mapping[str, Tensor], heads: list[int], *, kinds: tuple[str, ...]
    ) -> dict[str, Tensor]:
        """Return (heads,) per kind of evidence."""
        p = {name: values.softmax(-1) for name, values in logits.items()}
        per_head = [self.terms.losses(parts, {n: v[:, h] for n, v in p.items()}, kinds=kinds) for h in heads]
        losses = {kind: torch.stack([each[kind] for each in per_head]) for kind in per_head[0]}
        if CLASS_COUNTS in losses:
            losses[CLASS_COUNTS] = CLASS_COUNT_WEIGHT * losses[CLASS_COUNTS]
        return losses

    def after_step(self, stage: str, step: int) -> None:
        """Let the teacher follow."""
        self.teacher.update(self.net)

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Choose the head, if no second stage has."""
        if self._refine_steps == 0:
            self.head = self.running_loss.argmin()

    def _logits(self, net: nn.Module, images: Tensor) -> Tensor:
        """Return (batch, heads, clusters) in float32, clusters in the order of the names."""
        return self._ordered(net(images).float())

    def _ordered(self, logits: Tensor) -> Tensor:
        return logits.gather(2, self.order.expand(logits.shape[0], -1, -1))

    def _assignments(self, net: nn.Module, images: Tensor) -> Tensor:
        return self._logits(net, images).softmax(-1)

    @property
    def starting_point(self) -> StartingPoint:
        """The teacher's encoder, and the layer of the head that explains the data best, in the order of the names."""
        net = self.teacher.net
        layer = net.heads.linear
        rows = int(self.head) * self.problem.n_clusters + self.order[self.head]
        return StartingPoint(self.config.encoder, net.encoder, (layer.weight[rows], layer.bias[rows]))

    def start_from(self, start: StartingPoint) -> None:
        """Take another method's encoder, for the net too."""
        super().start_from(start)
        self.net.load_state_dict(self.teacher.net.state_dict())

    def encode(self, images: Tensor) -> Tensor:
        """Return the teacher's embeddings (batch, features)."""
        return self.teacher.net.encoder(images)

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the teacher's assignments and embeddings."""
        embeddings = self.encode(images)
        logits = self.teacher.net.heads(embeddings).float()
        return self._ordered(logits).softmax(-1)[:, self.head], embeddings

    def assign(self, images: Tensor) -> Tensor:
        """Return the teacher's assignments (batch, clusters) by the head that explains the data best."""
        return self._assignments(self.teacher.net, images)[:, self.head]
