"""The plot of a sweep: a line for each method over amounts of supervision, which stand at equal distances."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby

from markupsafe import Markup, escape

from smidgen.reports.figures import nice_ticks, palette

_WIDTH, _HEIGHT = 820, 380
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 170, 24, 46  # margins in pixels
_LINE = 15  # pixels between the names of two lines

Point = tuple[int, float, float]
"""Place on the axis, mean, standard deviation."""

Place = Callable[[float, float], tuple[float, float]]

_STYLE = """
svg { background: #fff; font-family: system-ui, sans-serif; font-size: 12px; }
text { fill: #6f6b63; } .grid { stroke: #e6e2d9; fill: none; }
"""


def level_chart(
    series: Mapping[str, Sequence[Point]], levels: Sequence[str], *, axis: str, label: str, kinds: Sequence[str] = ()
) -> Markup:
    """Return lines with bars of ± one standard deviation as SVG, each line named at its right end.

    series: name → (place in `levels`, mean, standard deviation) in order; a line without points is left out.
    axis: what the levels are amounts of. label: for screen readers. kinds: what each level is an amount of, where that
    is not the same for all: only neighbours of one kind are joined. Values stand at the points of a single line.
    """
    series = {name: points for name, points in series.items() if points}
    ends = [mean + sign * spread for points in series.values() for _, mean, spread in points for sign in (-1, 1)]
    ticks = nice_ticks(max(min(ends), 0.0), min(max(ends), 1.0))
    low, high = min(ticks[0], *ends), max(ticks[-1], *ends)
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(levels) - 1, 1)

    def place(level: float, value: float) -> tuple[float, float]:
        y = _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(_LEFT + level * step, 1), round(y, 1)

    parts = list(_axes(ticks, levels, place, axis))
    colours = palette(len(series))
    kinds = kinds or [""] * len(levels)
    for colour, points in zip(colours, series.values(), strict=True):
        parts += _line(points, place, colour, kinds)
    if len(series) == 1:
        parts += _values(next(iter(series.values())), place)
    right = len(levels) - 1
    last = {name: place(right if len(points) == 1 else points[-1][0], points[-1][1]) for name, points in series.items()}
    parts += _names(last, dict(zip(series, colours, strict=True)))
    return Markup(
        f'<svg class="chart wide" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def standalone(chart: Markup) -> str:
    """Return a chart as an SVG file of its own, empty for an empty one."""
    return (
        str(chart)
        .replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
        .replace(">", f"><style>{_STYLE}</style>", 1)
    )


def _axes(ticks: Sequence[float], levels: Sequence[str], place: Place, axis: str) -> Iterator[str]:
    for tick in ticks:
        _, y = place(0, tick)
        yield f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
    for number, level in enumerate(levels):
        x, _ = place(number, ticks[0])
        yield f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{escape(level)}</text>'
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield f'<text x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(axis)}</text>'


def _line(points: Sequence[Point], place: Place, colour: str, kinds: Sequence[str]) -> Iterator[str]:
    spots = [place(level, mean) for level, mean, _ in points]
    yield f'<g stroke="{colour}" fill="{colour}">'
    if len(spots) == 1:  # it takes nothing from the axis: a level to compare the others with
        path = f"M{_LEFT} {spots[0][1]}H{_WIDTH - _RIGHT}"
        yield f'<path d="{path}" fill="none" stroke-width="2" stroke-dasharray="3 5"/>'
    else:
        for _, group in groupby(zip(points, spots, strict=True), key=lambda each: kinds[each[0][0]]):
            joined = [spot for _, spot in group]
            path, look = "M" + "L".join(f"{x} {y}" for x, y in joined), 'stroke-width="2"'
            if len(joined) == 1:
                path, look = f"M{joined[0][0]} {joined[0][1]}V{_HEIGHT - _BOTTOM}", 'stroke-width="1.2" opacity=".4"'
            yield f'<path d="{path}" fill="none" {look}/>'
    for (level, mean, spread), (x, y) in zip(points, spots, strict=True):
        if spread:
            (_, top), (_, bottom) = place(level, mean + spread), place(level, mean - spread)
            yield f'<path d="M{x} {top}V{bottom}" stroke-width="1.2" opacity=".6"/>'
        yield f'<circle cx="{x}" cy="{y}" r="3.2" stroke="none"/>'
    yield "</g>"


def _values(points: Sequence[Point], place: Place) -> Iterator[str]:
    for level, mean, spread in points:
        x, y = place(level, mean + spread)
        yield f'<text x="{x}" y="{y - 8:.1f}" text-anchor="middle">{mean:.3f}</text>'


def _names(last: Mapping[str, tuple[float, float]], colours: Mapping[str, str]) -> Iterator[str]:
    """Yield each line's name beside its last point, or as near as the others leave room."""
    x = _WIDTH - _RIGHT + 14
    order = sorted(last, key=lambda name: last[name][1])
    y = spread_out([last[name][1] for name in order], _LINE, low=_TOP, high=_HEIGHT - _BOTTOM)
    for name, at in zip(order, y, strict=True):
        from_x, from_y = last[name]
        yield f'<path d="M{from_x + 5} {from_y}L{x - 3} {at:.1f}" stroke="{colours[name]}" opacity=".35" fill="none"/>'
        yield f'<text x="{x}" y="{at + 4:.1f}" style="fill: {colours[name]}">{escape(name)}</text>'


def spread_out(places: Sequence[float], distance: float, *, low: float, high: float) -> list[float]:
    """Return ascending places moved apart to a distance of each other, from low on; above high where there is no room.

    >>> spread_out([10, 11, 50], 15, low=0, high=100)
    [10, 25, 50]
    >>> spread_out([98, 99], 15, low=0, high=100)
    [85, 100]
    """
    found: list[float] = []
    for place in places:
        found.append(max(place, found[-1] + distance if found else low))
    for number in range(len(found) - 1, -1, -1):
        highest = high if number == len(found) - 1 else found[number + 1] - distance
        found[number] = max(min(found[number], highest), low + number * distance)
    return found
