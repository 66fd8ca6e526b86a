import numpy as np
import pytest

from smidgen.data.arrays import as_images, fitted, read_npz
from smidgen.errors import InputError

RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((5, 8, 7), (5, 1, 8, 7)),
        ((5, 8, 7, 1), (5, 1, 8, 7)),
        ((5, 8, 7, 3), (5, 3, 8, 7)),
        ((5, 3, 8, 7), (5, 3, 8, 7)),
        ((5, 8, 7, 4), (5, 3, 8, 7)),
        ((5, 4, 8, 1), (5, 1, 4, 8)),
        ((5, 4, 8, 8), (5, 3, 8, 8)),
        ((5, 1, 8, 3), (5, 1, 8, 3)),  # both axes could be the channels: the second is
        ((0, 8, 8), (0, 1, 8, 8)),
    ],
)
def test_axes_are_told_apart(given, expected):
    images = as_images(RNG.integers(0, 256, given, dtype=np.uint8))
    assert images.shape == expected
    assert images.flags.c_contiguous


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([0.0, 0.5, 1.0]), [0, 128, 255]),
        (np.array([0, 32896, 65535], dtype=np.uint16), [0, 128, 255]),
        (np.array([False, True, True]), [0, 255, 255]),
        (np.array([0, 7, 255], dtype=np.int64), [0, 7, 255]),
        (np.array([0, 7, 255], dtype=np.uint8), [0, 7, 255]),
        (np.array([0, 7, 127], dtype=np.uint16), [0, 7, 127]),
        (np.array([0, 4095, 2048], dtype=np.int16), [0, 255, 128]),
        (np.array([0.0, 7.0, 255.0]), [0, 7, 255]),
        (np.array([-1.0, 0.0, 1.0]), [0, 128, 255]),
        (np.array([-1000, 0, 1000], dtype=np.int16), [0, 128, 255]),
        (np.array([7, 7, 7], dtype=np.int64) * 10**9, [0, 0, 0]),
    ],
)
def test_values_become_levels(values, expected):
    assert as_images(values.reshape(1, 1, 3)).ravel().tolist() == expected


def test_alpha_is_laid_on_white():
    pixel = np.array([10, 20, 30, 0, 10, 20, 30, 255], dtype=np.uint8).reshape(1, 2, 1, 4)
    assert as_images(pixel)[0, :, :, 0].T.tolist() == [[255, 255, 255], [10, 20, 30]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((5, 4)), r"got shape \(5, 4\)"),
        (np.zeros((5, 5, 4, 2)), r"got shape \(5, 5, 4, 2\)"),
        (np.zeros((5, 0, 4)), r"got shape"),
        (np.array([[[0.0]], [[np.nan]], [[np.inf]]]), r"finite, got NaN or infinity in 2 of 3, first in row 1"),
        (np.full((1, 2, 2), "a"), r"got an array of <U1"),
    ],
)
def test_other_arrays_are_refused_in_words(array, message):
    with pytest.raises(InputError, match=message):
        as_images(array)


def test_fitting_gives_size_and_channels_and_keeps_what_fits():
    images = RNG.integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    assert fitted(images, size=None, channels=None, resize="crop") is images
    assert fitted(images, size=4, channels=3, resize="crop").shape == (3, 3, 4, 4)
    assert fitted(images[..., :6], size=None, channels=1, resize="pad").shape == (3, 1, 64, 64)


def saved(path, **arrays):
    np.savez(path, **arrays)
    return path


IMAGES = RNG.integers(0, 256, (4, 8, 8), dtype=np.uint8)


@pytest.mark.parametrize("keys", ["x_train y_train x_test y_test", "train_images train_labels test_images test_labels"])
def test_npz_with_splits(tmp_path, keys):
    values = (IMAGES, np.array([[2], [3], [-1], [10]]), IMAGES[:1], np.array([1]))
    parts, names = read_npz(saved(tmp_path / "a.npz", **dict(zip(keys.split(), values, strict=True))))
    assert names == ("1", "2", "3", "10")
    assert parts["train"].classes.tolist() == [1, 2, -1, 3]
    assert parts["test"].classes.tolist() == [0]


@pytest.mark.parametrize(
    "keys", [("images", "labels"), ("x", "y"), ("arr_0", "arr_1"), ("embeddings", "labels"), ("features", "y")]
)
def test_npz_without_splits(tmp_path, keys):
    labels = np.array(["b", "a", "", "b"])
    parts, names = read_npz(saved(tmp_path / "a.npz", **dict(zip(keys, (IMAGES, labels), strict=True))))
    assert names == ("a", "b")
    assert parts[""].classes.tolist() == [1, 0, -1, 1]


def test_npz_may_name_its_classes(tmp_path):
    names = np.array(["cat", "dog", "emu"])
    parts, found = read_npz(saved(tmp_path / "a.npz", x=IMAGES, y=np.array([1, 1, 0, -1]), class_names=names))
    assert found == ("cat", "dog", "emu")
    assert parts[""].classes.tolist() == [1, 1, 0, -1]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": IMAGES, "b": IMAGES}, "needs an array 'images' or 'x_train', but holds: a, b"),
        ({"x": IMAGES, "y": np.zeros(3, int)}, "one integer or text label for each of 4 images"),
        ({"x": IMAGES, "y": np.zeros(4, complex)}, "type complex128"),
        ({"x": np.array([{}])}, "is not an .npz of plain arrays"),
        ({"x": IMAGES, "y": np.arange(4), "class_names": np.array(["a"])}, "names 1 classes, but has labels up to 3"),
    ],
)
def test_wrong_npz_files_are_refused_in_words(tmp_path, arrays, message):
    with pytest.raises(InputError, match=message):
        read_npz(saved(tmp_path / "a.npz", **arrays))
