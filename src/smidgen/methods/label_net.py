"""The network by which `fusion-embeddings` learns from labels of many images: it holds its predictions on strong views.

It sees all numbers of an embedding, where `evidence_net` sees the principal components in which clusters are found. It
distils the assignments that it starts from; then its slow average (the teacher) labels embeddings as they are, and it
learns these labels where the teacher is sure enough, on embeddings that lack half of their numbers and are mixed in
pairs. Its predictions are drawn to the shares in `prior`, equal ones where they are learned: labels alone do not show
which sizes classes have, as who labels often chooses as many images of each.

Source. `methods.consistency` on ready embeddings: FixMatch (Sohn et al., NeurIPS 2020) with the thresholds of FreeMatch
(Wang et al., ICLR 2023), distribution alignment (Berthelot et al., ICLR 2020) and mixup (Zhang et al., ICLR 2018).

Equation → function
    q ∝ q_teacher π / p̃ · P(label | class)                     consistency.aligned, likelihoods.label_posterior
    mean 1[max q ≥ t_argmax q] CE(strong and mixed view, labels mixed alike)     consistency.mixed_loss
    −log P(label | p)                                                            terms.EvidenceTerms
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part
from smidgen.maths.likelihoods import label_posterior
from smidgen.maths.thresholds import thresholds
from smidgen.methods.base import Problem
from smidgen.methods.consistency import aligned, mixed_loss, mixed_pairs
from smidgen.methods.evidence_net import EvidenceNet
from smidgen.methods.fusion_options import LEAST_WRONG, FusionEmbeddingsConfig
from smidgen.methods.priors import Prior, unfairness
from smidgen.nets.encoder import Encoder
from smidgen.nets.encoders import VectorEncoder

MISSING = 0.5
"""The share of an embedding's numbers that a strong view lacks."""

FOLLOW = 0.99
"""Of the moving averages of what the teacher predicts and how sure it is."""


class LabelNet(EvidenceNet):
    """Embeddings (batch, numbers) → assignments (batch, clusters) by a net's slow average."""

    training_only = (*EvidenceNet.training_only, "seen", "confidence")
    sees_embeddings = True

    seen: Tensor
    confidence: Tensor
    labels: Tensor

    def __init__(self, config: FusionEmbeddingsConfig, problem: Problem, features: int, *, prior: Prior) -> None:
        super().__init__(config, problem, features, prior=prior)
        self.register_buffer("seen", prior.shares.clone())
        self.register_buffer("confidence", torch.tensor(1 / problem.n_clusters))
        self.register_buffer("labels", problem.evidence.labels.clone(), persistent=False)

    def _new_net(self, problem: Problem, features: int) -> nn.Sequential:
        encoder = VectorEncoder(math.prod(problem.shape), mean=problem.mean, std=problem.std)
        return nn.Sequential(encoder, nn.Linear(encoder.features, problem.n_clusters))

    def losses(self, parts: Mapping[str, Part], every: Tensor, *, progress: int) -> dict[str, Tensor]:
        """Return the net's own losses, that of labels, and their sum as `total`; `every` is not looked at."""
        distill_weight = self._distill_weight(progress)
        whole = {name: self._encoder.normalise(part.images.flatten(1)) for name, part in parts.items()}
        mixed, partner, share = mixed_pairs(F.dropout(whole["images"], MISSING))
        shown = {"strong": mixed, "labels": whole["labels"]}
        if distill_weight > 0:
            shown["images"] = whole["images"]
        logits = self._logits(shown)
        labels, used = self._pseudo_labels(parts["images"])
        losses = {
            "own": (1 - distill_weight) * mixed_loss(logits["strong"], labels, used, partner=partner, share=share),
            "balance": unfairness(logits["strong"].softmax(1).mean(0), self.prior),
        }
        if distill_weight > 0:
            start = self.start[parts["images"].indices]
            losses["begun"] = -distill_weight * (start * logits["images"].log_softmax(1)).sum(1).mean()
        known = self.terms.losses(parts, {"labels": logits["labels"].softmax(1)}, kinds=self.likelihoods)
        own = losses["own"] + losses.get("begun", 0.0) + self.config.refine_balance * losses["balance"]
        return {"total": own + self.config.evidence * sum(known.values()), **losses, **known}

    def as_encoder(self) -> tuple[Encoder, tuple[Tensor, Tensor]]:
        """Return the teacher's encoder, and weight (clusters, features) and bias (clusters,) of its last layer."""
        (encoder,), last = self.as_layers()
        assert isinstance(encoder, VectorEncoder)
        return encoder, last

    @property
    def _encoder(self) -> VectorEncoder:
        encoder = self.net[0]
        assert isinstance(encoder, VectorEncoder)
        return encoder

    def _logits(self, standardised: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return (batch, clusters) of each part, all through batch norm together."""
        logits = self.net[1](self._encoder.of_standardised(torch.cat([*standardised.values()])))
        return dict(zip(standardised, logits.split([len(x) for x in standardised.values()]), strict=True))

    @torch.no_grad()
    def _pseudo_labels(self, part: Part) -> tuple[Tensor, Tensor]:
        """Return the labels (batch,) that the teacher and known labels give, and which are sure enough, 0 or 1."""
        q = self(part.images.flatten(1))
        self.confidence.lerp_(q.amax(1).mean(), 1 - FOLLOW)
        self.seen.lerp_(q.mean(0), 1 - FOLLOW)
        q = aligned(q, self.seen, self.prior)
        q = label_posterior(q, self.labels[part.indices], epsilon=max(LEAST_WRONG, self.config.wrong))
        confidence, labels = q.max(1)
        return labels, (confidence >= thresholds(self.confidence, self.seen)[labels]).float()
