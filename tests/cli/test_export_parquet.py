"""Export to Parquet and ONNX from a run, and what becomes of difficult names."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_samples import QUICK, fill, png
from pyarrow import parquet

from smidgen.cli.main import main
from smidgen.csv_tables import read_csv, write_csv
from smidgen.data.collection import path_from_id
from smidgen.exports.parquet_file import _layout


def test_table_has_what_other_programs_want(smidgen, run, tmp_path):
    said = smidgen("export", run, "--to", "parquet", "--out", tmp_path / "t.parquet")
    assert said.out.startswith("60 rows, 60 with their file, map by tsne: ")
    table, own = parquet.read_table(tmp_path / "t.parquet"), read_csv(run / "assignments.csv")
    kinds = {field.name: str(field.type) for field in table.schema}
    assert kinds["embedding"] == "list<element: float>"
    assert (kinds["confidence"], kinds["x"], kinds["y"]) == ("float",) * 3
    columns = table.to_pydict()
    for name in ("image", "split", "cluster", "class"):
        assert columns[name] == own[name]
    assert np.array(columns["embedding"], dtype=np.float32) == pytest.approx(np.load(run / "embeddings.npy"))
    assert np.ptp(columns["x"]) > 0
    assert json.loads(table.schema.metadata[b"smidgen"])["layout"] == "tsne"
    for image, path in zip(columns["image"], columns["path"], strict=True):
        assert Path(path) == (run.parent / "photos" / image).absolute()


def test_table_of_a_split_of_a_moved_collection(smidgen, run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    table = read_csv(copy / "assignments.csv")
    write_csv(copy / "assignments.csv", table | {"split": ["test"] * 10 + ["train"] * 50})
    out = ["--to", "parquet", "--out", tmp_path / "t.parquet", "--data", tmp_path / "nowhere"]
    assert smidgen("export", copy, *out, "--split", "train", "--layout", "pca").out.startswith("50 rows, 0 with")
    columns = parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert columns["image"] == table["image"][10:]
    assert columns["embedding"] == np.load(run / "embeddings.npy")[10:].tolist()
    assert "--overwrite" in smidgen("export", copy, *out).refusal()


def test_rows_are_written_in_blocks_that_fit_together(smidgen, run, tmp_path, monkeypatch):
    smidgen("export", run, "--to", "parquet", "--out", tmp_path / "whole.parquet", "--layout", "pca")
    monkeypatch.setattr("smidgen.exports.parquet_file._FLOATS", 7 * 64)
    smidgen("export", run, "--to", "parquet", "--out", tmp_path / "blocks.parquet", "--layout", "pca")
    assert parquet.ParquetFile(tmp_path / "blocks.parquet").num_row_groups == 9
    assert parquet.read_table(tmp_path / "blocks.parquet") == parquet.read_table(tmp_path / "whole.parquet")


NAMES = [b"\xf0\x9f\x90\xb1.png", b"a\nb.png", b"=1+1.png", b"caf\xe9.png", b"back\\slash.png", b"-dash.png"]


def test_names_of_every_kind_come_back(smidgen, tmp_path):
    fill(tmp_path / "photos", per_class=3)
    for k, name in enumerate(NAMES):
        Path(os.fsdecode(os.fsencode(tmp_path / "photos") + b"/black/" + name)).write_bytes(png(20, mark=10 + k))
    assert main(["fit", str(tmp_path / "photos"), "--out", str(tmp_path / "run"), *QUICK]) == 0
    said = smidgen("export", tmp_path / "run", "--to", "parquet", "--out", tmp_path / "t.parquet")
    assert said.out.startswith("15 rows, 14 with their file")  # Parquet cannot hold the path that is not UTF-8
    columns = parquet.read_table(tmp_path / "t.parquet").to_pydict()
    names = {os.fsencode(path_from_id(image)).removeprefix(b"black/") for image in columns["image"]}
    assert set(NAMES) <= names
    for image, path in zip(columns["image"], columns["path"], strict=True):
        assert (path is None) == ("\\xe9" in image)
        assert path is None or Path(path).is_file()


def test_layout_is_a_map_of_all_rows():
    assert _layout("auto", n=2000) == "tsne"
    assert _layout("auto", n=2001) in ("umap", "pca")
    assert _layout("tsne", n=10**6) == "tsne"


def test_onnx_is_written_whole_and_says_how_close_it_is(smidgen, run, tmp_path, monkeypatch):
    def translate(model, *, images):  # `tests/exports/test_onnx_file.py` does it in earnest
        assert images.shape == (60, 1, 8, 8)
        return b"a model", 3e-6

    monkeypatch.setattr("smidgen.exports.onnx_file.require_onnx", lambda: None)
    monkeypatch.setattr("smidgen.exports.onnx_file.to_onnx", translate)
    said = smidgen("export", run, "--to", "onnx", "--out", tmp_path / "m.onnx")
    assert "at most 3e-06 from torch: " in said.out
    assert (tmp_path / "m.onnx").read_bytes() == b"a model"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


def test_onnx_without_the_extra_is_refused(smidgen, run, tmp_path, monkeypatch):
    monkeypatch.setattr("smidgen.exports.onnx_file._NEEDED", ("onnx_of_another_world",))
    said = smidgen("export", run, "--to", "onnx", "--out", tmp_path / "m.onnx").refusal()
    assert "pip install 'smidgen[onnx]'" in said
    assert list(tmp_path.iterdir()) == []
