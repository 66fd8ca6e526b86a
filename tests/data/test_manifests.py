import json
import os

import pytest
from PIL import Image

from smidgen.data.datasets import open_dataset, open_splits
from smidgen.data.manifests import collect_manifest
from smidgen.errors import InputError

ROWS = [
    {"path": "b/2.png", "label": "dog", "split": "train"},
    {"path": "./a/1.png", "label": "cat", "split": "test"},
    {"path": "a/3.png", "label": "", "split": ""},
]


def save(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path)


def written(path, rows):
    for row in rows:
        file = path.parent / next(iter(row.values()))
        file.parent.mkdir(exist_ok=True)
        Image.new("L", (4, 4)).save(file)
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
        path.write_text("\ufeff" + "\r\n".join(lines))
    else:
        from pyarrow import Table, parquet

        parquet.write_table(Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_manifest_keeps_its_order_and_gives_classes_and_splits(tmp_path, kind):
    collection = collect_manifest(written(tmp_path / f"m.{kind}", ROWS))
    assert [item.id for item in collection.items] == ["b/2.png", "a/1.png", "a/3.png"]
    assert [item.label for item in collection.items] == ["dog", "cat", None]
    assert [item.id for item in collection.of_split("test")] == ["a/1.png"]
    assert all(item.read() for item in collection.items)


@pytest.mark.parametrize("column", ["file_name", "filepath", "Path"])
def test_other_names_of_the_path_column(tmp_path, column):
    rows = [{column: "1.png", "class": "cat"}]
    (item,) = collect_manifest(written(tmp_path / "m.csv", rows)).items
    assert (item.id, item.label, item.split) == ("1.png", "cat", None)


def test_ids_that_smidgen_wrote_are_found_again(tmp_path):
    name = "caf\udce9.png"
    Image.new("L", (4, 4)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / name)
    (tmp_path / "m.csv").write_text("path\ncaf\\xe9.png\n")
    (item,) = collect_manifest(tmp_path / "m.csv").items
    assert item.id == r"caf\xe9.png"
    assert item.read()


def test_names_that_are_not_utf8_are_read_as_they_are(tmp_path):
    name = b"caf\xe9.png"
    Image.new("L", (4, 4)).save(tmp_path / os.fsdecode(name), "png")
    (tmp_path / "m.csv").write_bytes(b"path,label\n" + name + b",a\n")
    (item,) = collect_manifest(tmp_path / "m.csv").items
    assert (item.id, item.label) == (r"caf\xe9.png", "a")
    assert item.read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,label\n1.png,cat\n", "needs a column path, file_name, .* or image_path, but has: picture, label"),
        ("path\n1.png\n./1.png\n", "names '1.png' twice, in rows 1 and 2"),
        ("path,label\n,cat\n", "names no image in row 1"),
        ("", "but has: none"),
        (f"path\n{'9' * 5000}\n", "names 1 images, and none is there, first '9{199}…: paths are relative"),
    ],
)
def test_wrong_manifests_are_refused_in_words(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        collect_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(("name", "text"), [("m.jsonl", "[1]\n"), ("m.jsonl", "{"), ("m.parquet", "no")])
def test_files_of_another_format_are_refused(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="cannot be read"):
        collect_manifest(tmp_path / name)


def test_splits_are_spelled_as_people_do_and_said(tmp_path):
    rows = [
        {"path": f"{k}.png", "split": split} for k, split in enumerate(["Training", "VALID", "fold 3", "", "training"])
    ]
    collection = collect_manifest(written(tmp_path / "m.csv", rows))
    assert [item.split for item in collection.items] == ["train", "test", "fold 3", None, "train"]
    assert collection.notes == (
        "Taken: 'Training' and 'training' for the training split (2 images), 'VALID' for the test split (1 image),"
        " since there is no other for tests.",
        "Neither: images without one and 'fold 3' (2 images), which `fit` leaves out.",
    )


def test_images_outside_the_manifests_folder_are_read_and_said(tmp_path):
    (tmp_path / "lists").mkdir()
    for name in ("a.png", "b.png", "lists/c.png"):
        Image.new("L", (4, 4)).save(tmp_path / name)
    (tmp_path / "lists/m.csv").write_text(f"path\n../a.png\n{tmp_path}/b.png\nc.png\n")
    collection = collect_manifest(tmp_path / "lists/m.csv")
    assert all(item.read() for item in collection.items)
    assert collection.notes == ("The manifest names 2 images outside its own folder, for example '../a.png'.",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"path": ' + "[" * 5000, "line 2: it is nested too deeply"),
        ('{"path": "a.png", "label": "\\ud800"}', "line 2: .* half a surrogate pair"),
        ('{"path": "\\ud800.png"}', "line 2: .* half a surrogate pair"),
        ('{"path": "a.png", "\\udfff": 1}', "line 2: .* half a surrogate pair"),
        ("[1]", "line 2: expected `object`, got `array`"),
        ('{"path": "a.p', "line 2: "),
    ],
)
def test_damaged_lines_of_json_are_refused_in_words(tmp_path, line, words):
    (tmp_path / "m.jsonl").write_text('{"path": "b.png"}\n' + line + "\n")
    with pytest.raises(InputError, match=words):
        collect_manifest(tmp_path / "m.jsonl")


def test_splits_of_a_manifest_by_another_column_or_by_folders(tmp_path):
    names = ["train/a/0.png", "train/b/1.png", "valid/a/2.png"]
    for name in names:
        save(tmp_path / name)
    rows = [f"{names[0]};a;train\n", f"{names[1]};b;TRAIN\n", f"{names[2]};a; val\n"]
    by_column = "file;class;subset\n" + "".join(rows)
    for text in (by_column, "file;class\n" + "".join(f"{name};{name[6]}\n" for name in names)):
        (tmp_path / "m.csv").write_text(text)
        train, test = open_splits(tmp_path / "m.csv")
        assert (train.ids.tolist(), test.ids.tolist()) == (names[:2], names[2:])
        assert "for the test split (1 image), since there is no other" in train.notes[0]
    (tmp_path / "m.csv").write_text("file\nvalid/a/2.png\n")
    assert len(open_dataset(tmp_path / "m.csv")) == 1  # of one split alone all images are meant


def test_values_that_name_no_split_are_said(tmp_path):
    for name in ("0.png", "1.png"):
        save(tmp_path / name)
    (tmp_path / "m.csv").write_text("path,split\n0.png,0\n1.png,1\n")
    dataset = open_dataset(tmp_path / "m.csv")
    assert len(dataset) == 2
    assert dataset.notes == ("The column 'split' holds '0', '1', and neither train nor test: all images are taken.",)
