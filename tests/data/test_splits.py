import itertools

import pytest

from smidgen.data.collection import Item
from smidgen.data.splits import arranged, split_role, splits_among, splits_of_values


def found(*ids):
    """Return what images of these ids are: {id: (split, class)}."""
    return {item.id: (item.split, item.label) for item in arranged([Item(name, bytes) for name in ids]).items}


def notes(*ids):
    return " ".join(arranged([Item(name, bytes) for name in ids]).notes)


TRAIN = ["train", "Train", "TRAIN", "training", "Training", "train_set", "training-data", "TrainImages", "train2017"]
TEST = [
    "test",
    "Test",
    "TESTING",
    "test_set",
    "val",
    "Valid",
    "VALIDATION",
    "validation set",
    "dev",
    "eval",
    "hold-out",
]


@pytest.mark.parametrize(("train", "test"), [*itertools.product(TRAIN[:2], TEST), *itertools.product(TRAIN, TEST[:1])])
def test_training_and_test_folders_in_every_usual_spelling(train, test):
    assert found(f"{train}/cat/1.png", f"{train}/dog/2.png", f"{test}/cat/3.png") == {
        f"{train}/cat/1.png": ("train", "cat"),
        f"{train}/dog/2.png": ("train", "dog"),
        f"{test}/cat/3.png": ("test", "cat"),
    }


@pytest.mark.parametrize("name", ["contest", "trainer", "invalid", "devil", "train station test", "latest", "cat"])
def test_other_names_are_no_splits(name):
    assert split_role(name) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "test", "val"), ("train", "test", "val")),
        (("train", "val", "eval"), ("train", "val", "test")),
        (("train", "test", "eval"), ("train", "test", "eval")),
        (("train", "test", "extra"), ("train", "test", "elsewhere")),
        (("Train", "training", "Test"), ("train", "train", "test")),
        (("seg_train", "seg_test", "seg_pred"), ("train", "test", "elsewhere")),
        (("train", "test1"), ("train", "test")),
        (("trainval", "test"), ("train", "test")),
        (("test",), ("test",)),
        (("val", "test"), ("val", "test")),
    ],
)
def test_which_of_several_folders_is_which_split(names, expected):
    splits = splits_among(names)
    assert tuple(map(splits.of, names)) == expected


@pytest.mark.parametrize(
    "names",
    [
        ("train", "bus"),  # vehicles
        ("test 1", "test 2"),
        ("trainA", "trainB", "testA", "testB"),
        ("cat_train", "cat_test", "dog_train", "dog_test"),
        ("test", "cat"),
        (None, "train"),
        ("cat", "dog"),
    ],
)
def test_folders_that_may_be_classes_are_no_splits(names):
    assert splits_among(names) is None


def test_validation_images_are_the_test_split_without_another_and_otherwise_left_out():
    assert notes("train/1.png", "valid/2.png", "valid/3.png") == (
        "Taken: 'train/' for the training split (1 image), 'valid/' for the test split (2 images), since there is no"
        " other for tests."
    )
    both = notes("train/1.png", "val/2.png", "test/3.png", "more/4.png", "5.png")
    assert "'test/' for the test split (1 image)." in both
    assert "Neither: 'val/' (1 image), which `fit` leaves out: nothing is tuned on further splits." in both
    assert "Neither: images without one and 'more/' (2 images), which `fit` leaves out." in both


@pytest.mark.parametrize("wrapper", ["", "archive/", "archive/pets v2/", "{0}/{}/"])
def test_splits_below_folders_that_hold_everything(wrapper):
    assert found(f"{wrapper}train/cat/1.png", f"{wrapper}train/dog/1.png", f"{wrapper}val/cat/1.png") == {
        f"{wrapper}train/cat/1.png": ("train", "cat"),
        f"{wrapper}train/dog/1.png": ("train", "dog"),
        f"{wrapper}val/cat/1.png": ("test", "cat"),
    }
    assert f"'{wrapper}train/' for the training split" in notes(f"{wrapper}train/1.png", f"{wrapper}val/1.png")


def test_classes_below_a_folder_that_holds_everything():
    assert found("photos/cat/1.png", "photos/dog/1.png") == {
        "photos/cat/1.png": (None, "cat"),
        "photos/dog/1.png": (None, "dog"),
    }
    assert notes("photos/cat/1.png", "photos/dog/1.png") == ""


def test_a_split_folder_inside_itself_is_no_class():
    ids = ["seg_train/seg_train/sea/1.png", "seg_train/seg_train/ice/2.png", "seg_test/seg_test/sea/3.png"]
    assert [found(*ids)[name] for name in ids] == [("train", "sea"), ("train", "ice"), ("test", "sea")]


def test_splits_inside_classes():
    ids = ["cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png", "dog/masks/5.png"]
    expected = [("train", "cat"), ("test", "cat"), ("train", "dog"), ("test", "dog"), ("elsewhere", None)]
    assert [found(*ids)[name] for name in ids] == expected
    assert "'…/train/' for the training split (2 images)" in notes(*ids)


@pytest.mark.parametrize(
    ("ids", "doubtful"),
    [
        (["train/1.png", "bus/2.png"], "'train/'"),
        (["pets/train/1.png", "pets/test/2.png", "preview.png"], "'pets/test/' and 'pets/train/'"),
        (["trainA/1.png", "testA/2.png", "trainB/3.png", "testB/4.png"], "'testA/', 'testB/', 'trainA/' and 'trainB/'"),
    ],
)
def test_folders_that_could_be_splits_but_are_not_taken_for_any_are_named(ids, doubtful):
    assert f"Not taken for splits: {doubtful}. " in notes(*ids)


def test_a_folder_beside_nothing_is_in_no_doubt():
    assert notes("pets/valid/cat/1.png", "phone.png") == ""


def test_values_of_a_column_are_read_like_folders():
    splits = splits_of_values(["Training", "VALID", "", "fold 3", "train_set", "cat_train"])
    assert splits.roles == {"Training": "train", "VALID": "val", "train_set": "train"}
    assert splits.of("VALID") == "test"
