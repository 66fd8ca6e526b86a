"""The section on relabelling: its curves, its purest and its random labels, from the folder alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_samples import digits_run, png, write_run, write_story

from smidgen.errors import RunError
from smidgen.reports.gallery import gallery_rows
from smidgen.reports.page import write_page
from smidgen.reports.relabelling import read_relabelling
from smidgen.reports.tables import read_assignments
from smidgen.run_folder import RunFolder

CHANGES: dict[str, Any] = {
    "step": [0, 10, 20], "nmi_previous": ["nan", 0.5, 0.75], "reassigned": ["nan", 0.4, 0.125],
    "clustering_loss": [3.0, 2.0, 1.0], "nmi_classes": [0.25, 0.5, 0.625], "class_entropy_low": [0.0, 0.0, 0.0],
    "class_entropy": [2.0, 1.0, 0.5], "class_entropy_high": [3.0, 2.0, 1.0], "training_loss": [2.0, 1.5, 1.25],
    "validation_loss": [2.5, 2.25, 2.0],
}  # fmt: skip
N = 120


def run_with_labels(folder: Path, *, classes: bool = True) -> RunFolder:
    """Label 0 holds one class only, 1 two, 2 all; label 3 has two images of one class; 4 has test images alone."""
    fake = digits_run(N)
    assert fake.classes
    numbers, test = np.array([int(c) for c in fake.classes]), np.array([s == "test" for s in fake.splits])
    labels = np.select([numbers == 0, numbers < 3], [0, 1], 2)
    labels[np.flatnonzero((numbers == 9) & ~test)[:2]] = 3
    labels[np.flatnonzero((numbers == 5) & test)] = 4
    entropies = np.choose(labels, [3.0, 0.5, 1.0, 0.0, 0.0])
    fake.classes = fake.classes if classes else None
    write_run(folder, fake, thumbnails={0: png(fake.pixels[0])})
    run = RunFolder.open(folder)
    run.write_table("relabellings", CHANGES if classes else {k: v for k, v in CHANGES.items() if "class" not in k})
    columns = {"image": fake.images, "split": fake.splits, "label": labels, "entropy": entropies}
    run.write_table("pseudo_labels", columns)
    return run


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    return run_with_labels(tmp_path / "run")


def test_a_run_of_another_method_has_no_such_section(tmp_path: Path) -> None:
    folder = write_run(tmp_path, digits_run(60))
    assert read_relabelling(folder, read_assignments(folder)) is None
    assert 'id="relabelling"' not in write_page(folder, layout="pca").read_text()


def test_agreement_with_the_labels_before_and_with_classes_are_two_named_curves(run: RunFolder) -> None:
    found = read_relabelling(run.path, read_assignments(run.path))
    assert found is not None
    charts = {chart["name"]: chart for chart in found.charts}
    agreement = charts["Agreement of labels (NMI)"]
    assert agreement["last"] == [("with the labels before", "0.75"), ("with the known classes", "0.625")]
    assert agreement["svg"].count('class="line ') == 2
    assert charts["Images that changed their label"]["last"] == [("share of images", "12.5 %")]
    assert charts["Loss"]["last"] == [("training images", "1.25"), ("held-out images", "2")]
    assert "from 2.5 to 2" in charts["Loss"]["svg"]  # in words, too
    assert charts["Classes within a label"]["svg"].count('class="spread') == 1
    assert "Sinkhorn iterations" not in charts
    assert all(chart["note"].endswith(".") for chart in found.charts)


def test_the_purest_labels_come_first_and_too_small_ones_not_at_all(run: RunFolder) -> None:
    assignments = read_assignments(run.path)
    found = read_relabelling(run.path, assignments)
    assert found is not None
    assert [label.number for label in found.lowest] == [0, 1]
    assert [label.number for label in found.random] == [2]
    assert found.lowest[0].entropy == 0
    for label in (*found.lowest, *found.random):
        assert set(label.rows) == {"train", "test"}
        for split, rows in label.rows.items():
            assert set(assignments.splits[rows]) == {split}
            assert 0 < len(rows) <= 8
    sizes = np.bincount(assignments.classes[assignments.splits == "train"])
    assert found.lowest[0].size == sizes[0]


def test_entropies_are_of_known_classes(run: RunFolder) -> None:
    assignments = read_assignments(run.path)
    found = read_relabelling(run.path, assignments)
    assert found is not None
    train = assignments.splits == "train"
    shares = np.bincount(assignments.classes[train & (assignments.classes > 0) & (assignments.classes < 3)])[1:]
    shares = shares / shares.sum()
    assert found.lowest[1].entropy == pytest.approx(-(shares * np.log2(shares)).sum())


def test_without_classes_the_surest_labels_come_first(tmp_path: Path) -> None:
    run = run_with_labels(tmp_path / "run", classes=False)
    found = read_relabelling(run.path, read_assignments(run.path))
    assert found is not None
    assert not found.of_classes
    assert not any("--test" in chart["note"] for chart in found.charts)
    assert [label.number for label in found.lowest] == [1, 2]
    page = write_page(run.path, layout="pca").read_text()
    assert "The surest labels" in page
    assert "known classes" not in page


def test_without_held_out_images_it_is_said_how_to_have_their_curve(run: RunFolder) -> None:
    run.write_table("relabellings", {name: cells for name, cells in CHANGES.items() if name != "validation_loss"})
    found = read_relabelling(run.path, read_assignments(run.path))
    assert found is not None
    [note] = [chart["note"] for chart in found.charts if chart["name"] == "Loss"]
    assert "With test images (--test)" in note
    assert "memorises" not in note


def test_the_page_shows_what_thumbnails_are_written_for(run: RunFolder) -> None:
    write_story(run.path)
    lines = run.path / "metrics.jsonl"
    lines.write_text(lines.read_text().replace('"consistency"', '"reassigned"'))
    page = write_page(run.path, layout="pca").read_text()
    section = page.split('id="relabelling"')[1].split("</section>")[0]
    shown = {int(row) for row in re.findall(r'data-row="(\d+)"', section)}
    assert shown
    assert shown <= set(gallery_rows(run.path).tolist())
    assert "At the end 5 labels are in use." in section
    assert "reassigned" not in page.split('id="training"')[1].split("</section>")[0]  # it is shown above


@pytest.mark.parametrize(
    ("name", "column", "value"),
    [("pseudo_labels", "label", "x"), ("pseudo_labels", "label", -1), ("relabellings", "nmi_classes", "high")],
)
def test_a_damaged_table_is_named(run: RunFolder, name: str, column: str, value: Any) -> None:
    n = N if name == "pseudo_labels" else 3
    table = {"step": [0] * n, "label": [0] * n, "entropy": [0.0] * n}
    run.write_table(name, table | {column: [value] * n})
    with pytest.raises(RunError, match=rf"{name}\.csv' is not a table of {name}"):
        write_page(run.path)


def test_labels_of_other_images_are_refused(run: RunFolder) -> None:
    run.write_table("pseudo_labels", {"label": [0], "entropy": [0.0]})
    with pytest.raises(RunError, match=f"labels of {N} images were expected"):
        write_page(run.path)
