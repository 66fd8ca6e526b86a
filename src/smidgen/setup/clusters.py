"""How many clusters a fit looks for: as many as asked for, else as the evidence names classes; or "auto"."""

from __future__ import annotations

import dataclasses

import numpy as np

from smidgen.config import Config
from smidgen.data.datasets import Dataset
from smidgen.evidence.resolved import Resolved
from smidgen.listener import Listener

AUTO = "auto"
"""The number of clusters that suits images and evidence best, see `setup.number_of_clusters`."""

DEFAULT_CLUSTERS = 10
"""Where the evidence does not say more."""


def choose_clusters(config: Config, train: Dataset, evidence: Resolved, listener: Listener) -> Config:
    """Return the configuration with a number of clusters, or "auto": as it is if it has one of them."""
    if config.n_clusters is not None:
        return config
    n_clusters, why = clusters_of_evidence(evidence)
    listener.log(f"{why}: looking for {n_clusters} clusters (`--clusters` changes it).")
    n_classes = 0 if train.classes is None else len(np.unique(train.classes[train.classes >= 0]))
    if not classes_named(evidence) and 1 < n_classes != n_clusters:
        listener.log(
            f"The images are of {n_classes} classes, used for scores only: `--clusters {n_classes}` uses that."
        )
    return dataclasses.replace(config, n_clusters=n_clusters)


def clusters_of_evidence(evidence: Resolved) -> tuple[int, str]:
    """Return how many clusters to look for, and why, as the beginning of a sentence.

    As many as the evidence names classes, or counts in one bag.
    """
    named, least = classes_named(evidence), least_clusters(evidence)
    if named > 1 and named == least:
        return named, f"The evidence names {named} classes"
    if named > 1 or least > DEFAULT_CLUSTERS:
        return least, f"A bag holds images of {least} classes"
    return DEFAULT_CLUSTERS, "No number of clusters was given"


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
    return max(least_clusters(evidence), min(DEFAULT_CLUSTERS, len(train)))
