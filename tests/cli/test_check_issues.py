"""`smidgen check` and `smidgen fit` name the images that deserve a look."""

import numpy as np
import pytest
from cli_samples import QUICK
from PIL import Image
from scipy.ndimage import gaussian_filter

from smidgen.cli.main import main
from smidgen.csv_tables import read_csv


@pytest.fixture
def collection(tmp_path):
    """Forty pictures in train, ten in test; one of test is a recompressed picture of train, one is wide."""
    rng = np.random.default_rng(0)
    pictures = gaussian_filter(rng.normal(size=(50, 32, 32, 3)), (0, 1, 1, 0))
    pictures = (255 * (pictures - pictures.min()) / np.ptp(pictures)).astype(np.uint8)
    for split in ("train", "test"):
        (tmp_path / "photos" / split).mkdir(parents=True)
    for k, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "photos" / ("train" if k < 40 else "test") / f"{k}.png")
    Image.fromarray(pictures[3]).save(tmp_path / "photos/test/=again.jpg", quality=70)
    Image.fromarray(np.tile(pictures[5][::-1], (1, 3, 1))).save(tmp_path / "photos/train/wide.png")
    return tmp_path / "photos"


def test_check_counts_shows_and_lists_them(smidgen, collection, tmp_path):
    said = smidgen("check", collection, "--out", tmp_path / "issues.csv", "--quiet")
    assert "2 near duplicate: another image slightly changed" in said.out
    assert "'test/=again.jpg' (0.9" in said.out
    assert "1 test images are near copies of training images" in said.out
    assert "1 odd size" in said.out
    table = read_csv(tmp_path / "issues.csv")
    assert list(table) == ["image", "split", "kind", "score", "group"]
    near = [row for row, kind in enumerate(table["kind"]) if kind == "near_duplicate"]
    assert {(table["image"][r], table["split"][r]) for r in near} == {
        ("test/=again.jpg", "test"),
        ("train/3.png", "train"),
    }
    assert len({table["group"][r] for r in near}) == 1
    assert "--overwrite" in smidgen("check", collection, "--out", tmp_path / "issues.csv").refusal()


def test_check_json_has_the_worst_of_each_kind(smidgen, collection):
    issues = smidgen("check", collection, "--json").json["issues"]
    assert issues["near_duplicate"]["images"] == 2
    assert issues["odd_size"]["worst"] == [{"image": "train/wide.png", "score": 3.0, "group": None}]


def test_check_takes_an_encoders_embeddings(smidgen, collection, monkeypatch):
    embeddings = np.random.default_rng(0).normal(size=(52, 8)).astype(np.float32)
    embeddings[20] = 50
    monkeypatch.setattr("smidgen.inspection.collection._embedded", lambda *_: embeddings)
    found = smidgen("check", collection, "--encoder", "lite0", "--json").json["issues"]
    assert found["outlier"]["worst"][0]["score"] > 10


def test_fit_leaves_them_in_the_run_and_its_report(smidgen, collection, tmp_path):
    assert main(["fit", str(collection), "--out", str(tmp_path / "run"), *QUICK]) == 0
    table = read_csv(tmp_path / "run/tables/issues.csv")
    assert "test/=again.jpg" in table["image"]
    odd = [row for row, kind in enumerate(table["kind"]) if kind == "odd_size"]
    assert [(table["image"][row], table["score"][row]) for row in odd] == [("train/wide.png", "3")]
    assert "near_duplicate" in (tmp_path / "run/report.html").read_text()
