"""The section on bags and features: what stands in it, from the folder alone."""

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
from smidgen.reports.bags import read_bags
from smidgen.reports.figures import value_map
from smidgen.reports.page import write_page
from smidgen.run_folder import RunFolder

HOSTILE = "<b>cat</b>"
PAIRS = {"class": [HOSTILE, HOSTILE, "dog", "dog"], "other": [HOSTILE, "dog"] * 2, "bits": [0, 0.25, 0.25, 0]}
DENSITIES = {
    "class": [HOSTILE] * 4 + ["dog"] * 4, "feature": [0, 0, 1, 1] * 2, "point": [0, 1] * 4,
    "density": [0.9, 0.1, 0.5, 0.5, 0.2, 0.8, "nan", "nan"],
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    write_run(tmp_path / "run", digits_run(60))
    return RunFolder.open(tmp_path / "run")


def test_a_run_of_another_method_has_no_such_section(run: RunFolder) -> None:
    assert read_bags(run.path, {}) == {}
    assert 'id="bags"' not in write_page(run.path).read_text()


def test_divergences_densities_and_scores_are_shown(run: RunFolder) -> None:
    run.write_table("js_divergences", PAIRS)
    run.write_table("class_densities", DENSITIES)
    found = read_bags(run.path, {"test_ucc_accuracy": 0.5, "train_ucc_accuracy": 1.0, "train_min_js": 0.25})
    scores = [("Unique counts right", ["50.0 %", "100.0 %"]), ("Least divergence of two classes", ["", "0.250 bits"])]
    assert found["scores"] == scores
    assert found["divergences"].count("<rect") == 2  # none on the diagonal
    assert ">.25<" in found["divergences"]
    assert [name for name, _ in found["features"]] == ["feature 1", "feature 2"]
    assert found["features"][1][1].count("<rect") == 2  # nothing is known of the dogs
    page = write_page(run.path).read_text()
    assert 'id="bags"' in page
    assert HOSTILE not in page


@pytest.mark.parametrize(("other", "idle"), [(0.0009, True), (0.9, False)])
def test_features_that_the_decoder_does_not_need_are_said_to_carry_nothing(
    run: RunFolder, other: float, idle: bool
) -> None:
    run.write_table("js_divergences", PAIRS)
    metrics = {"test_reconstruction_error": 0.0008, "test_reconstruction_error_shuffled": other}
    (own, [own_text]), (name, [text]) = read_bags(run.path, metrics)["scores"]
    assert (own, own_text) == ("Reconstruction error", "0.0008")
    assert (name, text[:6]) == ("Same with other images’ features", f"{other:.4f}")
    assert ("the features carry nothing about the image" in text) == idle


def test_reconstructions_are_one_picture(run: RunFolder) -> None:
    images = np.linspace(0, 1, 2 * 3 * 4).reshape(2, 1, 3, 4)
    axes = np.indices(images.shape).reshape(4, -1)
    table = dict(zip(("image", "channel", "row", "column"), axes, strict=True))
    run.write_table("reconstructions", table | {"original": images.ravel(), "decoded": images.ravel() + 0.5})
    uri = read_bags(run.path, {})["pictures"]
    assert uri in write_page(run.path).read_text()
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))))
    rows = [np.concatenate(list(part[:, 0]), axis=1) for part in (images, (images + 0.5).clip(0, 1))]
    np.testing.assert_allclose(sheet / 255, np.concatenate(rows), atol=1 / 255)


def test_a_damaged_table_is_named(run: RunFolder) -> None:
    run.write_table("js_divergences", {**PAIRS, "bits": ["x"] * 4})
    with pytest.raises(RunError, match=r"js_divergences\.csv' is not a table of js_divergences"):
        read_bags(run.path, {})


def test_the_larger_a_value_the_stronger_its_colour() -> None:
    words = ("class", "class")
    figure = value_map(np.array([[0.0, 0.5, 1.0, np.nan]]), rows=["a"], columns=list("wxyz"), label="", words=words,
                       largest=1.0)  # fmt: skip
    strengths = [float(value) for value in re.findall(r'fill-opacity="([\d.]+)"', figure)]
    assert strengths == sorted(strengths)
    assert (strengths[0], strengths[2], len(strengths)) == (0.08, 1.0, 3)
    assert "class a, class y: 1" in figure
