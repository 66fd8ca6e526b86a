"""The section on evidence: what stands in it, from the folder alone, and none where nothing was known."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_samples import digits_run, png, write_run

from smidgen.errors import RunError
from smidgen.reports.evidence import evidence_rows, read_evidence
from smidgen.reports.gallery import gallery_rows
from smidgen.reports.page import write_page
from smidgen.reports.tables import read_assignments
from smidgen.run_folder import RunFolder

HOSTILE = "<b>bag</b>"
COUNTS = {
    "bag": ["odd", HOSTILE, "good"], "size": [3, 50, 2], "ucc": [1, 2, 2], "predicted": [3, 1, 2],
    "predicted_probability": [0.99, 0.6, 0.9], "probability": [0.0, 0.4, 0.9], "agrees": [0, 0, 1],
    "wrong_probability": [0.997, 0.2, 0.01],
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    fake = digits_run(60)
    fake.images[50] = fake.images[0]  # a test image of the same name
    return write_run(tmp_path / "run", fake, thumbnails={7: png(fake.pixels[7])})


def write(folder: Path, kind: str, columns: dict) -> None:
    RunFolder.open(folder).write_table(f"evidence_{kind}", columns)


def kinds(folder: Path) -> list:
    return read_evidence(folder, read_assignments(folder))


def test_a_run_without_evidence_has_no_such_section(folder: Path) -> None:
    assert kinds(folder) == []
    assert 'id="evidence"' not in write_page(folder, map_points=0).read_text()


def test_counts_are_summed_up_and_contradictions_shown_with_their_images(folder: Path) -> None:
    write(folder, "counts", COUNTS)
    write(folder, "images", {"bag": ["odd", "odd", "odd", HOSTILE],
                             "image": ["train/00000", "train/00007", "train/00009", "gone.png"]})  # fmt: skip
    [found] = kinds(folder)
    assert (found.total, found.agrees, found.probability, found.wrong, found.rate) == (
        "3", "1 (33.3 %)", "0.433", "1", "40.2 %",
    )  # fmt: skip
    assert found.verdict == "The first bag most likely holds a wrong count; of the others the model is less sure."
    assert [(p.title, p.given, p.seen, p.more) for p in found.pieces] == [("odd", "1", "3", 0), (HOSTILE, "2", "1", 50)]
    assert sorted(evidence_rows([found])) == [0, 7, 9]
    assert set(gallery_rows(folder, per_cluster=0, map_points=0, uncertain=0)) >= {0, 7, 9}
    page = write_page(folder, map_points=0).read_text()
    assert "Unique counts of bags" in page
    assert "99.7 % wrong" in page
    assert HOSTILE not in page
    assert "&lt;b&gt;bag" in page
    assert "given 1, predicted 3: 1 (100.0 %)" in page


def test_every_kind_is_told_in_words(folder: Path) -> None:
    wrong = {"agrees": [0], "wrong_probability": [0.9], "probability": [0.01]}
    write(folder, "labels", {"image": ["train/00003"], "label": ["cat"], "predicted": ["dog"], **wrong})
    pair = {"image_a": ["train/00004"], "image_b": ["train/00005"], "same": [1], "predicted": [0]}
    write(folder, "pairs", pair | wrong)
    write(folder, "presence", {"bag": ["b"], "size": [4], "label": ["cat"], "present": [0], "predicted": [1], **wrong})
    shares = {"given(cat)": [0.75], "given(dog)": [0.25], "predicted(cat)": [0.0], "predicted(dog)": [1.0]}
    write(folder, "proportions", {"bag": ["b"], "size": [4], "error": [0.75], **shares, **wrong})
    found = {kind.name: kind for kind in kinds(folder)}
    said = {name: (kind.pieces[0].given, kind.pieces[0].seen) for name, kind in found.items()}
    assert said == {
        "Labels": ("cat", "dog"),
        "Pairs": ("same", "different"),
        "Classes present in bags": ("no cat", "holds cat"),
        "Shares in bags": ("cat: 75 %, dog: 25 %", "dog: 100 %"),
    }
    assert found["Shares in bags"].probability == "shares off by 75.0 %"
    assert found["Pairs"].verdict == "This pair is most likely wrong."
    assert evidence_rows([found["Labels"], found["Pairs"]]).tolist() == [3, 4, 5]


def test_ten_of_many_are_shown_and_ranges_are_no_part_of_the_figure(folder: Path) -> None:
    n = 30
    columns = {
        "bag": [f"b{i}" for i in range(n)], "size": [5] * n, "ucc_min": [1] * n, "ucc_max": [2] * (n - 1) + [1],
        "predicted": [3] * n, "probability": [0.0] * n, "agrees": [0] * n, "wrong_probability": [0.9] * n,
    }  # fmt: skip
    write(folder, "counts", columns)
    [found] = kinds(folder)
    assert len(found.pieces) == 10
    assert found.pieces[0].given == "1 to 2"
    assert found.verdict == "These 30 bags most likely hold wrong counts, the 10 clearest are shown."
    assert "given 1, predicted 3: 1 (100.0 %)" in str(found.figure)


def test_nothing_contradicted_is_said(folder: Path) -> None:
    good = {name: values[2:] for name, values in COUNTS.items()}
    write(folder, "counts", good)
    [found] = kinds(folder)
    assert (found.verdict, found.pieces, found.wrong) == ("None contradicts the model.", [], "0")


@pytest.mark.parametrize("change", [{"agrees": ["yes", "no", "no"]}, {"wrong_probability": None}])
def test_a_damaged_table_is_one_sentence(folder: Path, change: dict) -> None:
    columns = {name: values for name, values in (COUNTS | change).items() if values is not None}
    write(folder, "counts", columns)
    with pytest.raises(RunError, match=r"evidence_counts\.csv' is not a table of evidence"):
        kinds(folder)
