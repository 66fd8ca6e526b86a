"""An ensemble of linear heads trained in parallel: how `fusion` clusters ready embeddings.

Heads trained for neighbour agreement mostly collapse to poor optima when they become confident too early. Kept soft,
near the temperature above which assignments become uniform, nearly all find the same, better optimum. So the
temperature is adapted to keep the loss at a target.

Source. Swapped balanced targets after SeLa and SwAV (Asano et al., ICLR 2020; Caron et al., NeurIPS 2020), softness as
in deterministic annealing (Rose, Proc. IEEE 1998), written from their equations; adapting the temperature is
ours.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from smidgen.maths.entropy import sharpened, sharpness_for
from smidgen.maths.matching import in_order_of_classes, match_counts
from smidgen.maths.sinkhorn import sinkhorn
from smidgen.nets.heads import LinearHeads


def swapped_loss(
    first: Tensor,
    second: Tensor,
    *,
    temperature: float | Tensor,
    prior: Tensor | None = None,
    exponent: float = 1.0,
) -> Tensor:
    """Return the loss of predicting each image's balanced assignment from its neighbour, for each head.

    first, second: logits (batch, heads, clusters) of images and of one neighbour each. Targets are three Sinkhorn
    iterations on the other's logits / temperature, without gradient. prior, exponent: the shares of the clusters, and
    how far they are enforced, see `maths.sinkhorn`. Returns (heads,), in nats.
    """
    first, second = first.transpose(0, 1), second.transpose(0, 1)
    with torch.no_grad():
        targets = sinkhorn(torch.stack([second, first]) / temperature, prior=prior, exponent=exponent)
    found = torch.stack([first, second]).log_softmax(-1)
    return -(targets * found).sum(-1).mean((0, 2))


def updated_temperature(temperature: Tensor, loss: Tensor, *, softness: float, gain: float) -> Tensor:
    """Return the temperature, 0.3 … 1, changed so that a loss / ln(clusters) moves towards the target `softness`.

    Above 1 the balanced targets would be softer than the predictions, and every head would become uniform.
    """
    return (temperature + gain * (softness - loss)).clamp(0.3, 1.0)


class VotingHeads(LinearHeads):
    """Linear heads with their selection (which are kept, which vote) and the alignment of their clusters.

    heads: how many are trained; kept: how many remain after `keep_best`; votes: how many form the ensemble.
    """

    training_only = ("running_loss", "scores", "kept", "temperature")

    running_loss: Tensor
    scores: Tensor
    kept: Tensor
    temperature: Tensor
    voters: Tensor
    order: Tensor
    sharpness: Tensor

    def __init__(self, features: int, n_clusters: int, *, heads: int, kept: int, votes: int) -> None:
        super().__init__(features, n_clusters, heads=heads)
        nn.init.normal_(self.linear.weight, std=0.01)
        kept = min(kept, heads)
        votes = min(votes, kept)
        self.register_buffer("running_loss", torch.zeros(heads))
        self.register_buffer("scores", torch.zeros(heads))
        self.register_buffer("kept", torch.arange(kept))
        self.register_buffer("temperature", torch.tensor(0.9))
        self.register_buffer("voters", torch.arange(votes))
        self.register_buffer("order", torch.arange(n_clusters).repeat(votes, 1))  # cluster → output of the voter
        self.register_buffer("sharpness", torch.tensor(1.0))

    def losses(
        self,
        first: Tensor,
        second: Tensor,
        *,
        step: int,
        kept_only: bool,
        softness: float,
        gain: float,
        scored: bool,
        prior: Tensor | None = None,
        exponent: float = 1.0,
    ) -> Tensor:
        """Return the swapped loss of each head, (heads,); updates the running losses and the temperature.

        first, second: embeddings (batch, features) of images and of one neighbour each. step: of the stage.
        kept_only: whether only the kept heads learn. scored: whether the losses rank the heads; once the softness is
        lowered they do not. prior, exponent: as in `swapped_loss`.
        """
        rows = self.kept if kept_only else torch.arange(self.heads, device=self.kept.device)
        losses = swapped_loss(
            *(self(each)[:, rows] for each in (first, second)),
            temperature=self.temperature,
            prior=prior,
            exponent=exponent,
        )
        with torch.no_grad():
            share = losses.mean() / max(math.log(self.n_clusters), 1e-6)
            self.temperature.copy_(updated_temperature(self.temperature, share, softness=softness, gain=gain))
            followed = self.running_loss[rows].lerp(losses, 1 / min(step + 1, 30))
            self.running_loss[rows] = followed
            if scored:
                self.scores[rows] = followed
        return losses

    def keep_best(self) -> None:
        """Keep the heads with the lowest loss."""
        self.kept = self.running_loss.argsort()[: len(self.kept)]

    @torch.no_grad()
    def align_heads(self, embeddings: Tensor) -> None:
        """Choose the voters by loss, and align their clusters by their predictions for all images."""
        self.voters = self.kept[self.scores[self.kept].argsort()][: len(self.voters)]
        votes = self(embeddings)[:, self.voters].softmax(-1).double().cpu()
        for voter in range(len(self.voters)):
            together = votes[:, 0].T @ votes[:, voter]
            self.order[voter] = torch.from_numpy(match_counts(together.numpy())).to(self.order)
        self.sharpness.fill_(1)

    @torch.no_grad()
    def match_to_classes(self, evidence: Tensor) -> None:
        """Match clusters to classes and reorder them, by the evidence for each pair, (clusters, classes)."""
        order = in_order_of_classes(evidence.numpy())
        self.order = self.order[:, torch.tensor(order, device=self.order.device)]

    @torch.no_grad()
    def calibrate(self, embeddings: Tensor, neighbours: Tensor) -> None:
        """Calibrate the mean confidence to the agreement of neighbours (images, k): the heads were kept soft."""
        votes = self.ensemble(embeddings)
        labels = votes.argmax(1)
        agreement = (labels[neighbours.long()] == labels[:, None]).float().mean()
        self.sharpness.fill_(sharpness_for(votes, float(agreement)))

    def ensemble(self, embeddings: Tensor) -> Tensor:
        """Return the sharpened mean assignment of the voters, (batch, clusters)."""
        p = self(embeddings)[:, self.voters].softmax(-1)
        mean = p.gather(2, self.order.expand(p.shape[0], -1, -1)).mean(1)
        return sharpened(mean, self.sharpness)

    def as_layer(self) -> tuple[Tensor, Tensor]:
        """Return weight (clusters, features) and bias (clusters,) of the voters' geometric mean."""
        rows = self.voters[:, None] * self.n_clusters + self.order
        return self.sharpness * self.linear.weight[rows].mean(0), self.sharpness * self.linear.bias[rows].mean(0)
