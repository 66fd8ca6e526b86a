"""A fit with evidence leaves tables of how each piece is explained, its report shows them, its model counts bags."""

import pyarrow.parquet as pq
import pytest
from cli_samples import fill

from smidgen.cli.main import main
from smidgen.csv_tables import read_csv
from smidgen.model import Model
from smidgen.reports import page

FUSION = ("--clusters", "3", "--threads", "1", "--quiet", "--set", "heads=1", "--set", "batch_size=32",
          "--set", "steps=60", "--set", "refine_steps=20")  # fmt: skip


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A run of fusion whose bags' counts are right but for four, and which has labels and pairs."""
    home = tmp_path_factory.mktemp("told")
    photos = fill(home / "photos")
    options = ("--bags", 40, "--ucc", "1-2", "--bag-size", 8, "--counts", "--labels-per-class", 3, "--pairs", 20)
    assert main(["simulate", str(photos), "--out", str(home / "known"), *map(str, options), "--quiet"]) == 0
    counts = (home / "known" / "counts.csv").read_text().splitlines()
    counts[5:9] = [line[:-1] + str(3 - int(line[-1])) for line in counts[5:9]]
    (home / "known" / "counts.csv").write_text("\n".join(counts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "place_points", lambda points, layout: points[:, :2] * 0)  # t-SNE takes seconds
        assert main(["fit", str(photos), "--evidence", str(home / "known"), "--out", str(home / "run"), *FUSION]) == 0
    return home / "run", {line.partition(",")[0] for line in counts[5:9]}


def test_the_wrong_counts_come_first_and_are_called_wrong(told):
    run, wrong = told
    table = read_csv(run / "tables" / "evidence_counts.csv")
    assert len(table["bag"]) == 40
    assert set(table["bag"][:4]) == wrong
    assert float(table["wrong_probability"][3]) > 0.5 > float(table["wrong_probability"][4])
    assert len(read_csv(run / "tables" / "evidence_labels.csv")["image"]) == 9
    assert len(read_csv(run / "tables" / "evidence_pairs.csv")["same"]) == 20


def test_the_page_shows_it_with_its_images_and_is_rebuilt_from_the_folder_alone(told, monkeypatch):
    run, wrong = told
    shown = (run / "report.html").read_text()
    assert "These 4 bags most likely hold wrong counts" in shown
    images = read_csv(run / "tables" / "evidence_images.csv")
    assert set(images["bag"]) == wrong
    rows = {read_csv(run / "assignments.csv")["image"].index(name) for name in images["image"]}
    assert rows <= set(pq.read_table(run / "thumbnails.parquet")["row"].to_pylist())
    monkeypatch.setattr(page, "place_points", lambda points, layout: points[:, :2] * 0)
    assert main(["report", str(run), "--quiet"]) == 0
    section = shown[shown.index('<section id="evidence">') :]
    assert section[: section.index("</section>")] in (run / "report.html").read_text()


def test_the_model_keeps_how_bags_are_counted(told):
    saved = Model.load(told[0]).bag_calibration
    assert set(saved) == {"sharpness", "leak", "gathering", "wrong"}


def test_a_run_without_evidence_has_neither_tables_nor_section(run):
    assert not list((run / "tables").glob("evidence_*"))
    assert 'id="evidence"' not in (run / "report.html").read_text()
    assert Model.load(run).bag_calibration == {}
