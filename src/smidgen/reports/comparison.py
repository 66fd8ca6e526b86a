"""Several runs side by side: their figures, and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.reports.tables import (
    Table,
    cut,
    duration,
    flatten,
    interval,
    is_number,
    plain,
    read_optional_json,
    thousands,
)
from smidgen.run_folder import RunFolder


@dataclass(frozen=True)
class Comparison:
    """Runs side by side: one row each, with the figures that any of them has; and the settings in which they differ.

    scores: (runs, columns) pairs of texts, the figure and its interval, empty where a run lacks them.
    best: (runs, columns) marks. same_data: whether all runs were fitted to the same images, as far as is known.
    """

    runs: Sequence[str]
    columns: Sequence[str]
    scores: Sequence[Sequence[tuple[str, str]]]
    best: Sequence[Sequence[bool]]
    settings: Table
    same_data: bool


_COMPARED = ("accuracy", "named_accuracy", "mapped_accuracy", "nmi", "ari", "ami", "purity")
_COSTS = ("n_images", "n_clusters", "seconds", "peak_memory_mb")


def compare_runs(run_folders: Sequence[Path | str]) -> Comparison:
    """Return the figures of several runs side by side; raise RunError if one of them is no run folder."""
    runs = [RunFolder.open(folder) for folder in run_folders]
    metrics = [read_optional_json(run.path / "metrics.json") for run in runs]
    names = [f"{split}_{score}" for split in ("test", "train", "all") for score in _COMPARED]
    columns = [key for key in (*names, *_COSTS) if any(is_number(m.get(key)) for m in metrics)]
    same_data = len(_fingerprints(runs)) <= 1
    best = {key: max((m[key] for m in metrics if is_number(m.get(key))), default=None) for key in names}
    marked = len(runs) > 1 and same_data
    return Comparison(
        runs=[str(folder) for folder in run_folders],
        columns=columns,
        scores=[[_score(m, key) for key in columns] for m in metrics],
        best=[[marked and key in m and m[key] == best.get(key) for key in columns] for m in metrics],
        settings=_differences(runs),
        same_data=same_data,
    )


def _fingerprints(runs: Sequence[RunFolder]) -> set[str]:
    data = [read_optional_json(run.path / "manifest.json").get("data") for run in runs]
    return {str(d["fingerprint"]) for d in data if isinstance(d, Mapping) and "fingerprint" in d}


def _score(metrics: Mapping[str, Any], key: str) -> tuple[str, str]:
    value = metrics.get(key)
    if not is_number(value):
        return "", ""
    if key == "seconds":
        return duration(value), ""
    if key in _COSTS:
        return thousands(value), ""
    bounds = interval(metrics, key)
    return f"{value:.4f}", f"{bounds[0]:.4f}–{bounds[1]:.4f}" if bounds else ""


def _differences(runs: Sequence[RunFolder]) -> Table:
    settings = [dict(flatten(run.config)) for run in runs]
    names = list(dict.fromkeys(name for setting in settings for name in setting))
    rows = [[name, *(cut(plain(setting.get(name)), 200) for setting in settings)] for name in names]
    differing = [row for row in rows if len(set(row[1:])) > 1]
    return Table("Settings that differ", ["name", *(run.path.name for run in runs)], differing, len(differing))
