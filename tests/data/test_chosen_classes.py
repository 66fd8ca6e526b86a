"""The images of some classes of a collection: of files, arrays and named datasets, under the ids of the whole."""

import numpy as np
import pytest
from PIL import Image

from smidgen.data.datasets import open_dataset, open_like, open_splits
from smidgen.errors import InputError

RNG = np.random.default_rng(0)


@pytest.fixture
def pets(tmp_path):
    for split in ("train", "test"):
        for name in ("cat", "dog", "emu", "fox"):
            for number in range(2):
                path = tmp_path / "pets" / split / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(RNG.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    return tmp_path / "pets"


def test_of_a_named_dataset_some_digits_are_taken_under_their_old_ids():
    whole, part = open_dataset("digits"), open_dataset("digits", classes=["8", "3"])
    rows = np.flatnonzero(np.isin(whole.classes, (3, 8)))
    assert part.ids.tolist() == whole.ids[rows].tolist()
    np.testing.assert_array_equal(part.images, whole.images[rows])
    assert part.class_names == ("3", "8")
    assert part.classes.tolist() == [int(k == 8) for k in whole.classes[rows]]
    assert part.notes[-1] == f"Only the images of '8', '3': {len(rows)} of 1,438."


def test_of_a_folder_both_splits_have_the_classes_and_no_other_file_is_read(pets):
    (pets / "train" / "dog" / "0.png").write_bytes(b"no image")
    train, test = open_splits(pets, classes=["cat", "fox"], allow_bad=0)
    assert train.ids.tolist() == [f"train/{name}/{n}.png" for name in ("cat", "fox") for n in (0, 1)]
    assert train.class_names == test.class_names == ("cat", "fox")
    assert train.classes.tolist() == test.classes.tolist() == [0, 0, 1, 1]
    assert train.notes[-1] == "Only the images of 'cat', 'fox': 8 of 16."


def test_arrays_and_images_for_a_model_can_be_chosen_too(tmp_path):
    vectors, classes = RNG.normal(size=(6, 3)).astype(np.float32), np.array([0, 1, 2, 0, 1, -1])
    np.savez(tmp_path / "v.npz", images=vectors, labels=classes)
    part = open_like(tmp_path / "v.npz", (3,), classes="2")
    np.testing.assert_array_equal(part.images, vectors[[2]])
    assert open_like("digits", (1, 8, 8), split="test", classes="7").class_names == ("7",)


def test_no_classes_are_all():
    assert len(open_dataset("digits", classes=None)) == len(open_dataset("digits", classes=())) == 1438


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["cat", "dgo"], "Unknown class of .*pets': 'dgo'. Did you mean 'dog'?"),
        (3, "`classes` takes names of classes, such as .* got 3"),
        ([1], r"`classes` takes names of classes, such as .* got \[1\]"),
        ([""], "`classes` takes names of classes"),
    ],
)
def test_other_classes_are_refused(pets, classes, words):
    with pytest.raises(InputError, match=words):
        open_dataset(pets, classes=classes)


def test_a_split_without_any_is_refused(tmp_path):
    images, labels = RNG.integers(0, 256, (2, 3, 3), dtype=np.uint8), np.array([0, 1])
    arrays = {"train_images": images, "train_labels": labels, "test_images": images, "test_labels": labels * 0}
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(InputError, match=r"holds no images \(.*Only the images of '1': 0 of 2\)"):
        open_dataset(tmp_path / "a.npz", split="test", classes="1")


def test_unknown_classes_cannot_be_chosen():
    for nothing_known in (np.zeros((4, 5, 5), np.uint8), np.zeros((4, 5), np.float32)):
        with pytest.raises(InputError, match="`classes` chooses among known classes, and 'array' has none: omit it"):
            open_dataset(nothing_known, classes="cat")
