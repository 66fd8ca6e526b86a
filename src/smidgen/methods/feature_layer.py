"""The softmax layer of `fusion-embeddings` on its features: from several clusterings alone, or from labels as well."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.maths.class_prior import estimated_prior
from smidgen.maths.consensus import consensus
from smidgen.maths.entropy import sharpened, sharpness_for
from smidgen.maths.kmeans import assign, kmeans
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.methods.fusion_sizes import weight_of_heads

Layer = tuple[Tensor, Tensor]
"""Weight (clusters, features) and bias (clusters,) of a softmax layer, on the CPU."""

STARTS = 10
"""Starts of k-means."""

MOST_MERGED = 5000
"""Images among which Ward's method finds clusters: its time and memory grow with their square."""

LABELS_STRENGTH = 0.015
"""C of the regression on labels. Features have a root mean square length of 38 (`nets.projection`)."""

CLUSTERS_STRENGTH = 0.015
"""C of the regression on clusterings."""

LEAST_HELD_OUT = 3
"""Labels per class from which on held-out labels say how much the clusters' assignments add to the labels'."""

CLUSTERS_WORDS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Exponents of the clusters' assignments to choose from."""

SURE_OF_CLUSTERS = 600
"""Images per cluster from which on the exponent is 1 where each class has one label; it falls with fewer."""

FOLDS = 5


SHARPNESS = 2.0
"""Of the assignments from which the sizes of the classes are estimated; soft ones exaggerate the differences."""

PSEUDO_COUNTS = 0.1
"""Of each class when their sizes are estimated; three times as many where each has one label."""


class FeatureLayer(nn.Module):
    """A softmax layer, and whether it has been learned: (batch, features) → assignments (batch, clusters)."""

    weight: Tensor
    bias: Tensor
    learned: Tensor

    def __init__(self, features: int, n_clusters: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(n_clusters, features))
        self.register_buffer("bias", torch.zeros(n_clusters))
        self.register_buffer("learned", torch.tensor(False))

    def forward(self, features: Tensor) -> Tensor:
        """Return assignments (batch, clusters), rows sum to one."""
        return (features @ self.weight.T + self.bias).softmax(1)

    def take(self, layer: Layer) -> None:
        """Take the values of a layer."""
        self.weight, self.bias = layer[0].to(self.weight), layer[1].to(self.bias)
        self.learned.fill_(True)

    def reorder(self, clusters: Sequence[int]) -> None:
        """Take the clusters in another order."""
        order = torch.tensor(clusters, device=self.bias.device)
        self.weight, self.bias = self.weight[order], self.bias[order]

    def calibrate(self, features: Tensor, neighbours: Tensor) -> None:
        """Bring the mean confidence to the agreement of neighbours (images, k); without labels no more is known."""
        p = self(features)
        labels = p.argmax(1)
        agreement = (labels[neighbours.long()] == labels[:, None]).float().mean()
        sharpness = sharpness_for(p, float(agreement))
        self.weight, self.bias = sharpness * self.weight, sharpness * self.bias


def unsupervised_layer(features: Tensor, votes: Tensor, *, generator: torch.Generator) -> Layer:
    """Return the layer that predicts the consensus of k-means, Ward's method and the votes of linear heads.

    features: (images, features), principal components by falling variance. votes: (images, clusters), assignments by
    the heads. generator: on the CPU.
    """
    features, votes = features.cpu(), votes.cpu()
    n, n_clusters = votes.shape
    members = [votes, *_clusterings(features, n_clusters, generator=generator)]
    weights = [weight_of_heads(n_images=n, n_clusters=n_clusters), *[1.0] * (len(members) - 1)]
    return softmax_regression(features, consensus(members, weights=weights), strength=CLUSTERS_STRENGTH)


def _clusterings(features: Tensor, n_clusters: int, *, generator: torch.Generator) -> list[Tensor]:
    """Return assignments (images, clusters) by k-means and by Ward's method; none of fewer images than clusters."""
    if len(features) < n_clusters:
        return []
    by_kmeans = kmeans(features, n_clusters, n_init=STARTS, generator=generator).labels
    return [F.one_hot(labels.long(), n_clusters).float() for labels in (by_kmeans, _by_ward(features, n_clusters))]


def _by_ward(features: Tensor, n_clusters: int) -> Tensor:
    """Return labels (images,) of the nearest centroid, those of Ward's clusters of about `MOST_MERGED` images."""
    n = len(features)
    some = features[:: min(-(-n // MOST_MERGED), n // n_clusters)]
    merged = torch.from_numpy(AgglomerativeClustering(n_clusters, linkage="ward").fit_predict(some.numpy()))
    if len(some) == n:
        return merged
    sums = torch.zeros(n_clusters, features.shape[1]).index_add_(0, merged, some)
    return assign(features, sums / merged.bincount(minlength=n_clusters)[:, None])


def labelled_layer(features: Tensor, labels: Tensor, clusters: Layer) -> Layer:
    """Return the layer that predicts the labels, the clusters' layer as prior knowledge, the classes' sizes estimated.

    features: (images, features). labels: (images,) int64, -1 unknown. clusters: the layer without labels, its clusters
    in the order of the classes; classes that no label names stay as they are there.
    """
    features, labels = features.cpu(), labels.cpu()
    weight, bias = (part.cpu() for part in clusters)
    n_clusters = len(bias)
    known = (labels >= 0).nonzero().flatten()
    targets = F.one_hot(labels[known], n_clusters).float()
    per_class = targets.sum(0)
    mean = float(per_class[per_class > 0].mean())
    per_class = torch.where(per_class > 0, per_class, -mean)  # below 0: of classes that no label names
    rows, weights = features[known], torch.ones(len(known))
    if bool((per_class < 0).any()):
        some, instead, share = _instead_of_labels(features, clusters, per_class, known)
        rows, targets = torch.cat([rows, features[some]]), torch.cat([targets, instead])
        weights = torch.cat([weights, share])
    own_weight, own_bias = softmax_regression(rows, targets, weights=weights, strength=LABELS_STRENGTH)
    if mean < LEAST_HELD_OUT:
        word = min(1.0, len(features) / (n_clusters * SURE_OF_CLUSTERS)) / mean
    else:
        word = _clusters_word(features[known], labels[known], features[known] @ weight.T + bias)
    weight, bias = own_weight + word * weight, own_bias + word * bias
    bias = bias - per_class.abs().log()  # as if all classes had as many labels
    p = sharpened((features @ weight.T + bias).softmax(1), SHARPNESS)
    return weight, bias + estimated_prior(p, pseudo_counts=max(PSEUDO_COUNTS, 0.3 / mean)).log()


def _instead_of_labels(
    features: Tensor, clusters: Layer, per_class: Tensor, known: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return rows (n,), targets (n, clusters) and weights (n,) of the images in clusters of classes without a label.

    per_class: (clusters,), below 0 for those classes: how many labels their images are to weigh. known: labelled rows.
    """
    weight, bias = (part.cpu() for part in clusters)
    p = (features @ weight.T + bias).softmax(1) * (per_class < 0)
    p[known] = 0
    share = p.sum(1) * float(-per_class[per_class < 0].sum()) / p.sum().clamp_min(1e-12)
    rows = (share > 0).nonzero().flatten()
    return rows, p[rows] / p[rows].sum(1, keepdim=True), share[rows]


def _clusters_word(features: Tensor, labels: Tensor, clusters: Tensor) -> float:
    """Return the least exponent of the clusters' assignments that predicts held-out labels as well as the best one.

    features: (labelled, d). labels: (labelled,). clusters: logits (labelled, clusters). As well is within one standard
    error of the difference.
    """
    n_clusters, fold = clusters.shape[1], torch.zeros(len(labels), dtype=torch.int64)
    for label in labels.unique():
        of_class = (labels == label).nonzero().flatten()
        fold[of_class] = torch.arange(len(of_class)) % FOLDS
    own = torch.zeros_like(clusters)
    for held_out in range(FOLDS):
        train, test = fold != held_out, fold == held_out
        targets = F.one_hot(labels[train], n_clusters).float()
        weight, bias = softmax_regression(features[train], targets, strength=LABELS_STRENGTH)
        own[test] = features[test] @ weight.T + bias
    scores = torch.stack(
        [(own + word * clusters).log_softmax(1).gather(1, labels[:, None])[:, 0] for word in CLUSTERS_WORDS]
    )
    behind = scores[scores.mean(1).argmax()] - scores  # (exponents, labelled)
    error = behind.std(1) / len(labels) ** 0.5
    return CLUSTERS_WORDS[int((behind.mean(1) <= error).nonzero()[0])]
