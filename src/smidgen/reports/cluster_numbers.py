"""The report's section on the number of clusters: the scored curve, and finer and coarser cuts of the merge tree.

Everything comes from `tables/cluster_numbers.csv` and `tables/cluster_merges.csv`, which runs with `--clusters auto`
write; `smidgen clusters` draws the same figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from smidgen.csv_tables import read_csv
from smidgen.errors import RunError
from smidgen.reports.figures import nice_ticks, palette
from smidgen.reports.tables import Assignments

NAMES = {
    "silhouette": "silhouette",
    "stability": "stability",
    "labels": "agreement with labels",
    "pairs": "agreement with pairs",
    "counts": "agreement with counts",
    "bags_of_one_class": "silhouette of bags of one class",
}
"""Column of the table → what its line is called, in the order of the figure."""

_NULLS = {"silhouette": "silhouette_without_clusters", "stability": "stability_without_clusters"}
_WIDTH, _HEIGHT = 760, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 216, 16, 40
_LINE = 16  # pixels between the names of two lines
_FINEST, _PICTURES = 24, 4  # groups of the finest cut that is shown, and images of each


@dataclass(frozen=True, eq=False)
class Cut:
    """A cut of the tree: how many clusters, and of each the number of images and the rows of typical ones."""

    n_clusters: int
    what: str
    groups: Sequence[tuple[int, np.ndarray]]


@dataclass(frozen=True, eq=False)
class Numbers:
    """What the section shows. best, low, high: the number of clusters, and those within one standard error."""

    best: int
    low: int
    high: int
    score: Markup
    parts: Markup
    cuts: Sequence[Cut]

    def rows(self) -> np.ndarray:
        """Return the rows of all images that are shown, (m,) int64."""
        return np.concatenate(
            [np.zeros(0, dtype=np.int64), *(rows for cut in self.cuts for _, rows in cut.groups)]
        ).astype(np.int64)


def read_numbers(run_folder: Path | str, assignments: Assignments) -> Numbers | None:
    """Return what the section shows, None where no number of clusters was looked for; RunError for a damaged table."""
    folder = Path(run_folder) / "tables"
    if not (folder / "cluster_numbers.csv").is_file():
        return None
    try:
        curve = {
            name: np.array(list(map(float, column))) for name, column in read_csv(_file(folder, "numbers")).items()
        }
        best, low, high = best_and_range(curve)
        cuts = _cuts(read_csv(_file(folder, "merges")), assignments, best=best, low=low, high=high)
        return Numbers(best, low, high, score_chart(curve), parts_chart(curve), cuts)
    except (KeyError, ValueError, IndexError, OSError) as error:
        raise RunError(f"The tables on the number of clusters in {str(folder)!r} are damaged ({error}).") from None


def _file(folder: Path, name: str) -> Path:
    return folder / f"cluster_{name}.csv"


def best_and_range(curve: Mapping[str, np.ndarray]) -> tuple[int, int, int]:
    """Return the number of clusters with the best score, and the least and largest within one standard error of it."""
    numbers, within = curve["n_clusters"], curve["within_one_error"] > 0
    return int(numbers[curve["score"].argmax()]), int(numbers[within].min()), int(numbers[within].max())


# ------------------------------------------------------------------------------------------------------- the figures


def score_chart(curve: Mapping[str, np.ndarray]) -> Markup:
    """Return the score over the number of clusters as SVG, with its error, the best number, and the range shaded.

    curve: columns as `maths.cluster_count.Curve.columns` gives them.
    """
    best, low, high = best_and_range(curve)
    score, error = curve["score"], curve["error"]
    plot = _Plot(curve["n_clusters"], np.concatenate([score, score.max() - error]))
    colour = palette(1)[0]
    edges = [plot.place(k, max(s - e, plot.low)) for k, s, e in zip(plot.numbers, score, error, strict=True)]
    upper = [plot.place(k, s) for k, s in zip(plot.numbers, score, strict=True)]
    at = plot.place(best, float(score.max()))
    words = f"best: {best}" + (f", {low} to {high} within one error" if low < high else "")
    parts = [
        *plot.axes("score"),
        plot.shaded(low, high),
        f'<path d="{_path([*upper, *reversed(edges)])}Z" fill="{colour}" opacity=".14"/>',
        *plot.line(score, colour),
        f'<circle cx="{at[0]}" cy="{at[1]}" r="5" fill="{colour}"/>',
        f'<text x="{_WIDTH - _RIGHT + 12}" y="{at[1] + 4}" style="fill: {colour}">{words}</text>',
    ]
    return _figure(parts, f"Score over the number of clusters; {words}")


def parts_chart(curve: Mapping[str, np.ndarray]) -> Markup:
    """Return what the score is made of as SVG: each part a line, and dashed what points without clusters would have."""
    shown = [name for name in NAMES if name in curve]
    nulls = [null for name, null in _NULLS.items() if name in shown]
    plot = _Plot(curve["n_clusters"], np.concatenate([curve[name] for name in (*shown, *nulls)]))
    parts, ends = [*plot.axes("")], []
    for colour, name in zip(palette(len(shown)), shown, strict=True):
        parts += plot.line(curve[name], colour)
        ends.append((plot.place(plot.numbers[-1], curve[name][-1])[1], NAMES[name], colour))
        if name in _NULLS:
            parts += plot.line(curve[_NULLS[name]], colour, dashed=True)
    y = _TOP
    for end, name, colour in sorted(ends):
        y = max(y + _LINE, int(end) + 4)
        parts.append(f'<text x="{_WIDTH - _RIGHT + 12}" y="{y}" style="fill: {colour}">{escape(name)}</text>')
    return _figure(parts, f"What the score is made of: {', '.join(NAMES[name] for name in shown)}")


class _Plot:
    """Places in a figure whose horizontal axis is the logarithm of the number of clusters."""

    def __init__(self, numbers: np.ndarray, values: np.ndarray) -> None:
        self.numbers = numbers.tolist()
        self.ticks = nice_ticks(float(values.min()), float(values.max()))
        self.low, self.high = min(self.ticks[0], float(values.min())), max(self.ticks[-1], float(values.max()))
        self.first, self.last = math.log(self.numbers[0]), math.log(max(self.numbers[-1], self.numbers[0] + 1))

    def place(self, number: float, value: float) -> tuple[float, float]:
        x = _LEFT + (math.log(number) - self.first) / (self.last - self.first) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (value - self.low) / (self.high - self.low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    def axes(self, name: str) -> Iterator[str]:
        for tick in self.ticks:
            _, y = self.place(self.numbers[0], tick)
            yield f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
            yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        marks = [k for k in (2, 3, 5, 10, 20, 50, 100, 200) if self.numbers[0] <= k <= self.numbers[-1]]
        for number in marks or self.numbers[:1]:
            x, _ = self.place(number, self.low)
            yield f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{number}</text>'
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        yield f'<text x="{middle}" y="{_HEIGHT - 4}" text-anchor="middle">number of clusters</text>'
        if name:
            yield f'<text x="{_LEFT}" y="{_TOP - 4}" text-anchor="start">{name}</text>'

    def shaded(self, low: float, high: float) -> str:
        x0, x1 = self.place(low, self.low)[0] - 3, self.place(high, self.low)[0] + 3
        size = f'width="{x1 - x0:.1f}" height="{_HEIGHT - _TOP - _BOTTOM}"'
        return f'<rect class="range" x="{x0:.1f}" y="{_TOP}" {size} fill="#8a8376" opacity=".13"/>'

    def line(self, values: np.ndarray, colour: str, *, dashed: bool = False) -> Iterator[str]:
        places = [self.place(k, value) for k, value in zip(self.numbers, values.tolist(), strict=True)]
        dashes = ' stroke-dasharray="3 4"' if dashed else ""
        yield f'<path d="{_path(places)}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>'
        for k, value, (x, y) in zip(self.numbers, values.tolist(), places, strict=True):
            note = f"{k:.0f} clusters: {value:.3f}"
            yield f'<circle cx="{x}" cy="{y}" r="2.2" fill="{colour}"><title>{note}</title></circle>'


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in places)


def _figure(parts: Sequence[str], label: str) -> Markup:
    opening = f'<svg class="chart wide" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{opening}{''.join(parts)}</svg>")


# ---------------------------------------------------------------------------------------------------------- the cuts


def _cuts(table: Mapping[str, Sequence[str]], assignments: Assignments, *, best: int, low: int, high: int) -> list[Cut]:
    """Return the cuts to show, the coarsest first: the range's ends, its best, and one twice as fine."""
    n_leaves = (len(table["node"]) + 1) // 2
    merges = [(int(a), int(b)) for a, b in zip(table["first"][n_leaves:], table["second"][n_leaves:], strict=True)]
    sizes = list(map(int, table["images"]))
    rows = {image: row for row, image in enumerate(assignments.images) if assignments.splits[row] != "test"}
    typical = [rows.get(image, -1) for image in table["typical"][:n_leaves]]
    wanted: dict[int, str] = {}
    for number, what in ((best, "the best"), (low, "the coarsest in the range"), (high, "the finest in the range")):
        wanted.setdefault(number, what)
    wanted.setdefault(2 * best, "finer")
    finest = min(_FINEST, n_leaves)
    return [
        Cut(number, wanted[number], [_group(node, merges, sizes, typical) for node in _nodes(number, merges)])
        for number in sorted(wanted)
        if 2 <= number <= finest
    ]


def _nodes(n_clusters: int, merges: Sequence[tuple[int, int]]) -> list[int]:
    """Return the nodes of a cut in the order of the tree."""
    n_leaves = len(merges) + 1
    last, stack, found = 2 * n_leaves - 1 - n_clusters, [2 * n_leaves - 2], []
    while stack:
        node = stack.pop()
        if node <= last:
            found.append(node)
        else:
            stack += merges[node - n_leaves][::-1]
    return found


def _group(
    node: int, merges: Sequence[tuple[int, int]], sizes: Sequence[int], typical: Sequence[int]
) -> tuple[int, np.ndarray]:
    """Return how many images a node has, and the typical images of its largest leaves."""
    n_leaves, stack, leaves = len(merges) + 1, [node], []
    while stack:
        at = stack.pop()
        if at < n_leaves:
            leaves.append(at)
        else:
            stack += merges[at - n_leaves]
    largest = sorted(leaves, key=lambda leaf: (-sizes[leaf], leaf))
    rows = [typical[leaf] for leaf in largest if typical[leaf] >= 0]
    return sizes[node], np.array(rows[:_PICTURES], dtype=np.int64)


def shown_numbers(numbers: Numbers | None) -> dict[str, Any] | None:
    """Return the section's variables for the template, None where there is none."""
    if numbers is None:
        return None
    within = f"{numbers.low} to {numbers.high}" if numbers.low < numbers.high else "no other number"
    return {
        "best": numbers.best,
        "within": within,
        "score": numbers.score,
        "parts": numbers.parts,
        "cuts": [
            {"n": cut.n_clusters, "what": cut.what, "groups": [(size, rows.tolist()) for size, rows in cut.groups]}
            for cut in numbers.cuts
        ],
    }
