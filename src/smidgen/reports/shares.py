"""The report's table of the clusters' estimated shares of the images, beside the true ones where classes are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from smidgen.reports.tables import Assignments, is_number, percent

MOST_SHOWN = 50
"""Clusters in the table, the largest first; `metrics.json` has them all."""


def share_section(assignments: Assignments, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the table shows, None of a run without estimated shares (`prior` in `metrics.json`).

    rows: cluster, class it stands for, estimated and true share as texts and as fractions of the largest one, the true
    ones of training images whose class is known, None where there are none.
    """
    given = metrics.get("prior")
    found = {name: value for name, value in given.items() if is_number(value)} if isinstance(given, Mapping) else {}
    if not found:
        return None
    true = _true_shares(assignments)
    classes = {name: _class_of(assignments, name) for name in found}
    largest = max([*found.values(), *true.values(), 1e-9])
    rows = []
    for name, share in sorted(found.items(), key=lambda pair: -pair[1])[:MOST_SHOWN]:
        known = true.get(classes[name])
        rows.append(
            {
                "cluster": name,
                "stands_for": classes[name] if classes[name] != name else "",
                "estimated": percent(share),
                "true": "" if known is None else percent(known),
                "bar": round(100 * share / largest, 1),
                "true_bar": 0 if known is None else round(100 * known / largest, 1),
            }
        )
    return {
        "rows": rows,
        "more": len(found) - len(rows),
        "has_true": bool(true),
        "named": not any(row["stands_for"] for row in rows),
    }


def _true_shares(assignments: Assignments) -> dict[str, float]:
    """Return class → share among the images trained on, or among all where no split says which; none if unknown."""
    rows = (assignments.splits != "test") & (assignments.classes >= 0)
    counts = np.bincount(assignments.classes[rows], minlength=len(assignments.class_names))
    return {
        name: float(n / counts.sum()) for name, n in zip(assignments.class_names, counts, strict=True) if rows.any()
    }


def _class_of(assignments: Assignments, cluster: str) -> str:
    """Return the class that a cluster stands for, empty where it has no image or stands for none."""
    if cluster not in assignments.cluster_names:
        return ""
    row = int(assignments.class_of[assignments.cluster_names.index(cluster)])
    return assignments.class_names[row] if row >= 0 else ""
