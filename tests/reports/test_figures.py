"""Figures: palettes that stay apart, well-formed SVG, ticks, curves over stages."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.reports.curves import charts
from smidgen.reports.figures import heat_map, histogram, line_chart, nice_ticks, palette


@pytest.mark.parametrize("n", [0, 1, 10, 20, 120])
def test_palette_gives_different_colours_that_grow_at_the_end(n: int) -> None:
    colours = palette(n)
    assert len(set(colours)) == n
    assert palette(n + 3)[:n] == colours


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_few_and_inside(low: float, width: float) -> None:
    high = low + width
    ticks = nice_ticks(low, high)
    if high > low:
        assert 2 <= len(ticks) <= 5
        assert low - 1e-6 * width <= ticks[0] < ticks[-1] <= high + 1e-6 * width


def test_line_chart_is_well_formed_and_escapes_names() -> None:
    series = {"<a>": [[(0.0, 1.0), (5.0, 2.0)], [(6.0, 2.0), (9.0, 1e9)]]}
    svg = ElementTree.fromstring(line_chart(series, [("<s>", 0, 5), ('"x"', 5, 9)], label="'<>"))
    assert svg.get("aria-label") == "'<>"
    assert [title.text for title in svg.iter("title")] == ["<s>", '"x"']
    assert sum(path.get("class") == "line line0" for path in svg.iter("path")) == 2


def test_histogram_counts_every_image_once() -> None:
    svg = ElementTree.fromstring(histogram(np.array([0.01, 0.99, 1.0, 0.5]), np.array([1, 0, 0, 0], bool), label="x"))
    notes = [title.text or "" for title in svg.iter("title")]
    assert sum(int(note.split(": ")[1].split(",")[0]) for note in notes) == 4
    assert notes[0] == "0.00 to 0.04: 1, 1 mistaken"


def test_heat_map_writes_counts_and_marks_agreement() -> None:
    counts = np.array([[3, 0], [1, 2000]])
    svg = ElementTree.fromstring(heat_map(counts, np.eye(2, dtype=bool), rows=["a", "b"], columns=["0", "1"], label=""))
    groups = [(g.get("class"), g.find("text").text) for g in svg.iter("g")]  # type: ignore[union-attr]
    assert groups == [("right", "3"), ("wrong", "1"), ("right", "2.0k")]


def test_curves_put_the_total_first_and_scores_of_splits_together() -> None:
    lines = [{"stage": "a", "step": s, "seconds": 1.0, "learning_rate": 0.1, "x": 1.0, "total": 2.0 - s / 9,
              "train_nmi": 0.5, "test_nmi": 0.25, "note": "text"} for s in range(9)]  # fmt: skip
    found = charts(lines)
    assert [chart["name"] for chart in found] == ["total", "nmi", "x", "learning_rate"]
    assert found[1]["last"] == [("train_nmi", "0.5"), ("test_nmi", "0.25")]


def test_steps_that_start_again_with_a_stage_go_on_to_the_right() -> None:
    lines = [{"stage": stage, "step": step, "total": 1.0 + step} for stage in "ab" for step in (0, 10, 20)]
    svg = ElementTree.fromstring(charts(lines)[0]["svg"])
    bands = [(float(band.get("x") or 0), float(band.get("width") or 0)) for band in svg.iter("rect")]
    assert bands[0][0] + bands[0][1] == pytest.approx(bands[1][0], abs=0.2)
    assert bands[0][1] == pytest.approx(bands[1][1], abs=0.2)


def test_infinite_and_missing_losses_leave_gaps_not_errors() -> None:
    lines = [{"step": s, "total": float("nan") if s == 2 else 1.0, "only": None} for s in range(5)]
    assert [chart["name"] for chart in charts(lines)] == ["total"]
    assert charts([]) == charts([{"stage": "a"}]) == []
