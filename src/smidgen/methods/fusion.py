"""Fusion: our own method, and the default. One model p(k | image), one objective made of all that is known.

Idea. Images that lie close together usually show the same thing; clusters are not empty; so a softmax head that agrees
on neighbours under random views, and uses all clusters, finds classes. Several heads share the encoder and the one
whose neighbours agree best is kept, without labels. A second stage lets a slow average of the net (the teacher) label
the images it is sure of on weak views, and trains the net to say the same on strong ones.

Source: `neighbour_loss` and `balance_loss` after SCAN (Van Gansbeke et al., ECCV 2020), written from their equations;
teacher and strong views after FixMatch (Sohn et al., NeurIPS 2020) and Mean Teacher (Tarvainen & Valpola, NIPS 2017).

Equation → function
    L_nb = −mean log Σ_k p_k(view of x) p_k(view of neighbour)   neighbour_loss
    −H(mean p)                                                   balance_loss
    CE(p(strong view), argmax teacher) where max teacher > τ     self_label_loss
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.data.views import View
from smidgen.maths.entropy import entropy
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.pca import fit_pca
from smidgen.methods.base import Embed, Method, Problem, Stage
from smidgen.nets.average import Average
from smidgen.nets.encoders import make_encoder
from smidgen.nets.heads import LinearHeads

WEAK = View(rotate=10, scale=0.15, shear=0.2, shift=0.1)
STRONG = View(rotate=20, scale=0.25, shear=0.35, shift=0.1)


@dataclass(frozen=True)
class FusionConfig:
    """Settings of `fusion`; the defaults are the ones measured on MNIST (LAB.md).

    steps, refine_steps: lengths of the two stages. neighbours: how many nearest images count as neighbours.
    balance: weight λ of the entropy of the mean assignment. threshold: the teacher's confidence above which its
    label is used. decay: of the teacher.
    """

    encoder: str = "conv"
    heads: int = 5
    steps: int = 1000
    refine_steps: int = 800
    batch_size: int = 256
    neighbours: int = 10
    pca_components: int = 50
    balance: float = 5.0
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    threshold: float = 0.9
    decay: float = 0.99


def neighbour_loss(p: Tensor, q: Tensor) -> Tensor:
    """Return L_nb = −mean_i log Σ_k p_ik q_ik for each head: how far an image and its neighbour disagree.

    p, q: assignments (batch, heads, clusters), rows sum to one. Returns (heads,), ≥ 0; the sum is clamped at 1e-6.
    """
    return -(p * q).sum(-1).clamp_min(1e-6).log().mean(0)


def balance_loss(p: Tensor) -> Tensor:
    """Return −H(mean_i p_i) in nats for each head; smallest, −ln(clusters), where the clusters are equally large.

    p: assignments (batch, heads, clusters). Returns (heads,).
    """
    return -entropy(p.mean(0))


def self_label_loss(logits: Tensor, teacher: Tensor, *, threshold: float) -> Tensor:
    """Return the mean cross-entropy with the teacher's labels where the teacher is sure, 0 where it never is.

    logits: (batch, clusters) on strong views. teacher: assignments (batch, clusters) on weak views, no gradient.
    """
    confidence, labels = teacher.max(1)
    sure = (confidence > threshold).float()
    return (F.cross_entropy(logits, labels, reduction="none") * sure).sum() / sure.sum().clamp_min(1)


class Fusion(Method):
    """See the module's docstring."""

    name = "fusion"
    training_only = ("neighbours", "net.")

    neighbours: Tensor
    running_loss: Tensor
    head: Tensor

    def __init__(self, config: FusionConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem = config, problem
        encoder = make_encoder(config.encoder, problem.image_shape, mean=problem.mean, std=problem.std)
        self.net = nn.Sequential(encoder, LinearHeads(encoder.features, problem.n_clusters, heads=config.heads))
        self.teacher = Average(self.net, decay=config.decay)
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("running_loss", torch.zeros(config.heads))
        self.register_buffer("head", torch.tensor(0))

    def stages(self) -> list[Stage]:
        """Return "cluster" (neighbours agree) and "refine" (self-labelling)."""
        return [Stage("cluster", self.config.steps), Stage("refine", self.config.refine_steps)]

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return AdamW over the net; the teacher has no gradient."""
        return [
            torch.optim.AdamW(
                self.net.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
            )
        ]

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> None:
        """Find neighbours on the pixels' principal components; or choose the head and start the teacher from it."""
        if stage == "cluster":
            pixels = embed(lambda images: images.flatten(1))
            pca = fit_pca(pixels, min(self.config.pca_components, *pixels.shape))
            wanted = min(self.config.neighbours, len(pixels) - 1)
            self.neighbours = nearest_neighbours(pca.transform(pixels), wanted)[0].to(torch.int32)
        else:
            self.head = self.running_loss.argmin()
            self.teacher.update(self.net, decay=0)

    def request(self, stage: str, step: int, generator: torch.Generator) -> dict[str, Request]:
        """Ask for images and one random neighbour each; or for the same images as weak and as strong views."""
        rows = torch.randint(self.problem.n_images, (self.config.batch_size,), generator=generator)
        if stage == "refine":
            return {"weak": Request(rows, WEAK), "strong": Request(rows, STRONG)}
        column = torch.randint(self.neighbours.shape[1], rows.shape, generator=generator)
        near = self.neighbours.cpu()[rows, column].long()
        return {"images": Request(rows, WEAK), "neighbours": Request(near, WEAK)}

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int) -> dict[str, Tensor]:
        """Return neighbour (or self-labelling) loss and balance loss."""
        if stage == "refine":
            return self._refine_loss(parts["weak"].images, parts["strong"].images)
        both = torch.cat([parts["images"].images, parts["neighbours"].images])
        p = self.net(both).float().softmax(-1)
        near = neighbour_loss(*p.chunk(2))
        balance = balance_loss(p)
        with torch.no_grad():
            self.running_loss.lerp_(near, 1 / min(step + 1, 100))
        total = (near + self.config.balance * balance).sum()
        return {"total": total, "neighbour": near.min(), "balance": balance.mean()}

    def _refine_loss(self, weak: Tensor, strong: Tensor) -> dict[str, Tensor]:
        teacher = self.teacher(weak)[:, self.head].float().softmax(-1)
        logits = self.net(strong)[:, self.head].float()
        labelled = self_label_loss(logits, teacher, threshold=self.config.threshold)
        balance = balance_loss(logits.softmax(-1))
        return {
            "total": labelled + self.config.balance * balance,
            "self_label": labelled,
            "balance": balance,
            "sure": (teacher.amax(1) > self.config.threshold).float().mean(),
        }

    def after_step(self, stage: str, step: int) -> None:
        """Let the teacher follow."""
        self.teacher.update(self.net)

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Choose the head, if no second stage has."""
        if self.config.refine_steps == 0:
            self.head = self.running_loss.argmin()

    @property
    def backbone(self) -> nn.Module:
        """The encoder of the teacher: the one that a saved model holds."""
        return self.teacher.net.get_submodule("0")

    def start_from(self, other: Method) -> None:
        """Take another method's encoder, for the net too."""
        super().start_from(other)
        self.net[0].load_state_dict(self.backbone.state_dict())

    def encode(self, images: Tensor) -> Tensor:
        """Return the teacher's embeddings (batch, features)."""
        return self.backbone(images)

    def assign(self, images: Tensor) -> Tensor:
        """Return the teacher's assignments (batch, clusters) by the head whose neighbours agree best."""
        return self.teacher(images)[:, self.head].float().softmax(-1)
