"""K-means on pixels, on their principal components, or on an encoder's embeddings: the baseline of every table.

Evidence is ignored, but for labels with `start=labels`: clusters then start at the means of their images.

Source: Lloyd (1982) with greedy k-means++ starts (Arthur & Vassilvitskii 2007), see `maths.kmeans`; seeds: Basu,
Banerjee and Mooney (2002); trimming: Cuesta-Albertos, Gordaliza and Matrán (1997), see `maths.trimmed_kmeans`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from smidgen.errors import InputError
from smidgen.maths.pca import fit_pca
from smidgen.maths.scaling import unit_rows
from smidgen.maths.soft_clusters import assignments_by_distance, calibrated_spread
from smidgen.maths.trimmed_kmeans import trimmed_kmeans
from smidgen.methods.base import Embed, EvidenceUse, Problem, StartingPoint, Stepless
from smidgen.nets.composed import EncoderOption
from smidgen.nets.encoders import make_encoder
from smidgen.options import Count, Options, ShareBelowOne, option


@dataclass(frozen=True, eq=False)
class KMeansConfig(Options):
    """Settings of `kmeans`."""

    features: Literal["auto", "pixels", "pca", "encoder"] = option(
        "auto",
        "what to cluster; auto is embeddings if an encoder is named or loaded from another run (`--init-from`),"
        " otherwise pixels",
    )
    encoder: EncoderOption | None = option(
        None,
        "has random weights unless pretrained or loaded from another run; none with `features=encoder` is conv",
    )
    components: Count = option(50, "number of principal components, with `features=pca`")
    n_init: Count = option(10, "number of restarts, of which the best is kept")
    max_iterations: Count = option(300, "most iterations per restart")
    spherical: bool = option(False, "normalise features to unit length")
    start: Literal["random", "labels"] = option(
        "random", "where clusters start: by k-means++, or at the means of labelled images, whose classes they become"
    )
    trim: ShareBelowOne = option(0.0, "fraction of images, the farthest from their centroids, that count for nothing")


class KMeans(Stepless):
    """See the module's docstring."""

    name = "kmeans"

    mean: Tensor
    components: Tensor
    centroids: Tensor
    spread: Tensor

    def __init__(self, config: KMeansConfig, problem: Problem) -> None:
        super().__init__()
        self.config, self.problem = config, problem
        if config.start == "labels":
            self.evidence_use = EvidenceUse(kinds=("labels",))
        self.uses_encoder = config.features == "encoder" or (config.features == "auto" and config.encoder is not None)
        if self.uses_encoder:
            self.encoder = make_encoder(config.encoder or "conv", problem.shape, mean=problem.mean, std=problem.std)
        for name in ("mean", "components", "centroids", "spread"):
            self.register_buffer(name, torch.zeros(0))

    def finish(self, embed: Embed, generator: torch.Generator) -> None:
        """Run k-means on the features of all training images."""
        config, n_clusters = self.config, self.problem.n_clusters
        features = embed(self._raw_features)
        if config.features == "pca":
            pca = fit_pca(features, min(config.components, *features.shape))
            self.mean, self.components = pca.mean.to(features), pca.components.to(features)
            features = pca.transform(features)
        if len(features) < n_clusters:
            raise InputError(f"{n_clusters} clusters were wanted of {len(features)} images: ask for fewer clusters.")
        found = trimmed_kmeans(
            features,
            n_clusters,
            trim=config.trim,
            n_init=config.n_init,
            max_iterations=config.max_iterations,
            spherical=config.spherical,
            seeds=self.problem.evidence.labels if config.start == "labels" else None,
            generator=generator,
        )
        self.centroids = found.centroids
        points = unit_rows(features) if config.spherical else features
        self.spread = calibrated_spread(
            points, found.centroids, found.labels, generator=generator, spherical=config.spherical
        )

    @property
    def starting_point(self) -> StartingPoint | None:
        """The encoder; None where the features are not an encoder's."""
        return StartingPoint(self.config.encoder or "conv", self.encoder) if self.uses_encoder else None

    def start_from(self, start: StartingPoint) -> None:
        """Load another method's encoder; InputError where the features are not an encoder's."""
        if not self.uses_encoder:
            raise InputError(
                f"`kmeans` has no net here (`features` is {self.config.features!r}): pass `--set features=encoder`, or"
                " leave out `--init-from`."
            )
        super().start_from(start)

    def _raw_features(self, images: Tensor) -> Tensor:
        return self.encoder(images) if self.uses_encoder else images.flatten(1)

    def encode(self, images: Tensor) -> Tensor:
        """Return the features that are clustered (batch, features)."""
        features = self._raw_features(images)
        if self.config.features == "pca" and len(self.components):
            features = (features - self.mean) @ self.components.T
        return unit_rows(features) if self.config.spherical else features

    def assign_and_encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return assignments and the features they are computed from."""
        features = self.encode(images)
        return assignments_by_distance(features, self.centroids, self.spread), features
