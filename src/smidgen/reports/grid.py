"""The table and the plot of a sweep: a line for each method, a place on the axis for each amount of supervision."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from smidgen.csv_tables import write_csv
from smidgen.files import atomic_write
from smidgen.reports import figures, tables
from smidgen.reports.level_chart import level_chart, standalone
from smidgen.reports.markdown import markdown_table
from smidgen.reports.names import visible
from smidgen.reports.seeds import with_spread

FILES = ("sweep.csv", "sweep.md", "sweep.svg")
"""What `write_grid` writes."""

_SPLITS = ("test", "train", "all")


@dataclass(frozen=True)
class Grid:
    """Where the variants of a sweep stand: axis is what `levels` are amounts of; cells: (line, level) → variant.

    kinds: what each level is an amount of, where that is not the same for all.
    """

    axis: str
    lines: tuple[str, ...]
    levels: tuple[str, ...]
    cells: Mapping[tuple[str, str], str]
    kinds: tuple[str, ...] = ()


def accuracies(grid: Grid, summary: Mapping[str, Any]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """Return the accuracy of every cell that has run: "mean", "spread" and "values", of test images where there are.

    summary: of the variants, see `variants.write_variants`.
    """
    split = _judged(summary)
    found = {place: summary["variants"][name]["figures"].get(f"{split}_accuracy") for place, name in grid.cells.items()}
    return {place: figure for place, figure in found.items() if figure is not None}


def _judged(summary: Mapping[str, Any]) -> str:
    known = {key for variant in summary["variants"].values() for key in variant["figures"]}
    return next((split for split in _SPLITS if f"{split}_accuracy" in known), "test")


def rows(grid: Grid, summary: Mapping[str, Any]) -> list[list[str]]:
    """Return the table as texts, the header first: a row for each line, mean ± standard deviation for each level."""
    found = accuracies(grid, summary)

    def cell(line: str, level: str) -> str:
        if (figure := found.get((line, level))) is not None:
            return with_spread(figure)
        name = grid.cells.get((line, level))
        return "–" if name is None else "failed" if "failed" in summary["variants"][name] else "not run"

    return [[grid.axis, *grid.levels], *([line, *(cell(line, level) for level in grid.levels)] for line in grid.lines)]


def numbers(grid: Grid, summary: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return a row for each run: method, level, seed, and its accuracy."""
    table: dict[str, list[Any]] = {"method": [], "level": [], "seed": [], f"{_judged(summary)}_accuracy": []}
    for (line, level), figure in accuracies(grid, summary).items():
        seeds = summary["variants"][grid.cells[line, level]]["seeds"]
        for seed, value in zip(seeds, figure["values"], strict=True):
            for column, entry in zip(table.values(), (line, level, seed, value), strict=True):
                column.append(entry)
    return table


def chart(grid: Grid, summary: Mapping[str, Any]) -> Markup:
    """Return the plot as SVG: accuracy over the levels, with standard deviations; empty if nothing has run."""
    found = accuracies(grid, summary)
    series = {
        line: [
            (place, found[line, level]["mean"], found[line, level]["spread"] or 0.0)
            for place, level in enumerate(grid.levels)
            if (line, level) in found
        ]
        for line in grid.lines
    }
    if not found:
        return Markup("")
    return level_chart(
        {visible(line): points for line, points in series.items()},
        [visible(level) for level in grid.levels],
        axis=grid.axis,
        label=f"Accuracy of {_judged(summary)} images over {grid.axis}, a line for each method",
        kinds=grid.kinds,
    )


def confusions(out: Path, grid: Grid, summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the confusion matrix of each cell's first seed, by line; those of at most 24 classes and clusters."""
    found = []
    for line in grid.lines:
        matrices = []
        for level in grid.levels:
            variant = summary["variants"].get(grid.cells.get((line, level), ""), {})
            if variant.get("seeds"):
                svg = _confusion(out / variant["folder"] / f"seed-{variant['seeds'][0]}", f"{line}, {level}")
                matrices += [{"level": level, "svg": svg}] if svg else []
        if matrices:
            found.append({"line": line, "matrices": matrices})
    return found


def _confusion(run: Path, name: str) -> Markup | None:
    known = tables.read_assignments(run)
    counts = tables.confusion(known, split=known.judged_split)
    if not counts.sum() or max(counts.shape) > 24:
        return None
    every = np.arange(len(known.class_names))
    order = np.argsort(np.where(known.class_of < 0, len(every), known.class_of), kind="stable")
    return figures.heat_map(
        counts[:, order], known.class_of[order][None, :] == every[:, None],
        rows=[visible(name) for name in known.class_names],
        columns=[visible(known.cluster_names[k]) for k in order],
        label=f"Confusion matrix of {name}: classes in rows, clusters in columns",
    )  # fmt: skip


def section(out: Path, grid: Grid, summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the page shows of a sweep."""
    header, *body = rows(grid, summary)
    return {
        "split": _judged(summary),
        "axis": grid.axis,
        "chart": chart(grid, summary),
        "colours": list(zip(grid.lines, figures.palette(len(grid.lines)), strict=True)),
        "header": header,
        "rows": body,
        "confusions": confusions(out, grid, summary),
    }


def write_grid(out: Path, grid: Grid, summary: Mapping[str, Any]) -> None:
    """Write `sweep.csv`, a row for each run, `sweep.md`, the table, and `sweep.svg`, the plot by itself."""
    write_csv(out / "sweep.csv", numbers(grid, summary))
    with atomic_write(out / "sweep.md") as file:
        file.write(markdown_table(rows(grid, summary)).encode())
    with atomic_write(out / "sweep.svg") as file:
        file.write(standalone(chart(grid, summary)).encode())
