"""Training curves: one small figure for each loss, score and rate in `metrics.jsonl`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from smidgen.reports import figures
from smidgen.reports.names import visible
from smidgen.reports.tables import is_number, plain

_NOT_CURVES = {"stage", "step", "seconds", "epoch", "alarms"}
_TITLES = {"total": "Loss", "nmi": "NMI", "ari": "ARI", "ami": "AMI"}
_NOTES = {
    "total": "The loss that training lowers, averaged over some 20 steps; falling is what it should do.",
    "learning_rate": "The size of the optimiser’s steps.",
}
_SCORE_WORDS = ("accuracy", "nmi", "ari", "ami", "purity")


def charts(
    history: Sequence[Mapping[str, Any]], *, most: int = 24, without: Collection[str] = ()
) -> list[dict[str, Any]]:
    """Return the training curves: the total loss first, then scores, other losses and rates, one figure each.

    history: the lines of `metrics.jsonl`. A score measured on several splits is one figure with several lines.
    without: values that have no figure here.
    """
    left_out = {*without} - _NOT_CURVES
    lines = [{k: v for k, v in line.items() if k not in left_out} for line in history if is_number(line.get("step"))]
    if not lines:
        return []
    steps, stages = timeline(lines)
    found = []
    for name, keys in _figures_of(lines).items():
        series = {key: strokes_of(lines, steps, key) for key in keys}
        if any(len(stroke) > 1 for strokes in series.values() for stroke in strokes):
            last = [(key, plain(float(strokes[-1][-1][1]))) for key, strokes in series.items()]
            label = f"{visible(name)} over training steps: {visible(course(series))}"
            chart = figures.line_chart(series, stages, label=label)
            title = _TITLES.get(name, name[:1].upper() + name[1:].replace("_", " "))
            found.append({"name": name, "title": title, "last": last, "svg": chart, "note": _note(name, series)})
    return found[:most]


def course(series: Mapping[str, Sequence[Sequence[figures.Point]]]) -> str:
    """Return in words where each curve begins and ends, for those who cannot see it.

    >>> course({"loss": [[(0, 2.5), (9, 1.0)], [(10, 0.5)]]})
    'loss from 2.5 to 0.5'
    """
    ends = [f"{name} from {plain(float(s[0][0][1]))} to {plain(float(s[-1][-1][1]))}" for name, s in series.items()]
    return "; ".join(ends)


def _note(name: str, keys: Collection[str]) -> str:
    """Return a sentence on what a figure shows."""
    if name in _SCORE_WORDS:
        images = " of up to 2,000 training images" if any(key.startswith("sample_") for key in keys) else ""
        return f"How well the clusters{images} agree with the known classes, which training does not see."
    return _NOTES.get(name, "A part of the loss, or another figure that the method logs as it trains.")


def timeline(lines: Sequence[Mapping[str, Any]]) -> tuple[list[float], list[tuple[str, float, float]]]:
    """Return each line's step counted from the very start, and the stages with their first and last steps."""
    steps: list[float] = []
    stages: list[tuple[str, float, float]] = []
    offset = 0.0
    for line in lines:
        stage = str(line.get("stage", ""))
        begins = not stages or stage != stages[-1][0]
        if begins and steps and line["step"] + offset < steps[-1]:
            offset = steps[-1]  # this run counts the steps of each stage from zero
        steps.append(line["step"] + offset)
        if begins:
            stages.append((visible(stage), steps[-2] if len(steps) > 1 else min(steps[0], 0.0), steps[-1]))
        else:
            stages[-1] = (*stages[-1][:2], max(steps[-1], stages[-1][2]))
    return steps, stages


def _figures_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    keys = list(dict.fromkeys(key for line in lines for key, value in line.items() if is_number(value)))
    found: dict[str, list[str]] = {}
    for key in keys:
        score = next((word for word in _SCORE_WORDS if key == word or key.endswith(f"_{word}")), None)
        if key not in _NOT_CURVES and len(found.get(score or key, ())) < 3:
            found.setdefault(score or key, []).append(key)
    place = {"total": 0, "learning_rate": 3} | dict.fromkeys(_SCORE_WORDS, 1)
    return dict(sorted(found.items(), key=lambda item: place.get(item[0], 2)))


def strokes_of(lines: Sequence[Mapping[str, Any]], steps: Sequence[float], key: str) -> list[list[figures.Point]]:
    """Return the points (step, value) of one figure, a list for each stage: between stages no line is drawn."""
    strokes: list[list[figures.Point]] = []
    stage = None
    for line, step in zip(lines, steps, strict=True):
        if is_number(line.get(key)):
            if not strokes or line.get("stage") != stage:
                strokes.append([])
            stage = line.get("stage")
            strokes[-1].append((step, float(line[key])))
    return strokes
