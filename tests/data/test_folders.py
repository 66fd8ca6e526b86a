import os
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smidgen.data.collection import id_from_path, natural_key, path_from_id
from smidgen.data.folders import collect_folder


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), 9).save(path, "PNG")


def made(folder, *names):
    for name in names:
        picture(folder / name)
    return collect_folder(folder)


def labels(collection):
    return {item.id: item.label for item in collection.items}


@given(st.lists(st.sampled_from([*"ab\\x/f0", "\udcff", "\udc80", "é", "🐈", "\n", "-"])).map("".join))
def test_ids_are_reversible_and_writable(path):
    image_id = id_from_path(path)
    image_id.encode("utf-8")
    assert path_from_id(image_id) == path


@given(st.lists(st.text(alphabet="ab019 ²"), min_size=2, max_size=8))
def test_natural_order_is_total(names):
    backwards = names[::-1]
    assert sorted(backwards, key=natural_key) == sorted(names, key=natural_key)


@given(st.text(alphabet="ab0019 ²"), st.text(alphabet="ab0019 ²"))
def test_natural_order_is_that_of_text_and_numbers_in_turn(first, second):
    def slow(name):
        parts = re.split("([0-9]{1,18})", name)
        return [(0, int(part), "") if i % 2 else (1, 0, part) for i, part in enumerate(parts) if part], name

    assert (natural_key(first) < natural_key(second)) == (slow(first) < slow(second))


def test_natural_order_of_numbers():
    assert sorted(["10", "9", "a10b", "a9c"], key=natural_key) == ["9", "10", "a9c", "a10b"]


NAMES = [
    "🐈.png",
    "new\nline.png",
    "-rf.png",
    "=1+1.png",
    "a b.png",
    "Cat.png",
    "cat.png",
    "x" * 251 + ".png",
    "..png.png",
]


@pytest.mark.parametrize("name", NAMES)
def test_unusual_names_are_their_own_ids(tmp_path, name):
    collection = made(tmp_path, name) if not name.startswith("..") else made(tmp_path, "x" + name)
    (item,) = collection.items
    assert item.id.endswith(name)
    assert item.read()


def test_undecodable_names_are_read_under_writable_ids(tmp_path):
    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    os.rename(os.fsencode(tmp_path / "a.png"), os.fsencode(tmp_path) + b"/caf\xe9.png")  # noqa: PTH104
    (item,) = collect_folder(tmp_path).items
    assert item.id == r"caf\xe9.png"
    assert item.read()


def test_case_twins_and_order(tmp_path):
    collection = made(tmp_path, "img10.png", "img2.png", "Img2.png")
    assert [item.id for item in collection.items] == ["Img2.png", "img2.png", "img10.png"]


def test_other_files_are_counted_and_hidden_ones_too(tmp_path):
    for name in ("notes.txt", "labels.csv", ".DS_Store", "__MACOSX/._a.jpg", ".git/b.png", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"text")
    collection = made(tmp_path, "a.png")
    assert [item.id for item in collection.items] == ["a.png"]
    assert collection.ignored == 4  # hidden folders are not entered
    assert "(1 .csv, 1 .txt, 1 without a usual extension)" in collection.notes[0]


def test_files_without_extension_count_if_they_begin_like_an_image(tmp_path):
    assert [item.id for item in made(tmp_path, "photo").items] == ["photo"]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["cat/1.png", "dog/x/2.png"], {"cat/1.png": "cat", "dog/x/2.png": "dog"}),
        (["cat/1.png", "cat/2.png"], {"cat/1.png": None, "cat/2.png": None}),
        (["cat/1.png", "dog/2.png", "3.png"], {"cat/1.png": None, "dog/2.png": None, "3.png": None}),
        (
            ["train/cat/1.png", "train/dog/2.png", "test/3.png"],
            {"train/cat/1.png": "cat", "train/dog/2.png": "dog", "test/3.png": None},
        ),
    ],
)
def test_classes_are_the_top_folders_when_every_image_has_one(tmp_path, names, expected):
    assert labels(made(tmp_path, *names)) == expected


def test_train_and_test_are_splits_and_the_rest_belongs_to_neither(tmp_path):
    collection = made(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png", "val/b/4.png", "5.png")
    assert [item.id for item in collection.of_split("test")] == ["test/a/3.png"]
    assert len(collection.of_split("train")) == 2
    assert len(collection.of_split("all")) == 5
    assert collection.class_names() == ("a", "b")


def test_train_beside_other_folders_is_a_class(tmp_path):
    assert made(tmp_path, "train/1.png", "bus/2.png").class_names() == ("bus", "train")


def test_links_to_folders_are_followed_but_never_in_a_loop(tmp_path):
    outside = tmp_path / "outside"
    picture(outside / "far.png")
    (outside / "back").symlink_to(tmp_path / "photos")
    photos = tmp_path / "photos"
    picture(photos / "near.png")
    for name, target in {"out": outside, "again": outside, "self": photos, "up": tmp_path, "root": "/"}.items():
        (photos / name).symlink_to(target)
    ids = [item.id for item in collect_folder(photos).items]
    assert len(ids) == 2
    assert "near.png" in ids


def test_broken_links_and_pipes_are_bad_images(tmp_path):
    (tmp_path / "broken.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    collection = made(tmp_path, "good.png")
    assert len(collection.items) == 3
    assert np.sum([_reads(item) for item in collection.items]) == 1


def _reads(item):
    try:
        return bool(item.read())
    except ValueError:
        return False
