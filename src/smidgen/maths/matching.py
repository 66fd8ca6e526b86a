"""Which cluster is which class: maps by best one-to-one match, by majority, and between two clusterings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from smidgen.errors import InputError

if TYPE_CHECKING:  # scores need these maps for plain arrays, and must not wait four seconds for torch
    from torch import Tensor

Labels = TypeVar("Labels", "Tensor", np.ndarray)


def match_clusters(clusters: Labels, classes: Labels, n_clusters: int, n_classes: int) -> Labels:
    """Return the map cluster -> class (n_clusters,) int64 of the best one-to-one match; -1 for unmatched clusters.

    clusters: (n,) in [0, n_clusters); classes: (n,) in [0, n_classes); pairs with a -1 (unknown) are left out.
    The match maximises the number of images whose cluster maps to their class (Hungarian method). It is complete: the
    smaller side is matched throughout, by any choice where no image decides; with n_clusters <= n_classes there
    is no -1. Tensors give a tensor on the same device, arrays an array.
    Raises InputError for labels outside their range or of different lengths.

    >>> match_clusters(np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 0]), 3, 2).tolist()
    [1, 0, -1]
    """
    return _like(clusters, match_counts(_table(clusters, classes, n_clusters, n_classes)))


def majority_map(clusters: Labels, classes: Labels, n_clusters: int, n_classes: int) -> Labels:
    """Return the map cluster -> most frequent class (n_clusters,) int64; -1 where no class is known.

    Several clusters may map to one class; a tie goes to the smaller class number. Arguments as in `match_clusters`.

    >>> majority_map(np.array([0, 0, 1, 1, 2]), np.array([1, 1, 0, 0, 0]), 4, 2).tolist()
    [1, 0, 0, -1]
    """
    counts = _table(clusters, classes, n_clusters, n_classes)
    best = counts.argmax(1) if n_classes else np.zeros(n_clusters, dtype=np.int64)
    return _like(clusters, np.where(counts.sum(1) > 0, best, -1))


def align(previous: Labels, current: Labels, n_clusters: int) -> Labels:
    """Return the permutation (n_clusters,) int64 that renumbers `current` to agree with `previous` most.

    `align(previous, current, n)[current]` has the old numbers: cluster ids permute between two runs of k-means.
    Both (n,) in [0, n_clusters), -1 for images without a cluster.

    >>> align(np.array([0, 0, 1, 2]), np.array([2, 2, 0, 1]), 3).tolist()
    [1, 2, 0]
    """
    return match_clusters(current, previous, n_clusters, n_clusters)


def match_counts(counts: np.ndarray) -> np.ndarray:
    """Return the best one-to-one map row -> column (rows,) int64 of a table of counts; -1 for unmatched rows.

    >>> match_counts(np.array([[5, 1], [6, 0], [0, 0]])).tolist()
    [1, 0, -1]
    """
    rows, columns = linear_sum_assignment(counts, maximize=True)
    found = np.full(len(counts), -1, dtype=np.int64)
    found[rows] = columns
    return found


def in_order_of_classes(votes: np.ndarray) -> list[int]:
    """Return the clusters in the order of the classes that they are matched to, those without a class last.

    votes: (clusters, classes) of any sign, with at most as many classes as clusters: how much speaks for each match.

    >>> in_order_of_classes(np.array([[0.1, 0.9], [0.2, 0.1], [0.8, 0.3]]))
    [2, 0, 1]
    """
    named = match_counts((votes - votes.min()).T).tolist()  # class → cluster
    return [*named, *(k for k in range(len(votes)) if k not in named)]


def count_table(rows: np.ndarray, columns: np.ndarray, *, n_rows: int, n_columns: int) -> np.ndarray:
    """Return (n_rows, n_columns) int64: how often each pair of labels occurs; pairs with a -1 are left out.

    >>> count_table(np.array([0, 1, 1, -1]), np.array([1, 0, 0, 0]), n_rows=2, n_columns=2).tolist()
    [[0, 1], [2, 0]]
    """
    if rows.ndim != 1 or rows.shape != columns.shape:
        raise InputError(f"Labels must be two lists of one length, got shapes {rows.shape} and {columns.shape}.")
    for labels, size in ((rows, n_rows), (columns, n_columns)):
        if labels.size and not (labels.min() >= -1 and labels.max() < size):
            raise InputError(
                f"Labels must be from 0 to {size - 1}, or -1 for unknown, got {labels.min()} to {labels.max()};"
                " give the right number of clusters and classes."
            )
    known = (rows >= 0) & (columns >= 0)
    cells = rows[known].astype(np.int64) * n_columns + columns[known]
    return np.bincount(cells, minlength=n_rows * n_columns).reshape(n_rows, n_columns)


def _table(clusters: Any, classes: Any, n_clusters: int, n_classes: int) -> np.ndarray:
    return count_table(_array(clusters), _array(classes), n_rows=n_clusters, n_columns=n_classes)


def _array(labels: Any) -> np.ndarray:
    return labels.detach().cpu().numpy() if hasattr(labels, "detach") else np.asarray(labels)


def _like(given: Any, found: np.ndarray) -> Any:
    """Return the map in the kind and on the device of the labels given."""
    return given[:0].long().new_tensor(found) if hasattr(given, "new_tensor") else found
