"""Small SVG figures in the page's colours: training curves, histogram, heat map; colour palettes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from markupsafe import Markup, escape

# Okabe & Ito (2008), the yellow darkened for white ground; then three found by the distance used in `palette`.
_TEN = (
    "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#9c2450", "#dcc93c", "#4b3fb5", "#77dfc0",
)  # fmt: skip

# Machado, Oliveira & Fernandes (2009), severity 1: how linear RGB looks without L (protan) and M (deutan) cones.
_SIGHTS = (
    np.eye(3),
    np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
)


@lru_cache(maxsize=8)
def palette(n: int) -> tuple[str, ...]:
    """Return n different colours as `#rrggbb`, readable on light and dark ground.

    The first six are those of Okabe and Ito; each further one is far from all before, in the eyes of people with and
    without red-green blindness alike.

    >>> palette(3)
    ('#0072b2', '#e69f00', '#009e73')
    """
    colours = list(_TEN[:n])
    if n <= len(_TEN):
        return tuple(colours)
    candidates = _candidates()
    seen = _perceived(candidates)
    nearest = np.min([_distance(seen, _perceived(_parsed(colour))) for colour in colours], axis=0)
    while len(colours) < n:
        best = int(nearest.argmax())
        colours.append("#" + "".join(f"{round(255 * v):02x}" for v in candidates[best]))
        nearest = np.minimum(nearest, _distance(seen, seen[:, best : best + 1]))
    return tuple(colours)


def _parsed(colour: str) -> np.ndarray:
    return np.array([[int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]])


def _candidates() -> np.ndarray:
    """Return colours (m, 3) of a grid over sRGB that stand out from white and from near-black."""
    axis = np.linspace(0, 1, 18)
    colours = np.stack(np.meshgrid(axis, axis, axis), axis=-1).reshape(-1, 3)
    lightness = _perceived(colours)[0, :, 0]
    return colours[(lightness > 0.48) & (lightness < 0.84)]


def _perceived(colours: np.ndarray) -> np.ndarray:
    """Return sRGB colours (m, 3) in OKLab (Ottosson, 2020) as three kinds of sight see them, (3, m, 3)."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.stack([linear @ sight.T for sight in _SIGHTS]), 0, 1)
    cones = seen @ np.array(
        [[0.4122214708, 0.2119034982, 0.0883024619],
         [0.5363325363, 0.6806995451, 0.2817188376],
         [0.0514459929, 0.1073969566, 0.6299787005]]
    )  # fmt: skip
    return np.cbrt(cones) @ np.array(
        [[0.2104542553, 1.9779984951, 0.0259040371],
         [0.7936177850, -2.4285922050, 0.7827717662],
         [-0.0040720468, 0.4505937099, -0.8086757660]]
    )  # fmt: skip


def _distance(colours: np.ndarray, other: np.ndarray) -> np.ndarray:
    return np.linalg.norm(colours - other, axis=-1).min(axis=0)


# ------------------------------------------------------------------------------------------------- training curves

_WIDTH, _HEIGHT = 380, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 12, 20, 24  # margins in pixels

Point = tuple[float, float]
Place = Callable[[Point], Point]


def line_chart(
    series: Mapping[str, Sequence[Sequence[Point]]],
    stages: Sequence[tuple[str, float, float]],
    *,
    label: str,
    band: Sequence[Sequence[Point]] | None = None,
    axis: str = "step",
) -> Markup:
    """Return lines over training steps, with the stages of training as shaded bands, as SVG.

    series: name to strokes, one for each stage, of (step, value) points, finite, in order. Long strokes
    are drawn as the mean of short stretches within the band of their extremes.
    stages: (name, first step, last step). label: for screen readers. band: the lower and the upper edge of a band
    around the first line. axis: what steps are.
    """
    edges = [list(edge) for edge in band or ()]
    values = [y for strokes in (*series.values(), edges) for points in strokes for _, y in points]
    first, last = stages[0][1], max(stages[-1][2], stages[0][1] + 1)
    ticks = nice_ticks(min(values), max(values))
    low, high = min(ticks[0], *values), max(ticks[-1], *values)

    def place(point: Point) -> Point:
        x = _LEFT + (point[0] - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        y = _HEIGHT - _BOTTOM - (point[1] - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    parts = [*_bands(stages, place, low, high), *_axes(ticks, place, (first, last), low, axis)]
    if len(edges) == 2 and len(edges[0]) > 1:
        outline = _path([place(point) for point in (*edges[0], *reversed(edges[1]))])
        parts.append(f'<path class="spread line0" d="{outline}Z"/>')
    for number, strokes in enumerate(series.values()):
        for points in strokes:
            parts.extend(_line(points, number, place))
    return svg(parts, "chart", (_WIDTH, _HEIGHT), label)


def svg(parts: Sequence[str], kind: str, size: tuple[int, int], label: str, *, style: str = "") -> Markup:
    """Return an SVG figure of a CSS class made of parts; label: for screen readers."""
    opening = f'<svg class="{kind}" viewBox="0 0 {size[0]} {size[1]}" style="{style}" role="img"'
    return Markup(f'{opening} aria-label="{escape(label)}">{"".join(parts)}</svg>')


def nice_ticks(low: float, high: float) -> list[float]:
    """Return two to five round numbers in [low, high], or three around a single value.

    >>> nice_ticks(0.0, 1.0), nice_ticks(3, 3)
    ([0.0, 0.25, 0.5, 0.75, 1.0], [2.0, 3.0, 4.0])
    """
    if not high > low:
        step = 10.0 ** math.floor(math.log10(abs(low) or 1.0))
        return [low - step, float(low), low + step]
    rough = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    digits = 2 - math.floor(math.log10(step))
    return [round(i * step, digits) for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _bands(stages: Sequence[tuple[str, float, float]], place: Place, low: float, high: float) -> Iterator[str]:
    for number, (name, start, end) in enumerate(stages):
        (x0, y0), (x1, y1) = place((start, low)), place((end, high))
        width = max(x1 - x0, 0.5)
        yield (f'<rect class="band band{number % 2}" x="{x0}" y="{y1}" width="{width:.1f}" height="{y0 - y1:.1f}">'
               f"<title>{escape(name)}</title></rect>")  # fmt: skip
        room = int(width / 6.2)
        if len(stages) > 1 and room >= 3:
            text = name if len(name) <= room else f"{name[: room - 1]}…"
            yield f'<text class="stage" x="{x0 + 3:.1f}" y="{_TOP - 6}">{escape(text)}</text>'


def _axes(ticks: Sequence[float], place: Place, span: tuple[float, float], low: float, axis: str) -> Iterator[str]:
    for tick in ticks:
        _, y = place((span[0], tick))
        yield f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_tick(tick)}</text>'
    for step, anchor in zip(span, ("start", "end"), strict=True):
        x, y = place((step, low))
        yield f'<text x="{x}" y="{_HEIGHT - 8}" text-anchor="{anchor}">{step:,.0f}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text class="axis-name" x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">{escape(axis)}</text>'


def _tick(value: float) -> str:
    return f"{value:,.6g}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.3g}".replace("e+0", "e")


def _line(points: Sequence[Point], number: int, place: Place) -> Iterator[str]:
    if len(points) > 240:
        stretches = [np.array(part) for part in np.array_split(np.asarray(points), 120)]
        upper = [place((part[:, 0].mean(), part[:, 1].max())) for part in stretches]
        lower = [place((part[:, 0].mean(), part[:, 1].min())) for part in stretches]
        yield f'<path class="spread line{number}" d="{_path([*upper, *reversed(lower)])}Z"/>'
        points = [(part[:, 0].mean(), part[:, 1].mean()) for part in stretches]
    placed = [place(point) for point in points]
    if len(placed) > 1:
        yield f'<path class="line line{number}" d="{_path(placed)}"/>'
    if placed and len(placed) <= 30:
        yield from (f'<circle class="dot line{number}" cx="{x}" cy="{y}" r="2"/>' for x, y in placed)


def _path(points: Sequence[Point]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


# ------------------------------------------------------------------------------------- confidence and confusion


def histogram(confidence: np.ndarray, wrong: np.ndarray | None, *, label: str, bins: int = 25) -> Markup:
    """Return how many images have which confidence as SVG bars; the mistaken ones, where known, as a second colour.

    confidence: (n,) in [0, 1]. wrong: (n,) bool or None. label: for screen readers.
    """
    low = min(0.0, math.floor(10 * confidence.min(initial=0)) / 10)
    high = max(1.0, confidence.max(initial=1))
    counts, edges = np.histogram(confidence, bins=bins, range=(low, high))
    bad = np.zeros_like(counts) if wrong is None else np.histogram(confidence[wrong], bins=bins, range=(low, high))[0]
    top = max(int(counts.max(initial=0)), 1)
    width, height = 760, 180
    step, scale = (width - 20) / bins, (height - 44) / top
    parts = []
    for i, (count, mistaken) in enumerate(zip(counts.tolist(), bad.tolist(), strict=True)):
        x, tall, part = 10 + i * step, count * scale, mistaken * scale
        note = f"{edges[i]:.2f} to {edges[i + 1]:.2f}: {count:,}" + (f", {mistaken:,} mistaken" if mistaken else "")
        parts.append(
            f'<g><title>{note}</title><rect class="bar" x="{x + 1:.1f}" y="{height - 24 - tall:.1f}"'
            f' width="{step - 2:.1f}" height="{tall - part:.1f}"/>'
            + (f'<rect class="bar wrong" x="{x + 1:.1f}" y="{height - 24 - part:.1f}" width="{step - 2:.1f}"'
               f' height="{part:.1f}"/>' if mistaken else "") + "</g>"
        )  # fmt: skip
    parts.append(f'<path class="axis" d="M10 {height - 23.5}H{width - 10}"/>')
    parts.extend(f'<text x="{10 + (value - low) / (high - low) * (width - 20):.1f}" y="{height - 6}"'
                 f' text-anchor="middle">{value:.1f}</text>' for value in np.linspace(low, high, 6))  # fmt: skip
    parts.append(f'<text x="{10 + (int(counts.argmax()) + 0.5) * step:.1f}" y="14" text-anchor="middle">{top:,}</text>')
    return svg(parts, "chart wide", (width, height), label)


def heat_map(
    counts: np.ndarray,
    right: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    words: tuple[str, str] = ("class", "cluster"),
) -> Markup:
    """Return a confusion matrix as SVG: the share of each row as the strength of a cell's colour.

    counts: (rows, columns) int. right: (rows, columns) bool, cells drawn in the colour of agreement.
    rows, columns: names; words: what they are names of. Numbers are written into the cells up to 24 columns.
    """
    cell = 44 if len(columns) <= 12 else 30 if len(columns) <= 24 else 10
    left, top = 12 + 7 * min(max((len(name) for name in rows), default=0), 16), 30 if cell > 10 else 8
    totals = np.maximum(counts.sum(axis=1), 1)
    parts = [f'<text class="name" x="{left - 8}" y="{top + (i + 0.5) * cell + 4:.1f}" text-anchor="end">'
             f"{escape(_short(name, 16))}</text>"
             for i, name in enumerate(rows) if cell > 10 or len(rows) <= 60]  # fmt: skip
    if cell > 10:
        parts.extend(f'<text class="name" x="{left + (j + 0.5) * cell:.1f}" y="{top - 9}" text-anchor="middle">'
                     f"{escape(_short(name, cell // 7))}</text>" for j, name in enumerate(columns))  # fmt: skip
    for i, j in np.argwhere(counts > 0).tolist():
        share, text = counts[i, j] / totals[i], _compact(int(counts[i, j]))
        note = f"{words[0]} {rows[i]}, {words[1]} {columns[j]}: {counts[i, j]:,} ({100 * share:.1f} %)"
        parts.append(f'<g class="{"right" if right[i, j] else "wrong"}"><title>{escape(note)}</title>'
                     f"{_cell(left + j * cell, top + i * cell, cell, text, share)}</g>")  # fmt: skip
    size = (left + len(columns) * cell + 2, top + len(rows) * cell + 2)
    return svg(parts, "heat", size, label, style=f"width:{size[0]}px")


def value_map(
    values: np.ndarray,
    *,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    words: tuple[str, str],
    largest: float,
    cell: int = 44,
) -> Markup:
    """Return a matrix of values from 0 as SVG: the nearer to `largest`, the stronger a cell's colour; NaN has no cell.

    values: (rows, columns). rows, columns: names; words: what they are names of. cell: the side of one in pixels; from
    30 upwards values are written into the cells and names beside them.
    """
    named = cell >= 30
    left = 12 + 7 * min(max((len(name) for name in rows), default=0), 16) if named else 0
    top = 30 if named else 0
    parts = []
    if named:
        parts += [f'<text class="name" x="{left - 8}" y="{top + (i + 0.5) * cell + 4:.1f}" text-anchor="end">'
                  f"{escape(_short(name, 16))}</text>" for i, name in enumerate(rows)]  # fmt: skip
        parts += [f'<text class="name" x="{left + (j + 0.5) * cell:.1f}" y="{top - 9}" text-anchor="middle">'
                  f"{escape(_short(name, cell // 7))}</text>" for j, name in enumerate(columns)]  # fmt: skip
    for i, j in np.argwhere(~np.isnan(values)).tolist():
        share = min(max(float(values[i, j]) / largest, 0.0), 1.0)
        note = f"{words[0]} {rows[i]}, {words[1]} {columns[j]}: {values[i, j]:.3g}"
        text = f"{values[i, j]:.2f}".lstrip("0") if values[i, j] < 0.995 else f"{values[i, j]:.1f}"
        parts.append(f'<g class="right"><title>{escape(note)}</title>'
                     f"{_cell(left + j * cell, top + i * cell, cell, text, share)}</g>")  # fmt: skip
    size = (left + len(columns) * cell + 2, top + len(rows) * cell + 2)
    return svg(parts, "heat" if named else "heat strip", size, label, style=f"width:{size[0]}px")


def _cell(x: int, y: int, side: int, text: str, share: float) -> str:
    strength = f"{0.08 + 0.92 * share**0.7:.2f}"
    square = f'<rect x="{x}" y="{y}" width="{side - 1}" height="{side - 1}" rx="2" fill-opacity="{strength}"/>'
    if side <= 12:
        return square
    on_dark = ' class="on"' if share > 0.5 else ""
    return f'{square}<text x="{x + side / 2}" y="{y + side / 2 + 3.5}"{on_dark}>{text}</text>'


def _short(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: max(length - 1, 1)]}…"


def _compact(count: int) -> str:
    """Return a count in at most four characters: 980, 1.2k, 14k."""
    if count < 1000:
        return str(count)
    return f"{count / 1000:.1f}k" if count < 9950 else f"{count / 1000:.0f}k"
