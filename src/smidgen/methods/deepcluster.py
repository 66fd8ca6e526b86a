"""DeepCluster: k-means on a net's features labels the images, and the net learns these labels, in turn.

Idea. Even a random convolutional net sees something, and clusters of what it sees are a task that it can learn to do
better. At every relabelling, once per pass over the images, the features of all images are whitened and clustered; the
labels are the targets of the next pass. Cluster numbers mean nothing from one k-means to the next, so the layer that
predicts them is drawn anew each time. Images are drawn evenly over clusters, or the largest one would take all.

Source. Caron, Bojanowski, Joulin and Douze, "Deep Clustering for Unsupervised Learning of Visual Features", ECCV 2018
(docs/methods.md §3); DeepCluster-v2 is described by Caron et al., NeurIPS 2020, appendix. Written from the equations.

Equation → function
    f = PCA-whitened features before the last ReLU, length one        FeatureClusters.fit, DeepCluster.begin
    min_C Σ_n min_k |f_n − C_k|², 20 iterations, empty clusters split maths.kmeans.kmeans
    P(y) uniform over the clusters that hold images                   relabelling.drawn_evenly
    −log softmax(W relu(h(view of x)))_y                              DeepCluster.loss
    v2: −log softmax(C z / T)_y, z = unit(MLP(h)), C the centroids    DeepCluster.loss, `top_layer="centroids"`

Deviations. The norm of the gradient is clipped at 1, as in every method here. k-means starts by k-means++. Clusters of
consecutive relabellings are matched, so that the share of reassigned images means something. The clusters wanted are
found by k-means on the features at the end, not whitened, and new images go to the nearest centroid.
On ready embeddings dropout stands in for views. With `neighbours` an image's label is learned from those nearest to it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smidgen.data.batches import Part, Request
from smidgen.maths.kmeans import KMeansResult, assign, kmeans
from smidgen.maths.matching import align
from smidgen.methods.base import Embed, EvidenceUse, Method, Problem, PseudoLabels, Stage, StartingPoint
from smidgen.methods.feature_clusters import Blocks, FeatureClusters, directions, features_of_all
from smidgen.methods.host_copies import HostCopies
from smidgen.methods.relabelling import (
    Relabellings,
    drawn_evenly,
    find_neighbours,
    one_near,
    plain_view,
    relabelling_steps,
    rows_by_cluster,
    varied,
)
from smidgen.nets.composed import EncoderOption, Gradients
from smidgen.nets.encoders import TRAINED_HERE, make_encoder
from smidgen.options import Count, CountOrZero, Options, Positive, Several, Share, ShareBelowOne, Weight, option

MOST_ALIGNED = 2000
"""Clusters up to which those of two relabellings are matched: the Hungarian method takes the cube of their number."""


@dataclass(frozen=True, eq=False)
class DeepClusterConfig(Options):
    """Settings of `deepcluster`; the defaults are the paper's, but for 100 passes over 50,000 images instead of 500."""

    encoder: EncoderOption = option("alexnet", "the trained encoder, see `smidgen list encoders`")
    sobel: bool | None = option(None, "feed Sobel gradients instead of colours; none does so if images have colours")
    groups: CountOrZero | None = option(
        None, "k, number of pseudo-classes; none is ten times the number of clusters, 0 as many as clusters"
    )
    steps: Count = option(20_000, "optimiser steps")
    relabellings: Count | None = option(None, "number of label updates; none is one per pass over the images")
    batch_size: Several = option(256, "images per step")
    components: Count = option(256, "whitened principal components to cluster; v2 uses all features")
    iterations: Count = option(20, "k-means iterations per label update")
    top_layer: Literal["new", "centroids"] = option(
        "new",
        "re-initialised at each label update, or DeepCluster-v2's: the centroids, which are not trained",
    )
    temperature: Positive = option(0.1, "T, temperature of the centroids as a top layer")
    even: bool = option(True, "sample images uniformly over pseudo-classes")
    crop: Share = option(0.08, "smallest fraction of a photograph's area in a view")
    dropout: ShareBelowOne = option(0.2, "dropout rate of ready embeddings in a view")
    neighbours: CountOrZero = option(0, "nearest neighbours that stand in for an image, 0 for the image itself")
    learning_rate: Weight = option(0.05, "of SGD, for net and top layer")
    momentum: ShareBelowOne = option(0.9, "of SGD for the net; the top layer has none")
    weight_decay: Weight = option(1e-5, "of SGD")
    schedule: Literal["constant", "cosine"] = option("constant", "of the learning rate")

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "report": {"sobel": True, "groups": 0, "steps": 4700},
        "small": {
            "encoder": "conv",
            "sobel": False,
            "components": 32,
            "steps": 1200,
            "relabellings": 12,
            "schedule": "cosine",
        },
        "v2": {
            "encoder": "conv",
            "sobel": False,
            "steps": 1200,
            "relabellings": 12,
            "schedule": "cosine",
            "top_layer": "centroids",
        },
        "embeddings": {
            "components": 32,
            "batch_size": 512,
            "steps": 1200,
            "relabellings": 12,
            "schedule": "cosine",
            "neighbours": 10,
        },
    }
    """Options by name: "paper" is the defaults; "report" what seed 002 did, with as many groups as clusters and 100
    passes over its 12,000 images; "small" trains a small net on small images in minutes;
    "v2" does so with the top layer that DeepCluster-v2 has; "embeddings" is "small" for ready embeddings, with
    neighbours for views."""


class DeepCluster(Method):
    """See the module's docstring."""

    name = "deepcluster"
    training_only = ("labels", "history", "neighbours", "group_centroids", "whitening", "top_layer.")

    labels: Tensor
    history: Tensor
    neighbours: Tensor
    group_centroids: Tensor
    whitening: Tensor

    def __init__(self, config: DeepClusterConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem, self._host = config, problem, HostCopies()
        self.view = plain_view(problem, crop=max(config.crop, 1e-3), colour=config.top_layer == "centroids")
        self.encoder = make_encoder(self.encoder_parts, problem.shape, mean=problem.mean, std=problem.std)
        wanted = 10 * problem.n_clusters if config.groups is None else config.groups or problem.n_clusters
        self.n_groups = min(wanted, max(1, problem.n_images))  # a loaded one knows no images
        features = self.encoder.features
        self.projector: nn.Module = nn.Identity()
        if config.top_layer == "centroids":
            self.projector = _projector(features)
            features = _PROJECTED
        self.top_layer = nn.Linear(features, self.n_groups, bias=config.top_layer == "new")
        self.top_layer.requires_grad_(config.top_layer == "new")
        self.clusters = FeatureClusters(features, problem.n_clusters, components=config.components)
        self._relabellings = Relabellings("clustering_loss")
        self.evidence_use = EvidenceUse(chance_losses={"groups": math.log(self.n_groups)} if config.even else {})
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("history", torch.zeros(0, len(self._relabellings.columns)))
        self.register_buffer("neighbours", torch.zeros(0, 0, dtype=torch.int32))
        self.register_buffer("group_centroids", torch.zeros(0, 0))
        self.register_buffer("whitening", torch.zeros(0))

    @property
    def encoder_parts(self) -> EncoderOption:
        """The net, with the filter before it where there is one."""
        encoder, wanted = self.config.encoder, self.config.sobel
        with_sobel = self.problem.shape[0] == 3 if wanted is None else wanted
        if with_sobel and not self.problem.holds_vectors and encoder in TRAINED_HERE:
            return Gradients(str(encoder))
        return encoder

    def stages(self) -> list[Stage]:
        """Return the one stage, "train"; `begin` is called at every label update."""
        config = self.config
        passes = config.steps * config.batch_size / max(1, self.problem.n_images)
        relabellings = config.relabellings or max(1, round(passes))
        begins = relabelling_steps(config.steps, relabellings, schedule="linear")
        return [Stage("train", config.steps, begins=begins, schedule=config.schedule)]

    def optimisers(self, stage: str) -> list[torch.optim.Optimizer]:
        """Return SGD for the net, and where the top layer learns, SGD without momentum for that."""
        config = self.config
        net = [p for part in (self.encoder, self.projector) for p in part.parameters() if p.requires_grad]
        settings = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
        body = torch.optim.SGD(net, momentum=config.momentum, **settings)
        if config.top_layer == "centroids":
            return [body]
        return [body, torch.optim.SGD(self.top_layer.parameters(), **settings)]

    # --------------------------------------------------------------------------------------------------- relabelling

    def begin(self, stage: str, step: int, embed: Embed, generator: torch.Generator) -> Iterable[nn.Parameter]:
        """Cluster the features of all images, label the images by that, and renew the top layer."""
        if self.config.neighbours and not len(self.neighbours):
            self.neighbours = find_neighbours(embed, self.config.neighbours, problem=self.problem)
        blocks = self._features_of_all(embed)
        self.whitening = self.clusters.fit(blocks)
        components = torch.cat([self.clusters.project(block) for block in blocks()])
        found = self._aligned(self._grouped(components * self.whitening, blocks, generator))
        facts = self._relabellings.row(
            step, self.labels, found.labels, found.inertia / len(found.labels), like=self.history
        )
        self.labels, self.history = found.labels, torch.cat([self.history, facts])
        self.group_centroids = found.centroids
        self.clusters.find(components, generator)
        self._renew_top_layer(found.centroids, generator)
        return self.top_layer.parameters()

    def _features_of_all(self, embed: Embed) -> Blocks:
        features = self.top_layer.in_features
        return features_of_all(embed, self.encode, n_images=self.problem.n_images, features=features)

    def _grouped(self, whitened: Tensor, blocks: Blocks, generator: torch.Generator) -> KMeansResult:
        """Return the groups of whitened components, or, for DeepCluster-v2, of the features as they are."""
        is_v2 = self.config.top_layer == "centroids"
        return kmeans(
            torch.cat(list(blocks())) if is_v2 else directions(whitened),
            self.n_groups,
            n_init=1,
            max_iterations=self.config.iterations,
            tolerance=0.0,
            spherical=is_v2,
            empty="split",
            generator=generator,
        )

    def _aligned(self, found: KMeansResult) -> KMeansResult:
        """Return clusters under the numbers that most of their images had before."""
        if len(self.labels) != len(found.labels) or self.n_groups > MOST_ALIGNED:
            return found
        numbers = align(self.labels, found.labels, self.n_groups)
        return replace(found, labels=numbers[found.labels], centroids=found.centroids[numbers.argsort()])

    @torch.no_grad()
    def _renew_top_layer(self, centroids: Tensor, generator: torch.Generator) -> None:
        if self.config.top_layer == "centroids":
            self.top_layer.weight.copy_(centroids)
            return
        nn.init.normal_(self.top_layer.weight, 0, 0.01, generator=generator)
        nn.init.zeros_(self.top_layer.bias)

    # ------------------------------------------------------------------------------------------------------ learning

    def request(self, stage: str, step: int, generator: torch.Generator, *, progress: int) -> dict[str, Request]:
        """Ask for images drawn evenly over the groups; `items` are the images whose labels they stand for."""
        if self.config.even:
            rows = drawn_evenly(self._host("rows", self.labels, rows_by_cluster), self.config.batch_size, generator)
        else:
            rows = torch.randint(self.problem.n_images, (self.config.batch_size,), generator=generator)
        near = one_near(rows, self._host("neighbours", self.neighbours), generator)
        return {"images": Request(near, self.view, items=rows)}

    def loss(self, parts: Mapping[str, Part], *, stage: str, step: int, progress: int) -> dict[str, Tensor]:
        """Return the cross-entropy with the labels, as `total` and `groups`, which `Diagnostics` compares with ln k."""
        part = parts["images"]
        assert part.items is not None
        logits = self._logits(varied(part.images, dropout=self.config.dropout))
        total = F.cross_entropy(logits, self.labels[part.items])
        return {"total": total, "groups": total, **self._relabellings.logged(self.history)}

    def _logits(self, images: Tensor) -> Tensor:
        """Return (batch, groups) in float32."""
        features = self.encoder(images)
        if self.config.top_layer == "new":
            return self.top_layer(features).float()
        z = F.normalize(self.projector(features).float(), dim=1)
        with torch.autocast(z.device.type, enabled=False):  # divided by T, roundings would show
            return self.top_layer(z) / self.config.temperature

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Find the clusters by k-means on what the features have become, and where the groups are now."""
        blocks = self._features_of_all(embed)
        self.whitening = self.clusters.finish(blocks, generator)
        if self.config.top_layer == "new":
            self.group_centroids = self._means_of_groups(blocks)

    def _means_of_groups(self, blocks: Blocks) -> Tensor:
        """Return the mean (groups, components) of what is clustered over the images of each group."""
        points = torch.cat([directions(self.clusters.project(block) * self.whitening) for block in blocks()])
        sizes = torch.bincount(self.labels, minlength=self.n_groups).to(points)[:, None]
        means = points.new_zeros(self.n_groups, points.shape[1]).index_add_(0, self.labels, points) / sizes
        return torch.where(sizes > 0, means, _FAR)

    def pseudo_labels(self) -> PseudoLabels:
        """Return the groups of the last k-means; other images get the label of the nearest centroid."""
        return PseudoLabels(
            self.n_groups, lambda images: self._logits(images)[:, None], self._label_others, self.labels[None]
        )

    def _label_others(self, images: Tensor) -> Tensor:
        features = self.encode(images)
        if self.config.top_layer == "centroids":
            return assign(features.float(), self.group_centroids, spherical=True)[:, None]
        return assign(directions(self.clusters.project(features) * self.whitening), self.group_centroids)[:, None]

    # ------------------------------------------------------------------------------------------------------- results

    @property
    def starting_point(self) -> StartingPoint:
        """The encoder, with the filter."""
        return StartingPoint(self.encoder_parts, self.encoder)

    def encode(self, images: Tensor) -> Tensor:
        """Return the features (batch, features) that are clustered, before the last ReLU; v2: after the projection."""
        if self.config.top_layer == "new":
            return self.encoder.preactivations(images)
        return self.projector(self.encoder(images))

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and the features that they are made of."""
        features = self.encode(images)
        return self.clusters(features), features

    def tables(self, embed: Embed) -> dict[str, dict[str, np.ndarray]]:
        """Return what each relabelling changed."""
        return {"relabellings": self._relabellings.table(self.history)}


_FAR = 9.0  # from all directions, which have length one: where a group without images is

_PROJECTED = 128  # numbers after DeepCluster-v2's projection


def _projector(features: int) -> nn.Sequential:
    """Return DeepCluster-v2's projection: a hidden layer as wide as the features, 128 numbers out."""
    hidden = (nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU())
    return nn.Sequential(*hidden, nn.Linear(features, _PROJECTED))
