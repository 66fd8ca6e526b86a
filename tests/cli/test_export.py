import shutil

import pytest
from cli_samples import QUICK

from smidgen.cli.main import main
from smidgen.csv_tables import read_csv, write_csv


def test_csv_has_the_chosen_columns(smidgen, run, tmp_path):
    said = smidgen("export", run, "--to", "csv", "--out", tmp_path / "e.csv", "--columns", "class,image")
    assert said.out.startswith("60 rows: ")
    table = read_csv(tmp_path / "e.csv")
    assert list(table) == ["class", "image"]
    assert table["image"] == read_csv(run / "assignments.csv")["image"]


def test_csv_replaces_no_file_unasked(smidgen, run, tmp_path):
    (tmp_path / "e.csv").write_text("precious")
    assert "--overwrite" in smidgen("export", run, "--to", "csv", "--out", tmp_path / "e.csv").refusal()
    assert (tmp_path / "e.csv").read_text() == "precious"


def test_unknown_column_or_empty_split_is_refused(smidgen, run, tmp_path):
    out = ["--to", "csv", "--out", tmp_path / "e.csv"]
    assert "Did you mean 'cluster'?" in smidgen("export", run, *out, "--columns", "clusters").refusal()
    assert "no images in split 'test'" in smidgen("export", run, *out, "--split", "test").refusal()


def test_folders_hold_the_original_bytes(smidgen, run, tmp_path):
    out = tmp_path / "sorted"
    assert smidgen("export", run, "--to", "folders", "--out", out).out.startswith("60 images in 3 folders")
    table = read_csv(out / "images.csv")
    for file, image, cluster in zip(table["file"], table["image"], table["cluster"], strict=True):
        assert file.startswith(f"{cluster}/")
        assert (out / file).read_bytes() == (run.parent / "photos" / image).read_bytes()
    assert len(list(out.glob("*/*"))) == 60


def test_links_point_at_the_originals(smidgen, run, tmp_path):
    smidgen("export", run, "--to", "folders", "--out", tmp_path / "linked", "--link")
    links = list((tmp_path / "linked").glob("*/*"))
    assert all(link.is_symlink() and link.is_file() for link in links)
    assert {link.resolve().parent.parent for link in links} == {(run.parent / "photos").resolve()}


def test_folder_that_holds_something_is_refused(smidgen, run, tmp_path):
    (tmp_path / "mine").write_text("precious")
    assert "is not empty" in smidgen("export", run, "--to", "folders", "--out", tmp_path).refusal()
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_hostile_cluster_names_and_same_file_names_stay_inside(smidgen, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    table = read_csv(copy / "assignments.csv")
    hostile = {"0": "../../escape", "1": "A", "2": "a"}
    write_csv(copy / "assignments.csv", table | {"cluster": [hostile[c] for c in table["cluster"]]})
    out = tmp_path / "deep/sorted"
    assert smidgen("export", copy, "--to", "folders", "--out", out, "--data", run.parent / "photos").code == 0
    assert sorted(path.name for path in out.iterdir()) == ["A", "_.._.._escape", "a-2", "images.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "deep"]


def test_ids_that_the_collection_does_not_list_are_left_out(smidgen, run, tmp_path):
    (run.parent / "secret.png").write_text("secret")
    copy = shutil.copytree(run, tmp_path / "copy")
    table = read_csv(copy / "assignments.csv")
    write_csv(copy / "assignments.csv", table | {"image": ["../secret.png", *table["image"][1:]]})
    said = smidgen("export", copy, "--to", "folders", "--out", tmp_path / "sorted", "--data", run.parent / "photos")
    assert said.out.startswith("59 images")
    assert "1 of the run's images are no longer there" in said.err


def test_images_that_are_gone_are_said_to_be(smidgen, run, tmp_path):
    moved = smidgen("export", run, "--to", "folders", "--out", tmp_path / "x", "--data", tmp_path / "nowhere").refusal()
    assert "`--data`" in moved
    assert list(tmp_path.iterdir()) == []


def test_arrays_become_pngs(smidgen, tmp_path):
    import numpy as np
    from PIL import Image

    images = np.repeat(np.array([10, 120, 230], dtype=np.uint8), 5)[:, None, None] * np.ones((1, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    assert main(["fit", str(tmp_path / "data.npz"), "--out", str(tmp_path / "run"), *QUICK]) == 0
    smidgen("export", tmp_path / "run", "--to", "folders", "--out", tmp_path / "sorted")
    table = read_csv(tmp_path / "sorted/images.csv")
    assert len(table["file"]) == 15
    for file, image in zip(table["file"], table["image"], strict=True):
        assert np.asarray(Image.open(tmp_path / "sorted" / file))[0, 0] == images[int(image.partition("/")[2]), 0, 0]


def test_csv_has_the_confidence_unless_told_otherwise(smidgen, run, tmp_path):
    smidgen("export", run, "--to", "csv", "--out", tmp_path / "e.csv")
    table, whole = read_csv(tmp_path / "e.csv"), read_csv(run / "assignments.csv")
    assert list(table) == ["image", "split", "cluster", "confidence"]
    assert table["confidence"] == whole["confidence"]


def test_a_run_on_a_relative_path_is_exported_from_anywhere(smidgen, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert smidgen("fit", "photos", *QUICK, "--out", "run").code == 0
    (tmp_path / "elsewhere" / "photos").mkdir(parents=True)  # of the same name, and not the one
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert smidgen("export", "../run", "--to", "folders", "--out", "sorted").out.startswith("60 images in 3 folders")
    said = smidgen("export", "../run", "--to", "parquet", "--layout", "pca", "--out", "run.parquet")
    assert said.out.startswith("60 rows, 60 with their file")
    moved = photos.rename(tmp_path / "moved")
    refused = smidgen("export", "../run", "--to", "folders", "--out", "again").refusal()
    assert "say with `--data` where" in refused
    assert smidgen("export", "../run", "--to", "folders", "--out", "again", "--data", moved).code == 0


@pytest.mark.parametrize("verb", ["fit", "export"])
def test_what_is_written_among_the_images_is_warned_of(smidgen, run, photos, tmp_path, verb):
    data = photos if verb == "fit" else run.parent / "photos"
    outs = {True: data / "inside", False: tmp_path / "outside"}
    for inside, out in outs.items():
        if verb == "fit":
            said = smidgen("fit", photos, *QUICK[:-1], "--out", out)
        else:
            said = smidgen("export", run, "--to", "csv", "--out", f"{out}.csv")
        assert said.code == 0
        assert ("lies inside the images' folder" in said.err) == inside
    (data / "inside.csv").unlink(missing_ok=True)
