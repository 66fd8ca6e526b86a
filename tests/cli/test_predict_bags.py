"""`predict --bags`: a table of bags beside that of images, and what is wrong with bags in one sentence."""

import pytest

from smidgen.csv_tables import read_csv, write_csv
from smidgen.files import read_json

BAGS = {
    "mixed": ["black/1.png", "grey/2.png", "white/3.png", "white/4.png"],
    "pure": ["black/1.png", "black/2.png", "black/3.png"],
}


def write_bags(path, bags):
    rows = [(bag, image) for bag, images in bags.items() for image in images]
    write_csv(path, {"bag": [bag for bag, _ in rows], "image": [image for _, image in rows]})
    return path


@pytest.fixture
def bags(tmp_path):
    return write_bags(tmp_path / "bags.csv", BAGS)


@pytest.fixture
def data(run):
    return run.parent / "photos"


def test_bags_stand_in_a_table_beside_that_of_images(smidgen, run, data, bags, tmp_path):
    said = smidgen("predict", run, data, "--bags", bags, "--out", tmp_path / "new.csv")
    assert said.code == 0, said.err
    assert "2 bags" in said.out
    assert len(read_csv(tmp_path / "new.csv")["image"]) == 60
    table = read_csv(tmp_path / "new.bags.csv")
    names = read_json(run / "model" / "model.json")["cluster_names"]
    counts = [f"p(ucc={u})" for u in (1, 2, 3)]
    shares = [f"{what}({name})" for what in ("share", "images") for name in names]
    assert list(table) == ["bag", "n_images", "ucc", "ucc_probability", *counts, *shares]
    assert (table["bag"], table["n_images"]) == (["mixed", "pure"], ["4", "3"])
    assert sum(float(table[name][0]) for name in counts) == pytest.approx(1, abs=1e-5)
    assert sum(float(table[name][0]) for name in shares[3:]) == pytest.approx(4, abs=1e-2)


def test_without_a_file_bags_are_printed_and_as_json_with_the_images(smidgen, run, data, bags):
    said = smidgen("predict", run, data, "--bags", bags, "--quiet")
    assert said.out.startswith("bag,n_images,ucc,")
    assert said.out.count("\n") == 3
    found = smidgen("predict", run, data, "--bags", bags, "--json", "--quiet").json
    assert found["n_bags"] == 2
    assert len(found["images"]) == 60
    assert [(bag["bag"], bag["n_images"]) for bag in found["bags"]] == [("mixed", 4), ("pure", 3)]


def test_json_names_the_files(smidgen, run, data, bags, tmp_path):
    found = smidgen("predict", run, data, "--bags", bags, "--json", "--out", tmp_path / "new.csv", "--quiet").json
    assert found["bags_out"] == str(tmp_path / "new.bags.csv")
    assert "bags" not in found


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (
            "bag,image\na,black/1.png\na,black/99.png\n",
            "bags.csv line 3: image 'black/99.png' is not among the 60 images",
        ),
        ("bag,picture\na,b\n", "bags.csv line 1: Unknown column 'picture'"),
        ("bag,image\n", "lists no bags"),
        (None, "is missing"),
    ],
)
def test_wrong_bags_are_one_sentence_and_nothing_is_written(smidgen, run, data, tmp_path, content, sentence):
    path = tmp_path / "bags.csv"
    if content is not None:
        path.write_text(content)
    said = smidgen("predict", run, data, "--bags", path, "--out", tmp_path / "new.csv", "--quiet")
    assert sentence in said.refusal()
    assert not (tmp_path / "new.csv").exists()


def test_a_table_of_bags_that_exists_is_not_replaced(smidgen, run, data, bags, tmp_path):
    (tmp_path / "new.bags.csv").write_text("mine")
    said = smidgen("predict", run, data, "--bags", bags, "--out", tmp_path / "new.csv", "--quiet")
    assert "exists: choose another --out" in said.refusal()
    assert (tmp_path / "new.bags.csv").read_text() == "mine"


def test_unreadable_images_are_left_out_of_their_bags(smidgen, run, photos, tmp_path):
    (photos / "black" / "1.png").write_bytes(b"no image")
    bags = write_bags(tmp_path / "bags.csv", BAGS | {"gone": ["black/1.png"]})
    said = smidgen("predict", run, photos, "--bags", bags, "--out", tmp_path / "new.csv")
    assert said.code == 0, said.err
    table = read_csv(tmp_path / "new.bags.csv")
    assert (table["bag"], table["n_images"]) == (["mixed", "pure"], ["3", "2"])
    assert "3 bags are predicted without" in said.err
    assert "1 of them have none left" in said.err


def test_contradictory_pairs_are_refused_with_the_option_that_keeps_them(smidgen, data, tmp_path):
    pairs = tmp_path / "pairs.csv"
    pairs.write_text(
        "image_a,image_b,same\nblack/1.png,black/2.png,1\nblack/2.png,grey/3.png,1\nblack/1.png,grey/3.png,0\n"
    )
    fit = ("fit", data, "--pairs", pairs, "--clusters", 3, "--dry-run", "--out", tmp_path / "run", "--quiet")
    assert "keep all with `--keep-contradictory-pairs`" in smidgen(*fit).refusal()
    said = smidgen(*fit, "--keep-contradictory-pairs", "--json")
    assert said.code == 0, said.err
    assert said.json["evidence"] == {"pairs": 3}
    check = ("check", data, "--pairs", pairs, "--clusters", 3, "--quiet")
    refused = smidgen(*check)
    assert (refused.code, "`--keep-contradictory-pairs`" in refused.out) == (2, True)
    assert smidgen(*check, "--keep-contradictory-pairs").code == 0
