import numpy as np
import pytest
from PIL import Image

from smidgen.data.datasets import find_data, list_images, open_dataset, open_splits
from smidgen.errors import InputError


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder `photos` below the current one, with images that differ."""
    for i, name in enumerate(["cat/1.png", "cat/2.png", "cat/10.png", "dog/1.png", "dog/odd.1"]):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 10 * i).save(path, "PNG")
    (tmp_path / "photos/notes.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


@pytest.mark.parametrize(
    ("given", "ids"),
    [
        ("photos/cat/1.png", ["1.png"]),
        (["photos/cat/1.png"], ["1.png"]),
        ("photos/dog/odd.1", ["odd.1"]),
        (["photos/cat/2.png", "photos/cat/1.png"], ["2.png", "1.png"]),
        (["photos/dog/1.png", "photos/cat/1.png"], ["dog/1.png", "cat/1.png"]),
        (["photos/dog", "photos/cat/1.png"], ["dog/1.png", "dog/odd.1", "cat/1.png"]),
        ("photos/cat/*.png", ["1.png", "2.png", "10.png"]),
        ("photos/*/1.png", ["cat/1.png", "dog/1.png"]),
        ("photos/**/1?.png", ["cat/10.png"]),
        ("photos/*", ["cat/1.png", "cat/2.png", "cat/10.png", "dog/1.png", "dog/odd.1"]),
        (["photos/cat/1*", "photos/cat"], ["1.png", "10.png", "2.png"]),
    ],
)
def test_files_globs_and_several_paths(photos, given, ids):
    if given == ["photos/cat/1*", "photos/cat"]:  # the folder's own name begins the names
        ids = [f"cat/{name}" for name in ids]
    dataset = open_dataset(given)
    assert dataset.ids.tolist() == ids
    root = find_data(given)
    for image_id, image in zip(ids, dataset.images, strict=True):
        path = photos.parent / root / image_id if root.is_dir() else root
        np.testing.assert_array_equal(np.asarray(Image.open(path)), image[0])


def test_several_folders_are_classes_or_splits(photos):
    assert open_dataset(["photos/cat", "photos/dog"]).class_names == ("cat", "dog")
    photos.rename(photos.with_name("train"))
    Image.new("L", (8, 8), 99).save(photos.parent / "one.png")
    (photos.parent / "val").mkdir()
    (photos.parent / "one.png").rename(photos.parent / "val/one.png")
    train, test = open_splits(["train", "val"])
    assert (len(train), test.ids.tolist()) == (5, ["val/one.png"])


def test_globs_are_found_in_smidgen_data_and_a_file_of_that_name_wins(photos, monkeypatch):
    Image.new("L", (8, 8)).save(photos / "a[1].png")
    assert open_dataset("photos/a[1].png").ids.tolist() == ["a[1].png"]
    monkeypatch.chdir("/")
    monkeypatch.setenv("SMIDGEN_DATA", str(photos.parent))
    assert open_dataset("photos/cat/*.png").ids.tolist() == ["1.png", "2.png", "10.png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("photos/*.jpg", "No file or folder matches 'photos/*.jpg'"),
        (["photos/cat/1.png", "nowhere.png"], "There is no file or folder 'nowhere.png'"),
        (["photos/cat", "photos/cat"], "'photos/cat' is given 2 times"),
        (["photos/cat", "digits"], "'digits' is the name of a dataset"),
        ("photos/notes.txt", "is not a collection of images"),
        (["photos/notes.txt", "photos/notes.tx?"], "holds no images"),
        ([], "must be a name, a path or an array"),
    ],
)
def test_what_is_not_there_is_said_in_one_sentence(photos, given, message):
    with pytest.raises(InputError) as caught:
        open_dataset(given)
    assert message in str(caught.value)


def test_excluded_files_are_not_listed_and_arrays_have_none(photos):
    assert open_dataset("photos", exclude="*/1.png").ids.tolist() == ["cat/2.png", "cat/10.png", "dog/odd.1"]
    assert len(list_images("photos")) == 5
    with pytest.raises(InputError, match=r"holds no images \(.* Excluded: 'cat/', 'dog/'\); give"):
        open_dataset("photos", exclude="*/")
    with pytest.raises(InputError, match="'digits' is made of arrays"):
        open_dataset("digits", exclude=["*.png"])


def test_globs_pass_over_system_folders_that_they_do_not_name(tmp_path):
    for name in ("a/0.png", "a/@eaDir/0.png", "$RECYCLE.BIN/x/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / name)
    dataset = open_dataset(f"{tmp_path}/**/*.png")
    assert dataset.ids.tolist() == ["a/0.png"]
    assert "Passed over: hidden and system files and folders, '$RECYCLE.BIN', '@eaDir'." in dataset.notes
    assert open_dataset(f"{tmp_path}/*/@eaDir/*.png").ids.tolist() == ["a/@eaDir/0.png"]
