"""Images given one by one in Python, to the estimator and to the functions."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from smidgen import Config, ImageClusterer, fit, open_dataset
from smidgen.data.images import load_image
from smidgen.errors import InputError

DIGITS = np.rint(load_digits().images[:30] * 255 / 16).astype(np.uint8)
LARGE = [np.kron(digit, np.ones((1 + row % 3,) * 2, np.uint8)) for row, digit in enumerate(DIGITS)]  # of three sizes


def kmeans(**changes):
    return ImageClusterer(3, method="kmeans", random_state=0, **changes)


@pytest.fixture
def files(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    paths = [tmp_path / ("train" if row % 2 else "test") / f"{row}.png" for row in range(30)]
    for path, digit in zip(paths, DIGITS, strict=True):
        Image.fromarray(digit).save(path)
    return paths


class Column:
    """A column of a table, as far as NumPy sees it."""

    ndim = 1

    def __init__(self, values):
        self.values = np.array(values, dtype=object)
        self.dtype = type("ObjectDtype", (), {"kind": "O"})()

    def __array__(self, dtype=None, copy=None):
        return self.values.astype(dtype or object)

    def __len__(self):
        return len(self.values)

    def tolist(self):
        return self.values.tolist()


WAYS = {
    "paths": list,
    "texts": lambda paths: [str(path) for path in paths],
    "tuple": lambda paths: tuple(map(str, paths)),
    "array of texts": lambda paths: np.array(list(map(str, paths))),
    "array of paths": lambda paths: np.array(paths, dtype=object),
    "column": lambda paths: Column(list(map(str, paths))),
    "bytes": lambda paths: [path.read_bytes() for path in paths],
    "Pillow": lambda paths: [Image.open(path) for path in paths],
    "mixed": lambda paths: [paths[0], Image.open(paths[1]), *DIGITS[2:]],
    "arrays": lambda _: list(DIGITS),
    "tensors": lambda _: list(torch.from_numpy(DIGITS)),
    "tensor": lambda _: torch.from_numpy(DIGITS),
    "nested lists": lambda _: DIGITS.tolist(),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_give_images_one_by_one_gives_the_same(files, way):
    X = WAYS[way](files)
    model = kmeans().fit(DIGITS)
    assert (kmeans().fit(X).labels_ == model.labels_).all()  # in this order, one row each, in spite of train/ and test/
    assert (model.predict(X) == model.labels_).all()
    assert (model.transform(X) == model.transform(DIGITS)).all()
    assert (open_dataset(X, split="all", size=8).images[:, 0].sum((1, 2)) == DIGITS.sum((1, 2))).all()


def test_images_of_different_sizes_become_squares_of_one(files):
    first = open_dataset([Image.fromarray(image) for image in LARGE])
    assert first.images.shape == (30, 1, 64, 64)
    assert (open_dataset(LARGE).images == first.images).all()
    assert (open_dataset([image.astype(np.uint16) for image in LARGE]).images == first.images).all()
    assert first.sizes[:3].tolist() == [[8, 8], [16, 16], [24, 24]]
    assert first.thumbnail(0)
    colour = [np.repeat(image[..., None], 3, axis=2) for image in LARGE]
    for images in (colour, [image.transpose(2, 0, 1) for image in colour]):
        assert (open_dataset(images).images == first.images).all()
    assert (kmeans().fit(LARGE).predict(LARGE[:4]) == kmeans().fit(LARGE).labels_[:4]).all()


def test_pillow_images_are_upright_and_keep_palette_transparency_and_depth():
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(LARGE[1][:8]).save(buffer, "PNG", exif=exif)
    palette = Image.frombytes("P", (2, 2), bytes([0, 1, 0, 1]))
    palette.putpalette([200, 0, 0, 0, 100, 0])
    clear = Image.new("LA", (2, 2), (0, 0))
    deep = Image.fromarray(np.full((2, 2), 4095, np.uint16))
    for image, data in ((Image.open(buffer), buffer.getvalue()), (palette, None), (clear, None), (deep, None)):
        expected = data or as_png(image)
        assert (load_image(image) == load_image(expected)).all()
    assert load_image(clear).min() == 255


def as_png(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def test_labels_by_row_go_with_files_too_and_skip_the_unreadable(files):
    files[3].write_bytes(b"no image")
    labels = np.arange(30) % 3
    with pytest.warns(UserWarning, match="1 images of '30 files' could not be read and have no row"):
        model = ImageClusterer(3, method="supervised", random_state=0, options={"steps": 3}).fit(files, evidence=labels)
    assert len(model.labels_) == 29
    assert model.image_ids_[:3].tolist() == ["test/0.png", "train/1.png", "test/2.png"]


def test_a_file_given_twice_has_two_rows(files):
    model = kmeans().fit([*files, files[0]])
    assert len(model.labels_) == 31
    assert model.labels_[0] == model.labels_[-1]
    assert model.image_ids_[-1] == "test/0.png#2"


def test_functions_take_them_too(files, tmp_path):
    outcome = fit(Config(data="files", method="kmeans", n_clusters=3), data=LARGE, out=tmp_path / "run")
    assert len(outcome.assignments) == 30
    assert (tmp_path / "run" / "thumbnails.parquet").exists()
    assert load_image(str(files[0]), channels=1).tolist() == [DIGITS[0].tolist()]
    assert load_image(DIGITS[0], channels=1).tolist() == [DIGITS[0].tolist()]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": DIGITS}, "got dict"),
        ({1, 2}, "got set"),
        (None, "got NoneType"),
        (3, "got int"),
        ([], "got an empty list"),
        ((digit for digit in DIGITS), "got generator"),
        (Image.fromarray(DIGITS[0]), "put it into a list"),
        (DIGITS[0].tobytes(), "put it into a list"),
        ([Image.fromarray(DIGITS[0]), None], "Entry 1 of the data is None"),
        ([Image.fromarray(DIGITS[0]), 7], "Entry 1 of the data is 7"),
        (["nowhere/a.png", "nowhere/b.png"], "There is no file or folder 'nowhere/a.png'"),
        ([[1, 2], [3]], "rows of different shapes"),
        ([np.zeros(3), np.zeros(4)], "rows of different shapes"),
        ([np.zeros((4, 4)), np.full((5, 5), np.nan)], "not finite"),
        (np.zeros((40, 30, 3)), r"of shape \(40, 30, 3\) is one image"),
    ],
)
def test_what_is_neither_is_refused_in_one_sentence(given, message):
    for use in (lambda: open_dataset(given), lambda: kmeans().fit(given), lambda: kmeans().fit(DIGITS).predict(given)):
        with pytest.raises(InputError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("size", [8.0, np.int64(8), np.float32(8)])
def test_whole_numbers_of_any_kind_are_sizes(size):
    assert open_dataset(DIGITS, size=size, channels=np.int32(3)).images.shape == (30, 3, 8, 8)
    assert kmeans(size=size, n_threads=np.int64(1)).fit(DIGITS).labels_.shape == (30,)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": "8"}, "`size` must be a whole number"),
        ({"size": 8.5}, "`size` must be a whole number"),
        ({"channels": "rgb"}, "`channels` must be a whole number, got 'rgb'"),
        ({"allow_bad": "few"}, "`allow_bad` must be a number from 0 to 1, got 'few'"),
        ({"resize": None}, "way to resize"),
    ],
)
def test_other_options_are_refused_in_one_sentence(options, message):
    with pytest.raises(InputError, match=message):
        open_dataset(DIGITS, **options)


@pytest.mark.parametrize("n_clusters", [3.0, np.int64(3), np.float64(3)])
def test_whole_numbers_of_any_kind_are_numbers_of_clusters(n_clusters):
    model = ImageClusterer(n_clusters, method="kmeans", random_state=0).fit(DIGITS)
    assert (len(model.cluster_names_), model.config_.n_clusters) == (3, 3)


@pytest.mark.parametrize("n_clusters", [3.5, True, -1, np.nan, [3]])
def test_other_numbers_of_clusters_are_refused_in_one_sentence(n_clusters):
    with pytest.raises(InputError, match=r"`n_clusters` must be a whole number, 1 or above, got"):
        ImageClusterer(n_clusters, method="kmeans").fit(DIGITS)


def closed(image):
    image = Image.fromarray(image)
    image.close()
    return image


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.utils.data.DataLoader(torch.zeros(3, 4, 4)), "got a DataLoader"),
        ([io.BytesIO(b"")] * 3, "got a list of BytesIO"),
        (np.zeros((1, 3, 4, 4, 1)), r"got shape \(1, 3, 4, 4, 1\)"),
        (np.ma.array(DIGITS, mask=DIGITS > 9), "masked values"),
        ([closed(DIGITS[0])] * 3, "cannot be read"),
    ],
)
def test_other_objects_are_refused_in_one_sentence_by_fit(given, message):
    with pytest.raises(InputError, match=message):
        kmeans().fit(given)


def test_images_in_bfloat16_are_taken():
    same = torch.from_numpy(DIGITS).bfloat16()
    assert (open_dataset(same, value_range=(0, 16)).images == open_dataset(DIGITS, value_range=(0, 16)).images).all()


@pytest.mark.parametrize("random_state", [1.5, "0", np.random.default_rng(0)])
def test_other_random_states_are_refused_in_one_sentence(random_state):
    with pytest.raises(InputError, match="`random_state` must be a seed"):
        ImageClusterer(3, method="kmeans", random_state=random_state).fit(DIGITS)
