"""The report's section on clusters and classes: confusion matrix, table of clusters, mistakes, predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from smidgen.reports import figures, tables
from smidgen.reports.gallery import Galleries, Mistake
from smidgen.reports.names import cluster_title, is_numbered, visible
from smidgen.reports.predictions import ClusterRow, Predictions, cluster_rows, table_split
from smidgen.reports.tables import Assignments, percent

MOST_ROWS = 200
"""Clusters in the page's table; `tables/clusters.csv` has them all."""

_MOST_COLUMNS = 12  # classes with a column each; of more, the most frequent ones of a cluster are named
_NAMED = 4
_MATRIX = 100  # rows and columns of the confusion matrix


def class_section(
    assignments: Assignments, galleries: Galleries, metrics: Mapping[str, Any], *, has_file: bool
) -> dict[str, Any] | None:
    """Return what the section shows, or None where no class is known.

    has_file: whether the run has `tables/clusters.csv`.
    """
    split = assignments.judged_split
    counts = tables.confusion(assignments, split=split)
    if not counts.sum():
        return None
    judged = assignments.in_split(split)
    return {
        "split": split,
        "map": _map_in_words(assignments, metrics),
        "images": int(judged.sum()),
        "wrong": int((judged & assignments.mistaken()).sum()),
        "by_class": assignments.has_more_clusters,
        **_matrix(assignments, counts, split),
        "mistakes": [_mistake(assignments, mistake) for mistake in galleries.mistakes],
        "table": _table(assignments) | {"file": has_file},
        "predictions": _predictions(assignments, galleries.predictions),
    }


def _map_in_words(assignments: Assignments, metrics: Mapping[str, Any]) -> str:
    """Return how clusters got the classes they stand for, and on which images."""
    if any("named_accuracy" in key for key in metrics):
        return "Clusters carry the names of classes."
    on_train = assignments.judged_split == "test" and (
        assignments.in_split("train").any() or assignments.in_split("all").any()
    )
    images = "training images" if on_train else "images"
    if assignments.has_more_clusters:
        words = f"There are more clusters than classes, so each stands for the most frequent class among its {images}"
    else:
        words = f"Each cluster stands for one class, by the one-to-one match that fits the {images} best"
    if on_train:
        return f"{words}; test and new images are judged by that match, unchanged."
    return f"{words}; these are the same images that are judged here."


def _matrix(assignments: Assignments, counts: np.ndarray, split: str) -> dict[str, Any]:
    """Return the confusion matrix: of classes and clusters, or, where these are more, of classes and predictions."""
    names = [visible(name) for name in assignments.class_names]
    n_classes = len(names)
    if assignments.has_more_clusters:
        by_class = np.stack([counts[:, assignments.class_of == c].sum(1) for c in range(n_classes)], axis=1)
        label = f"Confusion matrix of the {split} split: classes in rows, predicted classes in columns"
        matrix = figures.heat_map(
            by_class[:_MATRIX, :_MATRIX],
            np.eye(n_classes, dtype=bool)[:_MATRIX, :_MATRIX],
            rows=names[:_MATRIX],
            columns=names[:_MATRIX],
            label=label,
            words=("class", "predicted"),
        )
        return {"matrix": matrix, "cut": n_classes > _MATRIX}
    every = np.arange(n_classes)
    order = np.argsort(np.where(assignments.class_of < 0, n_classes, assignments.class_of), kind="stable")[:_MATRIX]
    matrix = figures.heat_map(
        counts[:_MATRIX, order],
        assignments.class_of[None, order] == every[:_MATRIX, None],
        rows=names[:_MATRIX],
        columns=[visible(assignments.cluster_names[k]) for k in order],
        label=f"Confusion matrix of the {split} split: classes in rows, clusters in columns",
    )
    return {"matrix": matrix, "cut": n_classes > _MATRIX}


def _mistake(assignments: Assignments, mistake: Mistake) -> dict[str, Any]:
    clusters, classes = assignments.cluster_names, assignments.class_names
    return {
        "class_name": classes[mistake.class_number],
        "cluster": cluster_title(clusters[mistake.cluster]) if mistake.cluster >= 0 else None,
        "stands_for": classes[mistake.stands_for] if mistake.stands_for >= 0 else None,
        "count": mistake.count,
        "rows": mistake.rows.tolist(),
    }


# ----------------------------------------------------------------------------------------------- table of clusters


def _table(assignments: Assignments) -> dict[str, Any]:
    split = table_split(assignments)
    rows = cluster_rows(assignments, split=split)
    has_columns = len(assignments.class_names) <= _MOST_COLUMNS
    return {
        "split": split,
        "total": len(rows),
        "named": not all(map(is_numbered, assignments.cluster_names)),
        "classes": assignments.class_names if has_columns else (),
        "rows": [_row(assignments, row, has_columns=has_columns) for row in rows[:MOST_ROWS]],
    }


def _row(assignments: Assignments, row: ClusterRow, *, has_columns: bool) -> dict[str, Any]:
    names = assignments.class_names
    shares = row.counts / max(row.known, 1)
    order = np.argsort(-row.counts, kind="stable")[: _NAMED + 1]
    present = [(names[c], int(row.counts[c])) for c in order.tolist() if row.counts[c]]
    return {
        "cluster": assignments.cluster_names[row.number],
        "size": row.size,
        "stands_for": names[row.stands_for] if row.stands_for >= 0 else "",
        "dominant": names[row.dominant] if row.dominant >= 0 else "",
        "purity": percent(row.purity) if row.known else "",
        "cells": [(int(n), round(float(s), 2), c == row.stands_for)
                  for c, (n, s) in enumerate(zip(row.counts, shares, strict=True))] if has_columns else [],
        "present": present[:_NAMED],
        "more": int((row.counts > 0).sum()) - len(present[:_NAMED]),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ right and wrong


def _predictions(assignments: Assignments, found: Sequence[Predictions]) -> list[dict[str, Any]]:
    """Return, for each class, what was predicted to be of it: right and wrong images of each split."""
    by_class: dict[int, list[Predictions]] = {}
    for each in found:
        by_class.setdefault(each.class_number, []).append(each)
    return [
        {
            "name": assignments.class_names[class_number],
            "splits": [
                {
                    "name": each.split,
                    "n_right": each.n_right,
                    "n_wrong": each.n_wrong,
                    "right": each.right.tolist(),
                    "wrong": each.wrong.tolist(),
                }
                for each in splits
                if each.n_right or each.n_wrong
            ],
        }
        for class_number, splits in by_class.items()
    ]
