"""The report's figures on confidence: against accuracy, and accuracy against coverage."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from smidgen.evaluation.calibration import Reliability, brier, coverage_curve, reliability
from smidgen.reports.figures import nice_ticks
from smidgen.reports.tables import Assignments, percent

_SIDE, _LEFT, _BOTTOM, _TOP = 420, 50, 42, 12
_POINTS = 200
"""Most points of the coverage curve that are drawn."""

Place = Callable[[float, float], tuple[float, float]]


def calibration(assignments: Assignments) -> dict[str, Any] | None:
    """Return the figures and numbers of the judged split; None where no class or no confidence is known."""
    rows = assignments.in_split(assignments.judged_split) & ~np.isnan(assignments.confidence)
    if not rows.any():
        return None
    confidence, right = assignments.confidence[rows], ~assignments.mistaken()[rows]
    found = reliability(confidence, right)
    coverage, accuracy = coverage_curve(confidence, right)
    half = int(np.searchsorted(coverage, 0.5))
    return {
        "split": assignments.judged_split,
        "error": f"{found.error:.3f}",
        "brier": f"{brier(confidence, right):.3f}",
        "mean": percent(confidence.mean()),
        "accuracy": percent(right.mean()),
        "half": percent(accuracy[half]),
        "reliability": _reliability_chart(found),
        "coverage": _coverage_chart(coverage, accuracy),
    }


def _reliability_chart(found: Reliability) -> Markup:
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    place = _placing(0.0, 1.0)
    (x0, y0), (x1, y1) = place(0, 0), place(1, 1)
    parts = [*_frame(ticks, ticks, place, "confidence", "share that is right")]
    parts.append(f'<path class="axis" stroke-dasharray="3 4" d="M{x0} {y0}L{x1} {y1}"/>')
    largest = found.images.max()
    for confidence, accuracy, images in zip(found.confidence, found.accuracy, found.images, strict=True):
        (x, y), radius = place(confidence, accuracy), 2.5 + 7 * float(np.sqrt(images / largest))
        note = f"confidence {confidence:.2f}: {percent(accuracy)} of {images:,} images right"
        parts.append(f'<circle class="ball" cx="{x}" cy="{y}" r="{radius:.1f}"><title>{note}</title></circle>')
    return _svg(parts, "Share of images that are right, by confidence; on the dashed line both are equal")


def _coverage_chart(coverage: np.ndarray, accuracy: np.ndarray) -> Markup:
    ticks = nice_ticks(float(accuracy.min()), 1.0) if accuracy.min() < 1 else [0.0, 0.5, 1.0]
    place = _placing(min(ticks[0], float(accuracy.min())), 1.0)
    rows = np.unique(np.linspace(0, len(coverage) - 1, _POINTS).round().astype(int))
    path = "M" + "L".join("{} {}".format(*place(coverage[row], accuracy[row])) for row in rows)
    parts = [*_frame([0.0, 0.25, 0.5, 0.75, 1.0], ticks, place, "share of images kept", "share that is right")]
    parts.append(f'<path class="line line0" d="{path}"/>')
    return _svg(parts, "Share of images that are right among those of highest confidence")


def _placing(low: float, high: float) -> Place:
    span, tall = _SIDE - _LEFT - 10, _SIDE - _TOP - _BOTTOM

    def place(x: float, y: float) -> tuple[float, float]:
        return round(_LEFT + x * span, 1), round(_SIDE - _BOTTOM - (y - low) / (high - low) * tall, 1)

    return place


def _frame(across: Sequence[float], up: Sequence[float], place: Place, x_name: str, y_name: str) -> Iterator[str]:
    left, bottom = place(0, up[0])
    for tick in up:
        _, y = place(0, tick)
        yield f'<path class="grid" d="M{left} {y}H{_SIDE - 10}"/>'
        yield f'<text x="{left - 6}" y="{y + 4}" text-anchor="end">{tick:.4g}</text>'
    for tick in across:
        x, _ = place(tick, up[0])
        yield f'<text x="{x}" y="{_SIDE - _BOTTOM + 16}" text-anchor="middle">{tick:.4g}</text>'
    yield f'<text x="{(left + _SIDE) / 2}" y="{_SIDE - 4}" text-anchor="middle">{escape(x_name)}</text>'
    middle = (bottom + _TOP) / 2
    yield f'<text x="10" y="{middle}" text-anchor="middle" transform="rotate(-90 10 {middle})">{escape(y_name)}</text>'


def _svg(parts: Sequence[str], label: str) -> Markup:
    opening = f'<svg class="chart" viewBox="0 0 {_SIDE} {_SIDE}" role="img" aria-label="{escape(label)}">'
    return Markup(f"{opening}{''.join(parts)}</svg>")
