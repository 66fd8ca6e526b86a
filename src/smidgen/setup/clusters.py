"""How many clusters a fit looks for: as many as asked for, else as the evidence names classes; or "auto"."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

import numpy as np

from smidgen.config import Config
from smidgen.data.datasets import Dataset
from smidgen.evidence.resolved import Resolved
from smidgen.listener import Listener
from smidgen.methods.priors import read_shares

AUTO: Final = "auto"
"""The number of clusters that suits images and evidence best, see `setup.number_of_clusters`."""

ONE_SHARE_PER_CLUSTER = ("fusion-images", "fusion-embeddings", "mutual-information")
"""Methods whose option `prior` has a number for each cluster."""

_PLANNED = 10  # clusters, at most, that a plan is made with until "auto" has come to a number


def choose_clusters(config: Config, train: Dataset, evidence: Resolved, listener: Listener) -> Config:
    """Return the configuration with a number of clusters, or "auto": as it is if it has one of them."""
    if config.n_clusters in (None, AUTO) and (shares := _clusters_of_prior(config)):
        listener.log(f"`prior` has {shares} numbers: looking for as many clusters.")
        return dataclasses.replace(config, n_clusters=shares)
    if config.n_clusters is not None:
        return config
    n_clusters = clusters_of_evidence(evidence)
    if n_clusters == AUTO:
        listener.log("No number of clusters was given: the images decide, and the evidence (`--clusters` changes it).")
    else:
        listener.log(
            f"The evidence names {n_clusters} classes: looking for as many clusters (`--clusters` changes it)."
        )
    n_classes = 0 if train.classes is None else len(np.unique(train.classes[train.classes >= 0]))
    if n_classes > 1 and n_clusters == AUTO:
        listener.log(
            f"The images are of {n_classes} known classes, used for scores only: `--clusters {n_classes}` looks for as"
            " many."
        )
    return dataclasses.replace(config, n_clusters=n_clusters)


def _clusters_of_prior(config: Config) -> int | None:
    """Return how many clusters an option `prior` gives the shares of, None where it gives none."""
    if config.method not in ONE_SHARE_PER_CLUSTER:
        return None
    shares = read_shares(str(config.options["prior"]))
    return None if shares is None else len(shares)


def clusters_of_evidence(evidence: Resolved) -> int | Literal["auto"]:
    """Return as many as the evidence names classes, if two or more; "auto" where it names fewer than it counts."""
    named = classes_named(evidence)
    return named if named > 1 and named == least_clusters(evidence) else AUTO


def classes_named(evidence: Resolved) -> int:
    """Return how many classes the evidence names."""
    return max(len(evidence.class_names), int(evidence.labels.numpy().max(initial=-1)) + 1)


def least_clusters(evidence: Resolved) -> int:
    """Return the least number of clusters that the evidence leaves possible: classes named, or counted in one bag."""
    counted = int(evidence.counts_min.numpy().max(initial=1))
    return max(classes_named(evidence), counted)


def number_to_plan_with(config: Config, train: Dataset, evidence: Resolved) -> int:
    """Return the number of clusters, or, as long as it is "auto", one that the evidence leaves possible."""
    if isinstance(config.n_clusters, int):
        return config.n_clusters
    return max(least_clusters(evidence), min(_PLANNED, len(train)))
