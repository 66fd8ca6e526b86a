"""The report's section on probes, from `tables/probes.csv`: a table and bars, stage after stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from smidgen.csv_tables import read_csv
from smidgen.errors import RunError
from smidgen.reports.figures import nice_ticks, svg
from smidgen.reports.tables import percent, thousands

_PROBES = {
    "linear": "Linear probe",
    "knn_10": "Weighted k-NN, k = 10",
    "knn_50": "Weighted k-NN, k = 50",
    "logistic": "Logistic regression",
}
_NETS = {"trained": "trained", "random": "random weights"}
_INPUTS = {"pixels": "raw pixels", "vectors": "ready embeddings"}
_DRAWN = ("linear", "knn_10")

_WIDTH, _HEIGHT = 380, 200
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 8, 18, 26


@dataclass(frozen=True)
class _Row:
    """A stage of a net, or what the nets are given, with the accuracies of probes by name."""

    net: str
    stage: str
    features: int
    accuracies: Mapping[str, float]


def read_probes(run_folder: Path | str) -> dict[str, Any]:
    """Return what the section shows, empty where nothing was probed; RunError for a damaged table."""
    path = Path(run_folder) / "tables" / "probes.csv"
    if not path.is_file():
        return {}
    columns = read_csv(path)
    try:
        rows = [_row(columns, i) for i in range(len(columns["net"]))]
        images = [thousands(max(map(int, columns[name]))) for name in ("learned_from", "scored_on")]
    except (KeyError, ValueError) as error:
        raise RunError(f"{str(path)!r} is not a table of probes ({error}).") from None
    probes = [name for name in _PROBES if any(name in row.accuracies for row in rows)]
    return {
        "header": ["Net", "stage", "features", *(_PROBES[name] for name in probes)],
        "rows": [_cells(row, probes) for row in rows],
        "charts": [(_PROBES[name], bar_chart(rows, name)) for name in _DRAWN if name in probes],
        "series": _series(rows),
        "images": images,
    }


def _row(columns: Mapping[str, Sequence[str]], i: int) -> _Row:
    found = {name: columns[name][i] for name in _PROBES if columns[name][i]}
    accuracies = {name: float(text) for name, text in found.items()}
    if not all(0 <= value <= 1 for value in accuracies.values()):
        raise ValueError("an accuracy is not from 0 to 1")
    return _Row(columns["net"][i], columns["stage"][i], int(columns["features"][i]), accuracies)


def _cells(row: _Row, probes: Sequence[str]) -> list[str]:
    accuracies = [percent(row.accuracies[name]) if name in row.accuracies else "" for name in probes]
    return [(_NETS | _INPUTS).get(row.net, row.net), row.stage, thousands(row.features), *accuracies]


def _series(rows: Sequence[_Row]) -> list[tuple[str, str]]:
    """Return the CSS class and the name of each series that the bars show."""
    nets = {row.net for row in rows}
    return [(net, words) for net, words in (_NETS | _INPUTS).items() if net in nets]


def bar_chart(rows: Sequence[_Row], probe: str) -> Markup:
    """Return the accuracies of one probe as bars, stage after stage, the trained net beside the random one, as SVG.

    What the nets are given is a dashed line.
    """
    of_nets = [row for row in rows if row.net in _NETS and probe in row.accuracies]
    inputs = [row for row in rows if row.net in _INPUTS and probe in row.accuracies]
    top = max((row.accuracies[probe] for row in (*of_nets, *inputs)), default=1.0)
    ticks = nice_ticks(0.0, max(top, 0.01))
    high = max(ticks[-1], top)

    def height(value: float) -> float:
        return round(_HEIGHT - _BOTTOM - value / high * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = []
    for tick in ticks:
        parts.append(f'<path class="grid" d="M{_LEFT} {height(tick)}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{height(tick) + 3.5}" text-anchor="end">{100 * tick:.3g} %</text>')
    stages = list(dict.fromkeys(row.stage for row in of_nets))
    step = (_WIDTH - _LEFT - _RIGHT) / max(len(stages), 1)
    for i, stage in enumerate(stages):
        bars = [row for row in of_nets if row.stage == stage]
        parts.extend(_bars(bars, probe, left=_LEFT + i * step, step=step, height=height))
    for row in inputs:
        y = height(row.accuracies[probe])
        note = f"{_INPUTS[row.net]}: {percent(row.accuracies[probe])}"
        parts.append(f'<path class="baseline" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"><title>{note}</title></path>')
    parts.sort(key=lambda part: part.startswith("<text"))  # above the line
    return svg(parts, "chart", (_WIDTH, _HEIGHT), f"{_PROBES[probe]}: accuracy by stage")


def _bars(bars: Sequence[_Row], probe: str, *, left: float, step: float, height: Any) -> Iterator[str]:
    """Yield the bars of one stage, from `left` on, and its name."""
    width = min(0.76 * step / len(_NETS), 30)
    middle = left + step / 2
    for number, net in enumerate(_NETS):
        for row in (row for row in bars if row.net == net):
            value = row.accuracies[probe]
            x, y = middle + (number - 1) * width, height(value)
            note = f"{row.stage}, {_NETS[net]}: {percent(value)}"
            yield (
                f'<rect class="{net}" x="{x + 0.5:.1f}" y="{y}" width="{width - 1:.1f}"'
                f' height="{height(0) - y:.1f}"><title>{escape(note)}</title></rect>'
            )
            if width >= 16:
                place = f'x="{x + width / 2:.1f}" y="{y - 4}" text-anchor="middle"'
                yield f'<text class="value" {place}>{100 * value:.0f}</text>'
    room = max(int(step / 6), 1)
    name = bars[0].stage
    shown = name if len(name) <= room else f"{name[: room - 1]}…"
    yield f'<text x="{middle:.1f}" y="{_HEIGHT - 9}" text-anchor="middle">{escape(shown)}</text>'
