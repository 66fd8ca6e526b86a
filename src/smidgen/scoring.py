"""How well the clusters of a run agree with known classes, on the run's own images or on new ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.data.datasets import Dataset
from smidgen.errors import InputError
from smidgen.evaluation.bag_methods import score_bags
from smidgen.evaluation.calibration import calibration_scores
from smidgen.evaluation.scores import named_accuracy, per_cluster_table, score_assignments
from smidgen.listener import Listener
from smidgen.model import Model
from smidgen.reports.tables import Assignments, read_assignments, read_optional_json
from smidgen.run_folder import RunFolder

OF_BAGS = {
    "ucc_accuracy": "unique counts of balanced bags",
    "paper_ucc_accuracy": "the same of bags of 32",
    "class_count_accuracy": "numbers of images of each class in such bags",
    "kmeans_accuracy": "k-means of these images' features",
    "spectral_accuracy": "spectral clustering of these images' features",
}
"""The accuracies of methods that describe bags, and what is right."""


@dataclass(frozen=True)
class _Split:
    """Images of one split with their clusters and classes, as numbers into the run's and the data's names."""

    clusters: np.ndarray
    classes: np.ndarray
    confidence: np.ndarray
    class_names: tuple[str, ...]
    cluster_map: np.ndarray
    of_bags: Mapping[str, float]


def score_run(run: Path | str, *, split: str | None = None) -> dict[str, dict[str, Any]]:
    """Return the scores of a finished run's own images, by split, in values that JSON has.

    run: its folder. split: only this one; None or "all" is every split that has images of known class.

    Each has "n_images", "n_scored" (those of known class), the scores of `score_assignments`, "mapped_accuracy" (with
    clusters matched to classes on the training images), those in `OF_BAGS`, and a row for each of the "clusters".
    Raises RunError if there is no such run, InputError if it has no images of known class in the split.
    """
    known = read_assignments(RunFolder.open(run).path)
    if not known.class_names:
        raise InputError(
            f"The images of {str(run)!r} have no known classes to score by: give labelled images,"
            " `smidgen eval RUN DATA`."
        )
    metrics = read_optional_json(RunFolder.open(run).path / "metrics.json")
    results = {}
    for name in ("test", "train", "all"):
        rows = known.splits == name
        if split in (None, "all", name) and (known.classes[rows] >= 0).any():
            own = _own_split(known, rows, _bag_scores(metrics, name))
            results[name] = _scores(own, known.cluster_names)
    if not results:
        raise InputError(f"{str(run)!r} has no images of known class in split {split!r}.")
    return results


def score_images(
    run: Path | str, model: Model, dataset: Dataset, *, listener: Listener | None = None
) -> dict[str, dict[str, Any]]:
    """Return the scores of new images of known classes, as `score_run` does, under the name of their split.

    run: the folder that says which class each cluster was matched to. model: that of the run. dataset: images as the
    model wants them. Raises InputError if their classes are not known.
    """
    listener = listener or Listener()
    known = read_assignments(RunFolder.open(run).path)
    outputs = model.assign_and_encode(
        dataset.images,
        groups=dataset.rows_by_split(),
        progress=lambda done, total: listener.progress("assign", done, total),
    )
    bags = score_bags(
        model,
        [dataset],
        [outputs],
        seed=RunFolder.open(run).setting("seed"),
        decode=False,
        progress=lambda done, total: listener.progress("score bags", done, total),
    )
    if dataset.classes is None:
        raise InputError(
            f"The images in {dataset.name!r} have no known classes: scores need one folder per class, or labels."
        )
    new = _Split(
        clusters=outputs[0].argmax(1),
        classes=dataset.classes,
        confidence=outputs[0].max(1),
        class_names=tuple(dataset.class_names),
        cluster_map=_matched(known, model.cluster_names, dataset.class_names),
        of_bags=_bag_scores(bags.metrics, dataset.split),
    )
    return {dataset.split: _scores(new, model.cluster_names)}


def _own_split(known: Assignments, rows: np.ndarray, of_bags: Mapping[str, float]) -> _Split:
    return _Split(
        clusters=known.clusters[rows],
        classes=known.classes[rows],
        confidence=known.confidence[rows],
        class_names=known.class_names,
        cluster_map=known.class_of,
        of_bags=of_bags,
    )


def _matched(known: Assignments, cluster_names: Sequence[str], class_names: Sequence[str]) -> np.ndarray:
    """Return the class (clusters,) of each cluster, -1 for none: that whose name it got on the training images."""
    numbers = {name: k for k, name in enumerate(class_names)}
    stands_for = {
        cluster: known.class_names[known.class_of[k]]
        for k, cluster in enumerate(known.cluster_names)
        if known.class_names and known.class_of[k] >= 0
    }
    return np.array([numbers.get(stands_for.get(name, ""), -1) for name in cluster_names])


def _bag_scores(metrics: Mapping[str, Any], split: str) -> dict[str, float]:
    """Return the scores of methods that describe bags for one split, without its name."""
    named = {name: metrics.get(f"{split}_{name}") for name in (*OF_BAGS, "proportion_error", "min_js")}
    return {name: value for name, value in named.items() if isinstance(value, float)}


def _scores(part: _Split, cluster_names: Sequence[str]) -> dict[str, Any]:
    n_clusters = len(cluster_names)
    scores: dict[str, Any] = {"n_images": len(part.clusters), "n_scored": int((part.classes >= 0).sum())}
    scores |= score_assignments(part.classes, part.clusters, n_clusters=n_clusters)
    if (part.cluster_map >= 0).any():
        scores["mapped_accuracy"] = named_accuracy(part.classes, part.clusters, cluster_map=part.cluster_map)
        known = part.classes >= 0
        right = part.cluster_map[part.clusters[known]] == part.classes[known]
        scores |= calibration_scores(part.confidence[known], right)
    return {**scores, **part.of_bags, "clusters": _rows(part, cluster_names)}


def _rows(part: _Split, cluster_names: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row for each cluster: name, size, purity, the class of most of its images and the one it stands for."""
    table = per_cluster_table(
        part.classes,
        part.clusters,
        n_clusters=len(cluster_names),
        confidences=part.confidence,
        class_names=part.class_names,
    )
    columns = (column.tolist() for column in table.values())
    rows = [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]
    for row, name, stands_for in zip(rows, cluster_names, part.cluster_map.tolist(), strict=True):
        row |= {"cluster": name, "most": row.pop("class")}
        row["matched"] = part.class_names[stands_for] if stands_for >= 0 else None
    return [{k: None if v != v else v for k, v in row.items()} for row in rows]  # NaN is not JSON
