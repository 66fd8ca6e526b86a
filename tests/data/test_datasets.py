import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smidgen.data.datasets import DATASETS, list_classes, open_dataset, open_like, open_splits
from smidgen.errors import InputError

SMIDGEN_DATA = os.environ.get("SMIDGEN_DATA", "")
has_mnist = pytest.mark.skipif(
    not Path(SMIDGEN_DATA, "MNIST/raw").is_dir() or not SMIDGEN_DATA, reason="SMIDGEN_DATA holds no MNIST/raw"
)
RNG = np.random.default_rng(0)


def photos(root, *names, side=12):
    """Write images of one noise each, so that every file differs."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(path)
    return root


@pytest.fixture
def splits_folder(tmp_path):
    names = [f"{split}/{kind}/{i}.png" for split in ("train", "test") for kind in ("cat", "dog") for i in range(2)]
    return photos(tmp_path / "pets", *names)


def test_classes_are_listed_without_reading_an_image(splits_folder, tmp_path):
    assert list_classes(splits_folder) == ("cat", "dog")
    photos(splits_folder, "train/bird/0.png", "test/bird/0.png")
    assert list_classes(splits_folder, exclude="bird/") == ("cat", "dog")
    assert list_classes(splits_folder, classes="dog") == ("dog",)
    (splits_folder / "train/cat/0.png").write_bytes(b"no image")
    assert list_classes(splits_folder) == ("bird", "cat", "dog")
    assert list_classes("digits") == tuple("0123456789")
    assert list_classes("digits", classes=["3", "8"]) == ("3", "8")
    assert list_classes(photos(tmp_path / "flat", "a.png", "b.png")) == list_classes(np.zeros((3, 4))) == ()


def test_registry_of_named_datasets():
    assert set(DATASETS) == {"digits", "mnist", "fashion-mnist", "cifar10", "cifar100", "stl10", "svhn"}
    assert [DATASETS[name].n_classes for name in ("digits", "cifar100", "stl10")] == [10, 100, 10]
    assert all(len(set(dataset.class_names)) == dataset.n_classes for dataset in DATASETS.values())


def test_digits_are_scaled_and_split_by_a_fixed_rule():
    from sklearn.datasets import load_digits

    train, test = open_splits("digits")
    everything = open_dataset("digits", split="all")
    assert (len(train), len(test), len(everything)) == (DATASETS["digits"].n_train, DATASETS["digits"].n_test, 1797)
    assert train.images.shape[1:] == DATASETS["digits"].shape
    np.testing.assert_array_equal(np.rint(test.images[0, 0] / 255 * 16), load_digits().images[4])
    assert everything.ids[[0, 1438]].tolist() == ["train/00000", "test/00000"]
    assert np.bincount(everything.classes).tolist() == np.bincount(load_digits().target).tolist()
    assert everything.images.max() == 255


@has_mnist
def test_mnist_is_the_official_set():
    train, test = open_splits("mnist")
    assert train.images.shape == (60000, 1, 28, 28)
    assert test.images.shape == (10000, 1, 28, 28)
    assert train.classes[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(test.classes).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert train.ids[17] == "train/00017"


def test_folder_with_splits_and_classes(splits_folder):
    train, test = open_splits(splits_folder)
    assert train.ids.tolist() == ["train/cat/0.png", "train/cat/1.png", "train/dog/0.png", "train/dog/1.png"]
    assert train.classes.tolist() == [0, 0, 1, 1]
    assert train.class_names == test.class_names == ("cat", "dog")
    assert (train.split, test.split, train.name) == ("train", "test", str(splits_folder))
    assert train.images.shape == (4, 3, 12, 12)
    assert len(open_dataset(splits_folder, split="all")) == 8
    pixels = np.asarray(Image.open(splits_folder / "test/dog/1.png")).transpose(2, 0, 1)
    np.testing.assert_array_equal(test.images[3], pixels)


def test_test_images_take_the_shape_of_the_training_images(tmp_path):
    photos(tmp_path, "train/1.png", "train/2.png")
    Image.new("L", (50, 40)).save(tmp_path / "train/3.png")
    (tmp_path / "test").mkdir()
    Image.new("L", (9, 9)).save(tmp_path / "test/1.png")
    train, test = open_splits(tmp_path)
    assert train.images.shape[1:] == test.images.shape[1:] == (3, 64, 64)


def test_the_same_images_give_the_same_dataset_from_folder_tar_manifest_and_zip(splits_folder, tmp_path):
    with tarfile.open(tmp_path / "pets.tar", "w") as archive:
        archive.add(splits_folder, arcname=".")
    import shutil

    shutil.make_archive(str(tmp_path / "pets"), "zip", splits_folder)
    first = open_dataset(splits_folder)
    rows = [f"{image_id},{image_id.split('/')[1]},train" for image_id in first.ids]
    (splits_folder / "m.csv").write_text("path,label,split\n" + "\n".join(rows))
    for data in (tmp_path / "pets.tar", tmp_path / "pets.zip", splits_folder / "m.csv"):
        other = open_dataset(data)
        assert other.fingerprint() == first.fingerprint()
        assert other.classes.tolist() == first.classes.tolist()
        assert other.class_names == first.class_names


@pytest.mark.parametrize("split", ["train", "test", "all"])
def test_data_without_splits_are_taken_whole(tmp_path, split):
    photos(tmp_path, "a.png", "b.png")
    from_folder = open_dataset(tmp_path, split=split)
    assert (len(from_folder), from_folder.split, from_folder.classes) == (2, split, None)
    from_array = open_dataset(np.zeros((2, 8, 8)), split=split)
    named = "train" if split == "all" else split  # as for `fit`, so that `check` and `predict` find what evidence names
    assert from_array.ids.tolist() == [f"{named}/00000", f"{named}/00001"]
    assert open_splits(tmp_path)[1] is None


def test_npz_with_splits_keeps_one_numbering_of_classes(tmp_path):
    pixels = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=pixels[:4], y_train=[5, 7, 5, 9], x_test=pixels[4:], y_test=[9, -1])
    train, test = open_splits(tmp_path / "a.npz")
    assert train.class_names == test.class_names == ("5", "7", "9")
    assert (train.classes.tolist(), test.classes.tolist()) == ([0, 1, 0, 2], [2, -1])
    assert test.ids.tolist() == ["test/00000", "test/00001"]


@pytest.mark.parametrize("key", ["x_val", "X_valid", "validation_images", "dev_x", "images_dev", "eval_x", "x_Test"])
def test_npz_names_its_test_split_in_every_usual_spelling(tmp_path, key):
    pixels = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", X_training=pixels[:4], training_labels=[0, 1, 0, 1], **{key: pixels[4:]})
    train, test = open_splits(tmp_path / "a.npz")
    assert (len(train), test.ids.tolist()) == (4, ["test/00000", "test/00001"])
    assert train.classes.tolist() == [0, 1, 0, 1]
    assert "for the test split (2 images)" in train.notes[0]


def test_npz_with_a_test_split_leaves_validation_images_out_and_says_so(tmp_path):
    pixels = RNG.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train=pixels[:3], val=pixels[3:5], test=pixels[5:])
    train, test = open_splits(tmp_path / "a.npz")
    assert (len(train), len(test)) == (3, 1)
    assert "Neither: 'val' (2 images), which `fit` leaves out: nothing is tuned on further splits." in train.notes
    np.savez(tmp_path / "b.npz", dev=pixels)
    assert len(open_dataset(tmp_path / "b.npz")) == 6


def test_npz_of_matrices_holds_embeddings(tmp_path):
    vectors = RNG.normal(size=(6, 5)) * 1000
    np.savez(tmp_path / "e.npz", x_train=vectors[:4], y_train=["b", "a", "a", ""], x_test=vectors[4:])
    train, test = open_splits(tmp_path / "e.npz")
    assert (train.holds_vectors, train.images.shape, test.images.shape) == (True, (4, 5), (2, 5))
    assert train.class_names == ("a", "b")
    assert train.classes.tolist() == [1, 0, 0, -1]
    assert train.name == str(tmp_path / "e.npz")
    np.savez(tmp_path / "one.npz", embeddings=vectors)
    everything = open_dataset(tmp_path / "one.npz", size=32, channels=3)  # which mean nothing here
    np.testing.assert_array_equal(everything.images, vectors.astype(np.float32))
    assert open_splits(tmp_path / "one.npz")[1] is None


def test_arrays_and_series_of_paths_keep_their_order(tmp_path):
    import pandas as pd

    photos(tmp_path, "b.png", "a.png", "c.png")
    paths = [str(tmp_path / name) for name in ("b.png", "c.png", "a.png")]
    for given in (paths, tuple(map(Path, paths)), np.array(paths), np.array(paths, dtype=object), pd.Series(paths)):
        assert open_dataset(given).ids.tolist() == ["b.png", "c.png", "a.png"]


def test_data_are_opened_as_a_model_wants_them(tmp_path):
    photos(tmp_path / "photos", "a.png", "b.png")
    assert open_like(tmp_path / "photos", (1, 6, 6)).images.shape == (2, 1, 6, 6)
    assert open_like(np.ones((3, 5)), (5,)).holds_vectors
    for data, shape, message in (
        (tmp_path / "photos", (5,), "fitted on ready embeddings of 5 features, and was given images"),
        (np.ones((3, 8, 8)), (5,), "fitted on ready embeddings of 5 features, and was given images"),
        (np.ones((3, 4)), (5,), "of 5 features, and was given ready embeddings of 4 features"),
        (np.ones((3, 4)), (1, 6, 6), "fitted on images, and was given ready embeddings of 4 features"),
    ):
        with pytest.raises(InputError, match=message):
            open_like(data, shape)


def test_splits_of_several_shapes_are_refused_together(tmp_path):
    np.savez(tmp_path / "e.npz", x_train=np.ones((4, 5)), x_test=np.ones((2, 6)))
    with pytest.raises(InputError, match="must have one shape"):
        open_dataset(tmp_path / "e.npz", split="all")
    np.savez(tmp_path / "e.npz", x_train=np.ones((4, 5)), x_test=np.ones((2, 8, 8)))
    with pytest.raises(InputError, match=r"Images must be an array .* got shape \(4, 5\)"):
        open_dataset(tmp_path / "e.npz", split="all")


def test_the_files_own_sizes_go_with_the_images(tmp_path):
    photos(tmp_path, "a.png", "b.png")
    Image.new("RGB", (30, 20)).save(tmp_path / "c.png")
    dataset = open_dataset(tmp_path)
    assert dataset.sizes.tolist() == [[12, 12], [12, 12], [30, 20]]
    assert dataset.subset([2]).sizes.tolist() == [[30, 20]]
    assert open_dataset("digits").sizes is None


def test_bad_images_are_skipped_with_their_reason(tmp_path):
    photos(tmp_path, *(f"{i}.png" for i in range(20)))
    (tmp_path / "7.png").write_bytes(b"no image")
    (tmp_path / "notes.txt").write_text("x")
    dataset = open_dataset(tmp_path)
    assert (len(dataset), dataset.ignored) == (19, 1)
    assert [bad.id for bad in dataset.skipped] == ["7.png"]
    assert "not an image" in dataset.skipped[0].reason
    assert "7.png" not in dataset.ids


def test_too_many_bad_images_stop_with_the_counts_and_the_remedy(tmp_path):
    photos(tmp_path, *(f"{i}.png" for i in range(20)))
    for i in (3, 5):
        (tmp_path / f"{i}.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"2 of 20 .* 0\.05\): '3.png': the file is empty; .*`allow_bad=0.1`"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, allow_bad=0.1)) == 18


def test_a_folder_of_only_bad_images_is_refused_whatever_is_allowed(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(InputError, match="1 of 1 images"):
        open_dataset(tmp_path, allow_bad=1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mnits", "Unknown dataset 'mnits'. Did you mean 'mnist'?"),
        ("photos/", "There is no file or folder 'photos/'"),
        ("photos.csv", "There is no file or folder 'photos.csv'"),
        ("~/no/such", "There is no file or folder '~/no/such'"),
        (Path("mnits"), "There is no file or folder 'mnits'"),
        ("a\0b", "There is no file or folder"),
        ("", "Unknown dataset ''"),
        (7, "The data must be a name, a path or an array of images, got int"),
        (np.zeros((0, 8, 8)), "'array' holds no images"),
    ],
)
def test_what_is_not_there_is_refused_in_one_sentence(given, message):
    with pytest.raises(InputError) as caught:
        open_dataset(given)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_and_files_without_images_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images; give one"):
        open_dataset(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"holds no images \(Passed over: 1 file of other kinds \(1 .txt\)\); give"):
        open_dataset(tmp_path)
    with pytest.raises(InputError, match="is not a collection of images"):
        open_dataset(tmp_path / "notes.txt")
    (tmp_path / "photos.tar.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(InputError, match="compressed with gzip"):
        open_dataset(tmp_path / "photos.tar.gz")


def test_a_missing_split_is_named(tmp_path):
    photos(tmp_path, "train/1.png")
    with pytest.raises(InputError, match="has no 'test' split, only 'train'"):
        open_dataset(tmp_path, split="test")


@pytest.mark.parametrize("options", [{"split": "trian"}, {"allow_bad": 2}, {"size": 0}, {"resize": "stretch"}])
def test_options_are_checked(options):
    with pytest.raises(InputError):
        open_dataset("digits", **options)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images_are_enough(tmp_path, n):
    photos(tmp_path, *(f"{i}.png" for i in range(n)))
    assert len(open_dataset(tmp_path)) == n
    assert len(open_dataset(np.zeros((n, 8, 8)))) == n


def test_subset_takes_rows_or_a_mask(splits_folder):
    dataset = open_dataset(splits_folder)
    chosen = dataset.subset([3, 0])
    assert chosen.ids.tolist() == ["train/dog/1.png", "train/cat/0.png"]
    assert chosen.classes.tolist() == [1, 0]
    np.testing.assert_array_equal(chosen.images, dataset.images[[3, 0]])
    assert chosen.original(0).size == (12, 12)
    assert dataset.subset(dataset.classes == 1).ids.tolist() == dataset.ids[2:].tolist()
    assert len(dataset.subset([])) == 0


def test_fingerprint_sees_pixels_ids_and_shape():
    images = RNG.integers(0, 256, (4, 8, 8), dtype=np.uint8)
    first = open_dataset(images).fingerprint()
    assert open_dataset(images.copy()).fingerprint() == first
    changed = images.copy()
    changed[3, 7, 7] ^= 1
    assert open_dataset(changed).fingerprint() != first
    assert open_dataset(images, split="test").fingerprint() != first
    assert open_dataset(images, channels=3).fingerprint() != first


@pytest.mark.parametrize(
    ("side", "asked", "expected", "kind"), [(200, 96, 96, "JPEG"), (200, 32, 32, "PNG"), (9, 96, 9, "PNG")]
)
def test_thumbnails_come_from_the_original(tmp_path, side, asked, expected, kind):
    photos(tmp_path, "a.png", side=side)
    dataset = open_dataset(tmp_path, size=8)
    with Image.open(io.BytesIO(dataset.thumbnail(0, asked))) as image:
        assert (image.size, image.format) == ((expected, expected), kind)


def test_thumbnails_of_arrays_and_vanished_files_come_from_the_pixels(tmp_path):
    photos(tmp_path, "a.png", side=20)
    dataset = open_dataset(tmp_path)
    (tmp_path / "a.png").unlink()
    assert dataset.original(0) is None
    with Image.open(io.BytesIO(dataset.thumbnail(0))) as image:
        np.testing.assert_array_equal(np.asarray(image).transpose(2, 0, 1), dataset.images[0])
    with Image.open(io.BytesIO(open_dataset("digits").thumbnail(0))) as image:
        assert (image.size, image.mode) == ((8, 8), "L")


def test_datasets_import_no_torch():
    import subprocess
    import sys

    code = "import sys, smidgen.data.datasets as d; d.open_dataset('digits'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_path_that_is_not_here_is_looked_for_in_the_data_folder(tmp_path, monkeypatch):
    folder = tmp_path / "data" / "photos.v2"
    folder.mkdir(parents=True)
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "a.png")
    monkeypatch.setenv("SMIDGEN_DATA", str(tmp_path / "data"))
    assert len(open_dataset("photos.v2")) == 1
    with pytest.raises(InputError, match="no file or folder"):
        open_dataset("photos.v3")
    with pytest.raises(InputError, match="photos"):  # could be a misspelt name
        open_dataset("photos")


def test_an_empty_test_split_is_called_empty(tmp_path):
    np.savez(tmp_path / "a.npz", x_train=np.zeros((2, 4), np.float32), x_test=np.zeros((0, 4), np.float32))
    with pytest.raises(InputError, match=r"The 'test' split of .* is empty"):
        open_splits(tmp_path / "a.npz")


def test_arrays_without_a_split_are_for_training_beside_those_for_tests(tmp_path):
    x, y = np.zeros((4, 8, 8), np.uint8), np.arange(4)
    for test in ("test", "val"):
        np.savez(tmp_path / "x.npz", **{"x": x, "y": y, f"x_{test}": x[:2], f"y_{test}": y[:2]})
        train, tests = open_splits(tmp_path / "x.npz")
        assert (train.classes.tolist(), tests.classes.tolist()) == ([0, 1, 2, 3], [0, 1])


def test_patterns_that_exclude_nothing_are_said(tmp_path):
    folder = photos(tmp_path, "black/0.png", "white/0.png")
    dataset = open_dataset(folder, exclude=["./black", "white\\0.png", "[[]x", "*.gif"])
    assert dataset.ids.tolist() == ["white/0.png"]
    assert dataset.notes[-1].startswith("Nothing is excluded by 'white\\\\0.png', '[[]x', '*.gif': patterns are as in")
    for wrong in (3, [1], "[z-a]"):
        with pytest.raises(InputError, match="`exclude` takes patterns like"):
            open_dataset(folder, exclude=wrong)
    assert len(open_dataset(folder, exclude=None)) == 2
