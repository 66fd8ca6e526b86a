"""Mutual information: clusters that are certain image by image and evenly used over all images, "firm but fair".

Idea. A classifier without labels should say as much as it can about its input: the mutual information of image and
cluster is high where each image is assigned firmly and all clusters are used fairly. Alone that is reached by any split
of the images, most easily by how much ink they hold. So what must not matter is varied: the assignment has to stay the
same under views of an image (or under the small change that would alter it most), and clusters of classes remain.
Several heads share the encoder; the one with the lowest loss decides, which needs no labels. Labels, where there are
any, add their cross-entropy.

Source. Bridle, Heading and MacKay, "Unsupervised classifiers, mutual information and 'phantom targets'", NIPS 1991;
IMSAT: Hu, Miyato, Tokui, Matsumoto and Sugiyama, "Learning discrete representations via information maximizing
self-augmented training", ICML 2017; IIC: Ji, Henriques and Vedaldi, "Invariant information clustering", ICCV 2019;
the adversarial direction: Miyato, Maeda, Koyama and Ishii, "Virtual adversarial training", TPAMI 2018. Written from
the equations (docs/methods.md §7).

Equation → function
    −I = mean_n H(y_n) + μ KL(mean_n y_n ‖ π)                                        firm_but_fair
    R = −mean_n Σ_k p_k(x) log p_k(view of x)                                        agreement_loss
    r = ε d / |d|, d the gradient of KL(p(x) ‖ p(x + ε u)) at a random u, |u| = 1    MutualInformation._adversarial
    P = mean_n ½ (y y′ᵀ + y′ yᵀ), −I = H(P) + 2 μ KL(margin of P ‖ π)                joint_loss

With the uniform prior π the term KL(mean ‖ π) is ln(clusters) − H(mean), so that both −I are those published, but for a
constant.

Deviations. The norm of the gradient is clipped at 1, as in every method here. The two views are a weak and a strong
one. Labels count from the middle of the training on, when clusters have been matched to their classes. On ready
embeddings dropout stands in for views; with `neighbours` the second view is that of a near image.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import View, weak_and_strong
from smidgen.maths.entropy import cross_entropy_between, entropy
from smidgen.maths.likelihoods import label_loss
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, Stage, StartingPoint
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.priors import prior_option, read_prior, read_shares, unfairness
from smidgen.methods.relabelling import find_neighbours, one_near, varied
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoders import make_encoder
from smidgen.nets.heads import LinearHeads, OrderedHeads
from smidgen.options import Count, CountOrZero, Options, Positive, Several, Share, ShareBelowOne, Weight, option

LABELLED = 64
"""Labelled images per step, where there are any."""

LEAST = 0.1
"""The fraction of the steps without which no clusters form."""

_NTH = 10  # the neighbour whose distance is the unit of `radius`


@dataclass(frozen=True, eq=False)
class MutualInformationConfig(Options):
    """Settings of `mutual-information`; the defaults are those measured on MNIST (RESULTS.md)."""

    encoder: EncoderOption = option("conv", "the trained encoder, see `smidgen list encoders`")
    heads: Count = option(5, "linear heads, of which the one with the lowest loss is kept")
    steps: Count = option(3000, "optimiser steps")
    batch_size: Several = option(256, "images per step, each as two views")
    consistency: Literal["none", "views", "adversarial", "joint"] = option(
        "views",
        "what makes clusters independent of unimportant changes: nothing (Bridle), the prediction of one view from"
        " another or from the image changed adversarially (IMSAT), or mutual information between two views (IIC)",
    )
    consistency_weight: Weight = option(1.0, "of views and adversarial, beside the mutual information")
    balance: Weight = option(1.5, "μ, weight of the even use of clusters")
    prior: str = prior_option("uniform", of="clusters", letter="π")
    groups: CountOrZero = option(0, "clusters of as many more heads that only shape the features, 0 for none")
    neighbours: CountOrZero = option(0, "nearest neighbours that stand in for the second view of an image, 0 for none")
    radius: Positive = option(0.25, "size of adversarial changes, in distances to the tenth nearest image")
    thickness: Share = option(0.7, "largest change of the thickness of strokes in a view of a grey image, 1 is a pixel")
    dropout: ShareBelowOne = option(0.2, "dropout rate of ready embeddings in a view")
    learning_rate: Weight = option(2e-3, "of AdamW, at its peak")
    weight_decay: Weight = option(1e-2, "of AdamW")
    settle: Share = option(0.5, "fraction of training after which clusters are matched to classes and labels learned")
    label_weight: Weight = option(1.0, "of the cross-entropy on labels")
    wrong: Share = option(0.1, "assumed fraction of wrong labels")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {"consistency": "none", "heads": 1, "balance": 1.0},
        "imsat": {"consistency": "adversarial", "consistency_weight": 10.0, "heads": 1, "balance": 4.0},
        "iic": {"consistency": "joint", "balance": 1.0, "groups": 50},
        "small": {"steps": 1000},
    }
    """Options by name: "paper" is Bridle's objective alone, "imsat" and "iic" those of the papers that added
    consistency, all on a small net of today; "small" takes a third of the time."""

    def __post_init__(self) -> None:
        super().__post_init__()
        read_shares(self.prior)


def firm_but_fair(p: Tensor, prior: Tensor, *, balance: float) -> Tensor:
    """Return mean H(p_n) + μ KL(mean p_n ‖ π) for each head, (heads,): the least where rows are certain and fair.

    p: assignments (batch, heads, clusters). prior: (clusters,).

    >>> firm_but_fair(torch.eye(2)[:, None], torch.full((2,), 0.5), balance=1.0)
    tensor([0.])
    """
    return entropy(p).mean(0) + balance * unfairness(p.mean(0), prior)


def agreement_loss(p: Tensor, q: Tensor) -> Tensor:
    """Return −mean_n Σ_k p_nk log q_nk for each head, (heads,): how well the one predicts the other.

    p: assignments (batch, heads, clusters) of images, without gradient; q: of views of them.
    """
    return cross_entropy_between(p.detach(), q).mean(0)


def joint_loss(p: Tensor, q: Tensor, prior: Tensor, *, balance: float, exponent: float = 1.0) -> Tensor:
    """Return H(P) + 2 μ KL(margin of P ‖ π) for each head, (heads,), P = mean_n ½ (p_n q_nᵀ + q_n p_nᵀ).

    That is −I of the assignments of two views, whose two margins are alike. At best it is ln(clusters).
    exponent: f, how far the prior is enforced. H(P) holds the entropy of one margin, which alone would unite all
        clusters; so 2 μ becomes 1 + f (2 μ − 1), where it is above 1.
    p, q: assignments (batch, heads, clusters) of two views. prior: (clusters,).

    >>> p = torch.eye(2)[:, None]
    >>> joint_loss(p, p, torch.full((2,), 0.5), balance=1.0)
    tensor([0.6931])
    """
    joint = torch.einsum("nhk,nhl->hkl", p, q) / len(p)
    joint = (joint + joint.mT) / 2
    weight = 2 * balance - (1 - exponent) * max(0.0, 2 * balance - 1)
    return entropy(joint.flatten(1)) + weight * unfairness(joint.sum(2), prior)


class MutualInformation(Method):
    """See the module's docstring."""

    name = "mutual-information"
    training_only = ("labels", "labelled", "neighbours", "reach", "running_loss", "groups.")
    evidence_use = EvidenceUse(kinds=("labels",))

    labels: Tensor
    labelled: Tensor
    neighbours: Tensor
    reach: Tensor
    prior: Tensor
    running_loss: Tensor
    head: Tensor

    def __init__(self, config: MutualInformationConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        self.views = self._views()
        self.encoder = make_encoder(config.encoder, problem.shape, mean=problem.mean, std=problem.std)
        features, labels = self.encoder.features, problem.evidence.labels
        self.heads = OrderedHeads(features, problem.n_clusters, heads=config.heads)
        self.groups = LinearHeads(features, config.groups, heads=config.heads) if config.groups else None
        self.register_buffer("labels", labels.clone())
        self.register_buffer("labelled", (labels >= 0).nonzero().flatten())
        self._prior = read_prior(config.prior, problem.n_clusters, of="clusters")
        self.register_buffer("prior", self._prior.shares)
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("reach", torch.zeros(0))
        self.register_buffer("running_loss", torch.zeros(config.heads))
        self.register_buffer("head", torch.tensor(0))

    def _views(self) -> tuple[View | None, View | None]:
        """Return a weak and a strong view; strokes, by whose thickness clusters would form, change in both."""
        weak, strong = weak_and_strong(self.problem.shape)
        if weak is None or strong is None or self.problem.shape[0] != 1:
            return weak, strong
        return replace(weak, thickness=self.config.thickness), replace(strong, thickness=self.config.thickness)

    def stages(self) -> list[Stage]:
        """Return the one stage, "train"; clusters are matched to classes once they have formed."""
        begins = {0, self._settled} if len(self.labelled) else {0}
        return [Stage("train", self.config.steps, begins=tuple(sorted(begins)), least=LEAST)]

    @property
    def _settled(self) -> int:
        return min(self.config.steps - 1, round(self.config.settle * self.config.steps))

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW."""
        learning = [p for p in self.parameters() if p.requires_grad]
        return [torch.optim.AdamW(learning, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Find neighbours and the reach of adversarial changes; later match clusters to the classes of labels."""
        if self.config.neighbours and self._has_views and not len(self.neighbours):
            self.neighbours = find_neighbours(embed, self.config.neighbours, problem=self.problem)
        if self.config.consistency == "adversarial" and not len(self.reach):
            self.reach = _reach(embed, find_neighbours(embed, _NTH, problem=self.problem)).to(self.reach)
        if len(self.labelled) and step == self._settled:
            self._match_to_classes(embed)

    def _match_to_classes(self, embed: Embed) -> None:
        p = embed(lambda images: self._assignments(images).flatten(1)).double()
        labelled = self.labelled.cpu()
        labels = F.one_hot(self.labels.cpu()[labelled], len(self.problem.evidence.class_names)).double()
        for head, votes in enumerate(p[labelled].view(len(labelled), self.config.heads, -1).unbind(1)):
            self.heads.put_in_order(head, (votes.T @ labels).numpy())

    # ------------------------------------------------------------------------------------------------------ learning

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Request images as they are or as two views, the second perhaps of a neighbour; later labelled ones too."""
        rows = torch.randint(self.problem.n_images, (self.config.batch_size,), generator=generator)
        if not self._has_views:
            requests = {"images": Request(rows)}
        elif self.config.neighbours:
            near = one_near(rows, self._host("neighbours", self.neighbours), generator)
            requests = {"images": Request(rows, self.views[0]), "near": Request(near, self.views[1])}
        else:
            requests = {"images": Request(rows, self.views)}
        if len(self.labelled) and progress >= self._settled:
            draws = torch.randint(len(self.labelled), (LABELLED,), generator=generator)
            requests["labelled"] = Request(self._host("labelled", self.labelled)[draws], self.views[1])
        return requests

    @property
    def _has_views(self) -> bool:
        return self.config.consistency in ("views", "joint")

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the objective, summed over heads, and its terms, averaged over heads."""
        images = [*parts["images"].views, *([parts["near"].images] if "near" in parts else [])]
        if self.config.consistency == "adversarial":
            images.append(self._adversarial(parts["images"]))
        if self._has_views:
            images = [varied(view, dropout=self.config.dropout) for view in images]
        sizes = [len(each) for each in images]
        labelled = parts.get("labelled")
        embeddings = self.encoder(torch.cat(images + ([] if labelled is None else [labelled.images])))
        shown = embeddings[: sum(sizes)]
        exponent = self._prior.exponent(progress / self.config.steps)
        terms = self._terms(self.heads(shown).softmax(-1).split(sizes), self.prior, exponent)
        per_head = terms.pop("own")
        if labelled is not None:
            terms["labels"] = self._label_losses(embeddings[sum(sizes) :], labelled)
            per_head = per_head + self.config.label_weight * terms["labels"]
        with torch.no_grad():
            self.running_loss.lerp_(per_head, 1 / min(step + 1, 100))
        total = per_head.sum()
        if self.groups is not None:
            even = self.prior.new_full((self.config.groups,), 1 / self.config.groups)
            total = total + self._terms(self.groups(shown).float().softmax(-1).split(sizes), even, 1.0)["own"].sum()
        return {"total": total, **{name: each.mean() for name, each in terms.items()}}

    def _terms(self, p: tuple[Tensor, ...], prior: Tensor, exponent: float) -> dict[str, Tensor]:
        """Return the terms of the objective for each head, (heads,) each, and as `own` what they add up to.

        p: assignments (batch, heads, clusters) of images, or of two views. exponent: how far the prior is enforced.
        """
        config = self.config
        if config.consistency == "joint":
            joint = joint_loss(p[0], p[1], prior, balance=config.balance, exponent=exponent)
            return {"own": joint, "joint": joint, "unfair": unfairness(torch.cat(p).mean(0), prior)}
        own = firm_but_fair(torch.cat(p) if self._has_views else p[0], prior, balance=exponent * config.balance)
        terms = {"unsure": entropy(p[0]).mean(0), "unfair": unfairness(p[0].mean(0), prior)}
        if config.consistency != "none":
            terms["disagree"] = agreement_loss(p[0], p[1])
            own = own + config.consistency_weight * terms["disagree"]
        return {"own": own, **terms}

    def _adversarial(self, part: Part) -> Tensor:
        """Return images changed, by their reach, in the direction in which the heads' assignments change most."""
        images = part.images
        size = (self.config.radius * self.reach[part.indices]).view(-1, *(1,) * (images.ndim - 1))
        with torch.no_grad():
            p = self._assignments(images)
        change = (size * _unit(torch.randn_like(images))).requires_grad_()
        away = cross_entropy_between(p, self._assignments(images + change)).sum()
        (direction,) = torch.autograd.grad(away, change)
        return images + size * _unit(direction)

    def _label_losses(self, embeddings: Tensor, part: Part) -> Tensor:
        p = self.heads(embeddings).softmax(-1)
        labels = self.labels[part.indices].repeat_interleave(self.config.heads)
        return label_loss(p.flatten(0, 1), labels, epsilon=self.config.wrong).view(len(p), -1).mean(0)

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Choose the head with the lowest loss."""
        self.head = self.running_loss.argmin()

    # ------------------------------------------------------------------------------------------------------- results

    def _assignments(self, images: Tensor) -> Tensor:
        return self.heads(self.encoder(images)).softmax(-1)

    @property
    def starting_point(self) -> StartingPoint:
        """The encoder, and the layer of the head that decides."""
        return StartingPoint(self.config.encoder, self.encoder, self.heads.layer(int(self.head)))

    def encode(self, images: Tensor) -> Tensor:
        """Return the encoder's embeddings (batch, features)."""
        return self.encoder(images)

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and embeddings."""
        embeddings = self.encode(images)
        return self.heads(embeddings).softmax(-1)[:, self.head], embeddings


def _unit(x: Tensor) -> Tensor:
    """Return each row of (batch, …) at length one; a zero row stays zero."""
    return x / x.flatten(1).norm(dim=1).clamp_min(1e-12).view(-1, *(1,) * (x.ndim - 1))


def _reach(embed: Embed, neighbours: Tensor) -> Tensor:
    """Return the distance (n_images,) of each image to the last of its neighbours (n_images, neighbours)."""
    pixels, farthest = embed(lambda images: images.flatten(1)), neighbours[:, -1].long()
    rows = torch.arange(len(pixels)).split(8192)
    return torch.cat([(pixels[some] - pixels[farthest[some]]).norm(dim=1) for some in rows])
