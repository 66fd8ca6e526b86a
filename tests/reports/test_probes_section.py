"""The sections on probes and first-layer filters, from the folder alone."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from report_samples import digits_run, write_run

from smidgen.errors import RunError
from smidgen.reports.filters import read_filters
from smidgen.reports.page import write_page
from smidgen.reports.probes import read_probes
from smidgen.run_folder import RunFolder

HOSTILE = "<b>conv</b>"
PROBES = {
    "net": ["trained", "trained", "random", "random", "pixels"],
    "stage": [HOSTILE, "embedding", HOSTILE, "embedding", ""],
    "features": [9216, 128, 9216, 128, 3072],
    "linear": [0.5, 0.75, 0.4, 0.3, 0.35],
    "knn_10": [0.4, 0.6, 0.3, 0.2, 0.25],
    "knn_50": ["", "", "", "", ""],
    "logistic": ["", 0.7, "", 0.3, ""],
    "seconds": [1, 2, 3, 4, 5],
    "learned_from": [10000] * 5,
    "scored_on": [2000] * 5,
}


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    write_run(tmp_path / "run", digits_run(60))
    return RunFolder.open(tmp_path / "run")


def test_a_run_that_was_not_probed_has_no_such_section(run: RunFolder) -> None:
    assert (read_probes(run.path), read_filters(run.path)) == ({}, {})
    page = write_page(run.path).read_text()
    assert 'id="probes"' not in page
    assert 'id="filters"' not in page


def test_probes_are_a_table_and_bars(run: RunFolder) -> None:
    run.write_table("probes", PROBES)
    found = read_probes(run.path)
    assert found["header"] == [
        *("Net", "stage", "features", "Linear probe", "Weighted k-NN, k = 10", "Logistic regression"),
    ]
    assert found["rows"][1] == ["trained", "embedding", "128", "75.0 %", "60.0 %", "70.0 %"]
    assert found["rows"][-1] == ["raw pixels", "", "3,072", "35.0 %", "25.0 %", ""]
    assert [name for name, _ in found["charts"]] == ["Linear probe", "Weighted k-NN, k = 10"]
    linear = found["charts"][0][1]
    heights = dict(re.findall(r'<rect class="(\w+)"[^>]* height="([\d.]+)"><title>embedding', linear))
    assert float(heights["trained"]) / float(heights["random"]) == pytest.approx(2.5, abs=0.02)
    assert "raw pixels: 35.0 %" in linear
    page = write_page(run.path).read_text()
    assert 'id="probes"' in page
    assert HOSTILE not in page
    assert "learn from 10,000 images whose classes are known and are scored on 2,000 others" in page


@pytest.mark.parametrize(
    "damage", [{"linear": ["x"] * 5}, {"linear": [2.0] * 5}, {"stage": None}, {"learned_from": ["many"] * 5}]
)
def test_a_damaged_table_of_probes_is_one_sentence(run: RunFolder, damage: dict[str, list[object] | None]) -> None:
    run.write_table("probes", {name: column for name, column in {**PROBES, **damage}.items() if column is not None})
    with pytest.raises(RunError, match="not a table of probes"):
        read_probes(run.path)


def picture_of(run: RunFolder) -> np.ndarray:
    uri = str(read_filters(run.path)["uri"])
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_filters_are_a_sheet_of_pictures_each_in_its_own_range(run: RunFolder) -> None:
    filters = np.zeros((3, 3, 2, 2), dtype=np.float32)
    filters[0, 0] = 5.0  # red
    filters[1, 1] = -1e-3  # the less green, the better
    run.write_array("filters.npy", filters)
    sheet = picture_of(run)
    assert sheet.shape == (2, 8, 4)  # three in a row, a transparent column between two
    assert sheet[0, 0].tolist() == [255, 128, 128, 255]
    assert sheet[0, 3].tolist() == [128, 0, 128, 255]
    assert sheet[0, 6].tolist() == [128, 128, 128, 255]
    assert sheet[0, 2, 3] == 0
    assert 'id="filters"' in write_page(run.path).read_text()


def test_channels_that_are_no_colours_stand_side_by_side(run: RunFolder) -> None:
    filters = np.zeros((200, 2, 3, 3), dtype=np.float32)
    filters[:, 1] = 1.0
    run.write_array("filters.npy", filters)
    found = read_filters(run.path)
    assert "side by side" in found["note"]
    assert found["more"] == 72
    assert picture_of(run)[0, :6, 0].tolist() == [128] * 3 + [255] * 3


@pytest.mark.parametrize("filters", [np.zeros((3, 3)), np.full((1, 1, 3, 3), np.nan), np.zeros((0, 1, 3, 3))])
def test_damaged_filters_are_one_sentence(run: RunFolder, filters: np.ndarray) -> None:
    run.write_array("filters.npy", filters)
    with pytest.raises(RunError, match="damaged"):
        read_filters(run.path)
