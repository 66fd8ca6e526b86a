"""The section on the clusters' shares: estimated ones beside true ones, or alone."""

from pathlib import Path
from typing import Any

import pytest
from report_samples import METRICS, digits_run, write_run

from smidgen.reports.page import write_page
from smidgen.reports.shares import MOST_SHOWN, share_section
from smidgen.reports.tables import read_assignments

PRIOR = {str(k): 0.19 if k == 3 else 0.09 for k in range(10)}


def section(folder: Path, prior: Any, *, classes: bool = True) -> dict[str, Any] | None:
    fake = digits_run(100)
    if not classes:
        fake.classes = None
    return share_section(read_assignments(write_run(folder, fake)), {"prior": prior})


def test_estimated_shares_stand_beside_those_of_the_training_images(tmp_path: Path) -> None:
    found = section(tmp_path / "run", PRIOR)
    assert found is not None
    first = found["rows"][0]
    assert (first["cluster"], first["estimated"], first["bar"]) == ("3", "19.0 %", 100)
    fake = digits_run(100)
    assert fake.classes is not None
    train = [name for name, split in zip(fake.classes, fake.splits, strict=True) if split == "train"]
    by_class = {row["stands_for"] or row["cluster"]: row["true"] for row in found["rows"]}
    for name in by_class.keys() & set(train):
        assert by_class[name] == f"{100 * train.count(name) / len(train):.1f} %"
    assert found["has_true"]


def test_without_classes_the_estimates_stand_alone(tmp_path: Path) -> None:
    found = section(tmp_path / "run", PRIOR, classes=False)
    assert found is not None
    assert not found["has_true"]
    assert {row["true"] for row in found["rows"]} == {""}


@pytest.mark.parametrize("prior", [None, {}, 3, "learned", {"0": None}, {"0": [1]}])
def test_a_run_without_shares_has_no_section(tmp_path: Path, prior: Any) -> None:
    assert section(tmp_path / "run", prior) is None


def test_of_many_clusters_the_largest_are_shown(tmp_path: Path) -> None:
    found = section(tmp_path / "run", {str(k): k / 1770 for k in range(60)})
    assert found is not None
    assert len(found["rows"]) == MOST_SHOWN
    assert found["more"] == 60 - MOST_SHOWN
    assert found["rows"][0]["cluster"] == "59"


def test_the_page_has_the_section_where_there_are_shares(tmp_path: Path) -> None:
    for name, more in {"with": {"prior": {"<3>": 0.6, "4": 0.4}}, "without": {}}.items():
        folder = write_run(tmp_path / name, digits_run(40), metrics=METRICS | more)
        write_page(folder)
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert ('id="shares"' in page) == bool(more)
        assert "<3>" not in page
