"""The section on images that deserve a look: copies side by side, others in a row, from the folder alone."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from report_samples import digits_run, png, write_run

from smidgen.errors import RunError
from smidgen.inspection.issues import KINDS
from smidgen.reports.gallery import gallery_rows
from smidgen.reports.issues import WORDS, issue_rows, read_issues
from smidgen.reports.page import write_page
from smidgen.reports.tables import read_assignments
from smidgen.run_folder import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    fake = digits_run(100)
    fake.images[70:] = fake.images[:30]  # a test image may have the name of a training image
    return RunFolder.open(write_run(tmp_path / "run", fake, thumbnails={0: png(fake.pixels[0])}))


def write_issues(run: RunFolder, issues: list[tuple[int, str, Any]]) -> None:
    found = read_assignments(run.path)
    rows, kinds, groups = zip(*issues, strict=True)
    columns = {"image": [found.images[row] for row in rows], "split": [found.splits[row] for row in rows]}
    run.write_table("issues", columns | {"kind": kinds, "score": [1.0] * len(rows), "group": groups})


def test_every_kind_of_issue_has_words() -> None:
    assert list(WORDS) == list(KINDS)


def test_copies_are_shown_in_groups_and_outliers_in_a_row(run: RunFolder) -> None:
    write_issues(run, [(5, "outlier", ""), (3, "outlier", ""), (1, "duplicate", 0), (71, "duplicate", 0),
                       (8, "duplicate", 1), (9, "duplicate", 1)])  # fmt: skip
    copies, outliers = read_issues(run.path, read_assignments(run.path))
    assert (copies.name, copies.total, [group.tolist() for group in copies.groups]) == ("Copies", 4, [[1, 71], [8, 9]])
    assert (outliers.name, [group.tolist() for group in outliers.groups]) == ("Outliers", [[5, 3]])
    section = write_page(run.path, layout="pca").read_text().split('id="issues"')[1].split("</section>")[0]
    assert [int(row) for row in re.findall(r'data-row="(\d+)"', section)] == [1, 71, 8, 9, 5, 3]
    rows = gallery_rows(run.path, per_cluster=0, map_points=0, uncertain=0).tolist()
    assert {1, 3, 5, 8, 9, 71} <= set(rows)


def test_many_are_cut_and_counted(run: RunFolder) -> None:
    write_issues(run, [(row, "blurred", "") for row in range(40)] + [(row, "duplicate", row // 2) for row in range(60)])
    kinds = read_issues(run.path, read_assignments(run.path))
    assert [kind.total for kind in kinds] == [60, 40]
    assert len(issue_rows(kinds)) == 12 * 2 + 16


def test_no_issues_no_section(run: RunFolder) -> None:
    assert 'id="issues"' not in write_page(run.path, layout="pca").read_text()


def test_a_damaged_table_is_named(run: RunFolder) -> None:
    run.write_table("issues", {"kind": ["duplicate"], "group": [0]})
    with pytest.raises(RunError, match=r"issues\.csv' is not a table of issues"):
        write_page(run.path)
