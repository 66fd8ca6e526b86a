"""The softmax layer of `fusion-embeddings` on its features, learned from several clusterings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.maths.consensus import consensus
from smidgen.maths.entropy import sharpness_for
from smidgen.maths.kmeans import assign, kmeans
from smidgen.maths.softmax_regression import softmax_regression
from smidgen.maths.transport import rows_of, scale_columns
from smidgen.methods.fusion_sizes import weight_of_heads

Layer = tuple[Tensor, Tensor]
"""Weight (clusters, features) and bias (clusters,) of a softmax layer, on the CPU."""

STARTS = 10
"""Starts of k-means."""

MOST_MERGED = 5000
"""Images among which Ward's method finds clusters: its time and memory grow with their square."""

CLUSTERS_STRENGTH = 0.015
"""C of the regression on clusterings."""


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


def unsupervised_layer(
    features: Tensor,
    n_clusters: int,
    *,
    generator: torch.Generator,
    votes: Tensor | None = None,
    most_for_heads: float = math.inf,
) -> Layer:
    """Return the layer that predicts the consensus of k-means, Ward's method and the votes of linear heads, if any.

    features: (images, features), principal components by falling variance. generator: on the CPU. votes: (images,
    clusters), assignments by the heads; needed of fewer images than clusters. most_for_heads: the largest weight of
    these, k-means and Ward's method having 1.
    """
    features, n = features.cpu(), len(features)
    members = _clusterings(features, n_clusters, generator=generator)
    weights = [1.0] * len(members)
    if votes is not None:
        members.insert(0, votes.cpu())
        weights.insert(0, weight_of_heads(n_images=n, n_clusters=n_clusters, most=most_for_heads))
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


def layer_of_shares(features: Tensor, layer: Layer, shares: Tensor, *, named: bool = True) -> Layer:
    """Return the layer with biases by which its clusters have the given shares (clusters,) of the images.

    named: whether the shares are in the order of the clusters; if not, the largest is for the largest cluster.
    """
    weight, bias = (part.cpu() for part in layer)
    logits, shares = features.cpu() @ weight.T + bias, shares.cpu()
    if not named:
        order = logits.softmax(1).mean(0).argsort()
        shares = torch.empty_like(shares).scatter(0, order, shares.sort().values)
    return weight, bias + scale_columns(rows_of(logits), marginals=shares).log_scale
