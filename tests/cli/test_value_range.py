"""Values of more than 8 bits on the command line: said, stored in the run, and used for new images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smidgen.csv_tables import read_csv
from smidgen.files import read_json

RNG = np.random.default_rng(0)
PATTERNS = RNG.integers(0, 100, (3, 10, 10))
PICTURES = np.concatenate([np.clip(pattern + RNG.integers(-20, 28, (20, 10, 10)), 0, 127) for pattern in PATTERNS])
FIT = ("--clusters", "3", "--method", "kmeans", "--quiet")


def save_all(folder: Path, pictures: np.ndarray, kind: str = "uint16", suffix: str = "png") -> Path:
    """Twenty pictures a class, in folders."""
    for row, picture in enumerate(pictures):
        path = folder / "abc"[row // 20] / f"{row:02d}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture.astype(kind)).save(path)
    return folder


@pytest.fixture(scope="module")
def eight_bits(tmp_path_factory):
    return save_all(tmp_path_factory.mktemp("eight") / "photos", PICTURES, "uint8")


@pytest.mark.parametrize(("kind", "suffix"), [("uint16", "png"), ("int32", "tif"), ("float32", "tif")])
def test_low_values_in_deep_files_cluster_as_in_8_bits_and_are_no_copies(smidgen, tmp_path, eight_bits, kind, suffix):
    deep = save_all(tmp_path / "photos", PICTURES, kind, suffix)
    found = smidgen("check", deep, "--clusters", 3, "--json").json
    assert not {"duplicate", "near_duplicate"} & found["issues"].keys()
    place = "floats" if kind == "float32" else "integers"
    assert found["value_range"][place] == [0, 255]
    results = [
        smidgen("fit", data, "--out", tmp_path / name, *FIT, "--json").json
        for data, name in ((deep, "deep"), (eight_bits, "eight"))
    ]
    assert results[0]["train_accuracy"] == results[1]["train_accuracy"] == 1
    assert results[0]["value_range"] == {"eight_bits": [0, 255], place: [0, 255]}
    assert (
        read_csv(tmp_path / "deep/assignments.csv")["confidence"]
        == (read_csv(tmp_path / "eight/assignments.csv")["confidence"])
    )


def test_new_images_are_read_as_those_of_training(smidgen, tmp_path):
    out = tmp_path / "run"
    smidgen("fit", save_all(tmp_path / "a", PICTURES * 32), "--out", out, *FIT)
    assert read_json(out / "model/model.json")["preprocessing"]["value_range"]["integers"] == [0, 4095]
    assert read_json(out / "manifest.json")["data"]["value_range"]["integers"] == [0, 4095]
    known = dict(zip(*(read_csv(out / "assignments.csv")[name] for name in ("image", "cluster")), strict=True))
    new = save_all(tmp_path / "new", PICTURES[:1])  # by itself, it would be of 8 bits
    np.savez(tmp_path / "new.npz", images=PICTURES[:1].astype(np.uint16))
    for data in (new, tmp_path / "new.npz"):
        said = smidgen("predict", out, data, "--json")
        assert f"No image holds values outside 0 to {PICTURES[0].max()}, little of 0 to 4,095" in said.err
        dark = said.json["images"][0]["confidence"]
    same = smidgen("predict", out, save_all(tmp_path / "same", PICTURES[:1] * 32), "--json").json["images"][0]
    assert same["cluster"] == known["a/00.png"]
    assert same["confidence"] != dark
    assert smidgen("predict", out, new, "--value-range", "0:127", "--quiet").err == ""
    beyond = smidgen("predict", out, save_all(tmp_path / "beyond", PICTURES[:1] * 320), "--json")
    assert "1 image holds values beyond 0 to 4,095 (12 bits)" in beyond.err


def test_what_was_decided_is_said(smidgen, tmp_path):
    data = save_all(tmp_path / "photos", PICTURES * 32)
    sentence = "Black to white are values stored as integers from 0 to 4,095 (12 bits) (`--value-range` changes it)."
    assert sentence in smidgen("check", data, "--clusters", 3).out
    assert sentence in smidgen("fit", data, "--clusters", 3, "--method", "kmeans", "--dry-run").err
    plan = smidgen("fit", data, *FIT, "--dry-run", "--json").json
    assert plan["value_range"]["integers"] == [0, 4095]


def test_a_range_that_is_given_is_kept_by_the_run(smidgen, tmp_path):
    data, out = save_all(tmp_path / "photos", PICTURES), tmp_path / "run"
    found = smidgen("fit", data, "--value-range", "0:127", "--out", out, *FIT, "--json").json
    assert found["value_range"] == {"eight_bits": [0, 127], "integers": [0, 127], "floats": [0, 127]}
    assert 'value_range = "0:127"' in (out / "config.toml").read_text()
    assert smidgen("check", data, "--value-range", "7-bit", "--json").json["value_range"]["integers"] == [0, 127]
    assert smidgen("check", data, "--value-range=-9:9", "--json").json["value_range"]["integers"] == [-9, 9]


@pytest.mark.parametrize("wrong", ["9:3", "255", "a:b", "0:nan", "99-bit"])
def test_other_ranges_are_refused_in_one_sentence(smidgen, tmp_path, wrong):
    said = smidgen("check", tmp_path, "--value-range", wrong).refusal()
    assert said.startswith("`--value-range` must be the values of black and white, LOW:HIGH")
    assert said.endswith(f"got {wrong!r}.")


@pytest.mark.parametrize("change", ["values", "margin"])
def test_pictures_that_differ_in_what_was_thrown_away_are_no_duplicates(smidgen, tmp_path, change):
    size = 32
    pictures = np.repeat(RNG.integers(0, 65536, (1, size, size + 8)), 2, axis=0)
    pictures[1, :, -2:] = 65535 - pictures[1, :, -2:]  # cut off by the crop
    if change == "values":
        pictures = np.repeat(pictures[:1], 2, axis=0)
        pictures[1, 5, 5] ^= 1  # the last of 16 bits
    for row, picture in enumerate(pictures):
        Image.fromarray(picture.astype(np.uint16)).save(tmp_path / f"{row}.png")
    Image.open(tmp_path / "0.png").save(tmp_path / "2.png", compress_level=0)
    found = smidgen("check", tmp_path, "--clusters", 1, "--size", size, "--json").json
    assert [image["image"] for image in found["issues"]["duplicate"]["worst"]] == ["0.png", "2.png"]
    assert [image["image"] for image in found["issues"]["near_duplicate"]["worst"]] == ["1.png"]
    arrays = np.concatenate([pictures, pictures[:1]]).astype(np.uint16)
    np.savez(tmp_path / "a.npz", images=arrays)
    found = smidgen("check", tmp_path / "a.npz", "--clusters", 1, "--size", size, "--json").json
    assert found["duplicates"] == [["train/00000", "train/00002"]]
    assert found["issues"]["duplicate"]["images"] == 2


def test_check_reads_images_in_the_size_that_fit_does(smidgen, tmp_path):
    for row in range(12):
        Image.fromarray(RNG.integers(0, 256, (70, 80 + row, 3), dtype=np.uint8)).save(tmp_path / f"{row}.png")
    for options in ((), ("--encoder", "lite0@48"), ("--size", 32)):
        found = smidgen("check", tmp_path, "--clusters", 2, *options, "--json").json["image_shape"]
        plan = smidgen("fit", tmp_path, "--clusters", 2, *options, "--dry-run", "--json").json["image_shape"]
        assert found == plan
    assert smidgen("check", tmp_path, "--clusters", 2, "--json").json["image_shape"] == [3, 160, 160]


def test_the_help_names_the_sizes_that_are_used(smidgen):
    from smidgen.data.decoding import NATIVE_LIMIT
    from smidgen.nets.pretrained import encoder_size
    from smidgen.setup.encoder import PREFERRED

    for verb in ("fit", "check"):
        words = " ".join(smidgen(verb, "--help").out.split())
        assert f"share one of at most {NATIVE_LIMIT} pixels" in words
        assert f"{encoder_size(PREFERRED)} for {PREFERRED}, the usual one, and {NATIVE_LIMIT} for nets" in words
