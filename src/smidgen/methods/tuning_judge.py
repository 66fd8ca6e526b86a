"""Whether fine-tuning made things better, by evidence that it has not learned from, else by neighbours.

The run on the frozen encoder before it has learned from all evidence, and a network of its own may know that by heart.
So where evidence judges, its layers do not count: what is compared is how well the encoder's features, which no
evidence had shaped before, lead from what has been learned to what is held out. (They had been shaped where the run
before trained its encoder; then the comparison favours that run.)

Held out are labels, where classes have five on average, else other statements, where there are enough of them:
    labels      log-likelihood of the held-out ones by softmax regression of the others on features
    the others  their log-likelihood by softmax regression, on features, of the assignments of other images
    nothing     the share of nearest neighbours in the same cluster, times how evenly clusters are used
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.evidence.held_out import held_out_labels, images_of, without_held_out
from smidgen.evidence.kinds import LEARNED
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.terms import EvidenceTerms
from smidgen.maths.neighbours import nearest_neighbours
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.methods.feature_layer import CLUSTERS_STRENGTH
from smidgen.nets.projection import NORM

NEIGHBOURS = 10
MOST = 10_000
"""Images that are enough to learn a layer from, or to look for neighbours among."""


class Judge(nn.Module):
    """Holds evidence out, and says how good features and assignments are by it.

    evidence: of all training images. epsilon: the probability that a statement is wrong.
    learned: the evidence to learn from. rows: the images to learn from, (m,). sample: the images to judge by, (s,).
    """

    def __init__(self, evidence: Resolved, n_clusters: int, *, epsilon: float) -> None:
        super().__init__()
        self.labels, self._n_clusters = evidence.labels, n_clusters
        self.held_out = held_out_labels(evidence.labels)
        self.learned, judged = evidence.replaced(labels=evidence.labels.index_fill(0, self.held_out, -1)), None
        if not len(self.held_out):
            self.learned, judged = without_held_out(evidence)
        self.terms: EvidenceTerms | None = None
        if judged is not None and judged.sizes().keys() & {*LEARNED}:
            self.terms = EvidenceTerms(judged, n_clusters, epsilon=epsilon)
        out = torch.zeros(len(evidence.labels), dtype=torch.bool).index_fill_(0, self.held_out, True)
        out |= torch.zeros_like(out) if judged is None else images_of(judged)
        self.rows = (~out).nonzero().flatten()
        self.sample = self._sample()

    def _sample(self) -> Tensor:
        if len(self.held_out):
            return torch.cat([_some((self.learned.labels >= 0).nonzero().flatten()), self.held_out]).unique()
        if self.terms is not None:
            return torch.cat([_some(self.rows), images_of(self.terms.evidence).nonzero().flatten()]).unique()
        return _some(self.rows)

    @property
    def measure(self) -> str:
        """What `quality` is."""
        if len(self.held_out):
            return "log-likelihood of held-out labels"
        if self.terms is not None:
            return f"log-likelihood of held-out {' and '.join(k for k in self.terms.evidence.sizes() if k != 'bags')}"
        return "agreement of neighbours"

    def quality(self, features: Tensor, embeddings: Tensor, assignments: Tensor) -> float:
        """Return how good they are, the larger the better.

        All are of the images in `sample`: features (s, numbers) without layers that a run has learned from evidence,
        embeddings (s, numbers) with them, and assignments (s, clusters), rows sum to one.
        """
        if len(self.held_out):
            return self._of_labels(features.cpu())
        if self.terms is not None:
            return self.terms.log_likelihood(self._learned_anew(features.cpu(), assignments.cpu()).to(assignments))
        return _agreement(embeddings, assignments)

    def _of_labels(self, features: Tensor) -> float:
        known, labels = self.learned.labels[self.sample], self.labels[self.sample]
        targets = F.one_hot(known.clamp_min(0), self._n_clusters).float()
        log_p = _layer(features, known >= 0, targets).log()
        held_out = known < 0
        return float(log_p[held_out].gather(1, labels[held_out, None]).mean())

    def _learned_anew(self, features: Tensor, assignments: Tensor) -> Tensor:
        """Return assignments (n_images, clusters) by a layer that learns them from `rows`, equal ones elsewhere."""
        p = torch.full((len(self.labels), self._n_clusters), 1 / self._n_clusters)
        p[self.sample] = _layer(features, torch.isin(self.sample, self.rows), assignments)
        return p


def _layer(features: Tensor, learned: Tensor, targets: Tensor) -> Tensor:
    """Return assignments (s, clusters) by softmax regression of those targets that are learned, (s,) bool."""
    x = features - features.mean(0)
    x = x * (NORM / x.square().sum(1).mean().sqrt().clamp_min(1e-12))
    weight, bias = softmax_regression(x[learned], targets[learned], strength=CLUSTERS_STRENGTH)
    return (x @ weight.T + bias).softmax(1).clamp_min(1e-12)


def _some(rows: Tensor) -> Tensor:
    """Return `MOST` of rows, always the same ones, or all if there are fewer."""
    return rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))[:MOST]].sort().values


def _agreement(embeddings: Tensor, assignments: Tensor) -> float:
    """Return the share of nearest neighbours in the same cluster, times how evenly clusters are used, 0 … 1."""
    if len(embeddings) < 2:
        return 0.0
    near = nearest_neighbours(embeddings, min(NEIGHBOURS, len(embeddings) - 1), metric="cosine")[0]
    clusters, mean = assignments.argmax(1), assignments.mean(0)
    agreement = (clusters[near.long()] == clusters[:, None]).float().mean()
    evenness = -(mean * mean.clamp_min(1e-12).log()).sum() / max(np.log(len(mean)), 1e-12)
    return float(agreement * evenness)
