"""Ready embeddings all the way: read, batched, standardised, encoded, and fitted into a run folder."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from smidgen.config import Config
from smidgen.data.batches import Request
from smidgen.data.datasets import open_dataset, open_like, open_splits
from smidgen.data.loader import Loader
from smidgen.data.views import View, weak_and_strong
from smidgen.errors import ContractError, InputError
from smidgen.estimator import ImageClusterer
from smidgen.evidence.evidence import Evidence
from smidgen.exports.folders import find_originals
from smidgen.fitting import fit
from smidgen.listener import Listener
from smidgen.methods.kmeans import KMeans
from smidgen.model import Model
from smidgen.nets.encoders import VectorEncoder, make_encoder
from smidgen.run_folder import RunFolder
from smidgen.setup.problem import _channel_statistics

BLOBS, CLASSES = make_blobs(n_samples=60, centers=3, n_features=5, cluster_std=0.5, random_state=0)
QUICK = Config("array", method="kmeans", n_clusters=3, threads=1)


class Ear(Listener):
    def __init__(self):
        self.said = []

    def log(self, text):
        self.said.append(text)


# ---------------------------------------------------------------------------------------------------------------- data


def test_a_matrix_is_a_dataset_of_vectors():
    dataset = open_dataset(BLOBS * 1000)
    assert dataset.holds_vectors
    assert dataset.images.shape == (60, 5)
    np.testing.assert_array_equal(dataset.images, (BLOBS * 1000).astype(np.float32))
    assert dataset.ids[:2].tolist() == ["train/00000", "train/00001"]
    assert open_splits(BLOBS)[1] is None
    assert not open_dataset("digits").holds_vectors


def test_other_numbers_have_another_fingerprint():
    assert open_dataset(BLOBS).fingerprint() == open_dataset(BLOBS.copy()).fingerprint()
    assert open_dataset(BLOBS).fingerprint() != open_dataset(BLOBS + 1e-3).fingerprint()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((3, 0)), r"matrix \(n, features\) of numbers, got float64 of shape \(3, 0\)"),
        (np.array([["a", "b"]]), "matrix"),
        (np.ones((2, 2), dtype=complex), "got complex128"),
        (np.array([[1.0], [np.nan], [np.inf]]), "NaN or infinity in 2 of 3 rows, first in row 1"),
        (np.array([[1.0], [1e300]]), "values up to 1e.300: multiply"),
        (np.zeros((0, 4)), "holds no images"),
    ],
)
def test_what_is_no_embedding_is_refused(wrong, message):
    with pytest.raises(InputError, match=message):
        open_dataset(wrong)


def test_batches_and_statistics_take_floats_as_they_are():
    images = open_dataset(BLOBS * 1000).images
    assert (
        Loader(images, device=torch.device("cpu")).floats(torch.tensor([3, 1])).equal(torch.from_numpy(images[[3, 1]]))
    )
    mean, std = _channel_statistics(np.tile(images, (40, 1)))  # more rows than one block
    np.testing.assert_allclose(mean, images.mean(0, dtype=float).ravel())
    np.testing.assert_allclose(std, images.std(0, dtype=float).ravel())


# ------------------------------------------------------------------------------------------------- images of one pixel

COLOURS = (np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]])[CLASSES] + np.arange(60)[:, None] % 6).astype(np.uint8)
PIXELS = COLOURS[:, :, None, None]


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("kmeans", {}),
        ("kmeans", {"features": "encoder"}),
        ("supervised", {"steps": 2}),
        ("fusion-images", {"steps": 2, "refine_steps": 2, "batch_size": 8}),
        ("ucc", {"steps": 2, "bags": 3, "bag_size": "4", "reconstruction": "ssim"}),
        ("deepcluster", {"preset": "small", "steps": 2}),
        ("swav", {"preset": "small", "steps": 2}),
    ],
)
def test_pictures_of_one_pixel_are_pictures(method, options, tmp_path):
    config = Config("array", method=method, n_clusters=3, threads=1, issues=False, options=options)
    evidence = Evidence.from_labels(CLASSES) if method in ("supervised", "ucc") else None
    outcome = fit(config, data=PIXELS, evidence=evidence)
    assert (outcome.train.shape, outcome.train.holds_vectors) == ((3, 1, 1), False)
    assert not outcome.model.method.problem.holds_vectors
    outcome.model.save(tmp_path)
    again = Model.load(tmp_path)
    assert again.shape == (3, 1, 1)
    same = open_like(PIXELS, again.shape)
    assert (again.assign(same.images) == outcome.assignments).all()
    with pytest.raises(InputError, match="was fitted on images, and was given ready embeddings of 3 features"):
        open_like(COLOURS.astype(float), again.shape)


def test_an_estimator_of_pictures_of_one_pixel_takes_no_matrix_and_the_reverse():
    pictures = ImageClusterer(3, method="kmeans", random_state=0).fit(PIXELS)
    vectors = ImageClusterer(3, method="kmeans", random_state=0).fit(COLOURS.astype(float))
    assert (pictures.predict(PIXELS) == pictures.labels_).all()
    assert (vectors.predict(COLOURS.astype(float)) == vectors.labels_).all()
    with pytest.raises(InputError, match="fitted on images, and was given a matrix"):
        pictures.predict(COLOURS.astype(float))
    with pytest.raises(InputError, match="fitted on ready embeddings, and was given images"):
        vectors.predict(PIXELS)


# ----------------------------------------------------------------------------------------------------- methods' authors


class OfImages(KMeans):
    """A method that knows only images."""

    def __init__(self, config, problem):
        super().__init__(config, problem)
        self.channels, self.height, self.width = problem.image_shape


def test_a_method_of_images_refuses_vectors_in_a_sentence(monkeypatch):
    monkeypatch.setattr("smidgen.methods.kmeans.KMeans", OfImages)
    with pytest.raises(InputError, match=r"works on images, and the data are vectors of 5 features: give images, or"):
        fit(QUICK, data=BLOBS)
    fit(QUICK, data=PIXELS)


def test_a_view_of_vectors_is_the_method_s_mistake():
    loader = Loader(open_dataset(BLOBS).images, device=torch.device("cpu"))
    for view in (View(rotate=10), View(), (None, View(flip=True))):
        gathered = loader.gather({"rows": Request(torch.arange(3), view)})
        with pytest.raises(ContractError, match=r"Vectors have no views: .* `problem\.holds_vectors`"):
            loader.parts(gathered, key=(0,))


# ---------------------------------------------------------------------------------------------------------------- nets


def test_the_small_net_becomes_the_one_for_vectors():
    net = make_encoder("conv", (5,), mean=(0.0,) * 5, std=(1.0,) * 5)
    assert isinstance(net, VectorEncoder)
    assert weak_and_strong((5,)) == (None, None)
    for name, shape in (("lite0", (5,)), ("vectors", (1, 8, 8))):
        with pytest.raises(InputError, match="wants"):
            make_encoder(name, shape, mean=(0.0,) * shape[0], std=(1.0,) * shape[0])


def test_a_vector_s_embedding_depends_on_neither_scale_nor_the_other_vectors():
    def embeddings(scale):
        torch.manual_seed(0)
        x = torch.from_numpy(open_dataset(BLOBS * scale).images)
        mean, std = _channel_statistics(x.numpy())
        net = make_encoder("vectors", (5,), mean=mean, std=std).eval()
        with torch.no_grad():
            return net(x), torch.cat([net(torch.cat([x[i : i + 1], x[:59]]))[:1] for i in range(60)])

    together, alone = embeddings(1)
    assert together.shape == (60, 128)
    assert together.equal(alone)
    torch.testing.assert_close(embeddings(1e-8)[0], together, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["wide-residual", "unet", "unet-no-skips", "lite0", "sobel:conv", "konv"])
def test_encoders_of_images_refuse_vectors(name):
    with pytest.raises(InputError, match=f"{name}' wants images, and these are embeddings: use 'vectors'"):
        make_encoder(name, (5,), mean=(0.0,) * 5, std=(1.0,) * 5)


def test_vectors_have_no_structural_similarity():
    config = Config("array", method="ucc", n_clusters=3, options={"reconstruction": "ssim"})
    with pytest.raises(InputError, match="compares images, and these are ready embeddings: take mse or none"):
        fit(config, data=BLOBS, evidence=Evidence.from_labels(CLASSES))


def test_a_constant_feature_is_only_centred():
    net = make_encoder("vectors", (2,), mean=(7.0, 0.0), std=(1e-9, 0.0))
    x = torch.tensor([[7.0, 0.0]])
    assert net.normalise(x).abs().max() == 0
    assert net.normalise(x + 1).abs().max() == 1


# ----------------------------------------------------------------------------------------------------------------- fits


def test_a_run_of_embeddings_has_everything_but_pictures(tmp_path):
    listener = Ear()
    outcome = fit(QUICK, data=BLOBS, test=BLOBS[:7], out=tmp_path / "run", listener=listener)
    run = RunFolder.open(tmp_path / "run")
    assert run.finished
    assert (run.path / "report.html").exists()
    assert not (run.path / "thumbnails.parquet").exists()
    assert run.manifest["data"]["shape"] == [5]
    assert listener.said == ["60 training embeddings of 5 features, 7 test embeddings."]
    again = Model.load(tmp_path / "run").assign(outcome.train.images)
    assert (again == outcome.assignments).all()


@pytest.mark.parametrize(
    ("test", "kind"),
    [(BLOBS[:, :3], "embeddings of 3 features"), (np.zeros((7, 8, 8)), "grey images of 8×8 pixels")],
)
def test_test_data_of_another_kind_are_refused(test, kind):
    with pytest.raises(InputError, match=f"training data are embeddings of 5 features and the test data {kind}: give"):
        fit(QUICK, data=BLOBS, test=test)


@pytest.mark.parametrize(
    ("train", "test"),
    [(BLOBS, BLOBS[:, :4]), (BLOBS, np.zeros((7, 8, 8), np.uint8)), (np.zeros((60, 8, 8), np.uint8), BLOBS)],
)
def test_a_split_of_its_own_that_does_not_fit_is_refused_before_anything_is_written(tmp_path, train, test):
    np.savez(tmp_path / "data.npz", x_train=train, x_test=test)
    mine = dataclasses.replace(QUICK, data=str(tmp_path / "data.npz"))
    with pytest.raises(InputError, match=r"The training data are .* and the test data .*: give both as the same"):
        fit(mine, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_fit_resolves_evidence_itself_and_says_which_images_it_was_about():
    config = Config("array", method="supervised", n_clusters=4, threads=1, options={"steps": 20, "batch_size": 32})
    names = np.array(["x", "y", "10"])
    outcome = fit(config, data=BLOBS, evidence=Evidence.from_labels(names[CLASSES]))
    assert outcome.model.cluster_names == ("10", "x", "y", "3")
    found = np.array(outcome.model.cluster_names)[outcome.assignments.argmax(1)]
    assert (found == names[CLASSES]).all()
    with pytest.raises(InputError, match="names 3 classes"):
        fit(Config("array", n_clusters=2), data=BLOBS, evidence=Evidence.from_labels(CLASSES))


@pytest.mark.parametrize("setting", [{"size": 8}, {"channels": 1}, {"value_range": "0:1"}])
def test_settings_of_images_are_refused_for_embeddings(setting):
    with pytest.raises(InputError, match=f"`{next(iter(setting))}` is about images"):
        fit(dataclasses.replace(QUICK, **setting), data=BLOBS)


def test_embeddings_are_not_put_into_folders(tmp_path):
    np.savez(tmp_path / "e.npz", x=BLOBS)
    fit(dataclasses.replace(QUICK, data=str(tmp_path / "e.npz"), issues=False), out=tmp_path / "run")
    run = RunFolder.open(tmp_path / "run")
    with pytest.raises(InputError, match="is of ready embeddings: there are no images"):
        find_originals(run, data=None, link=False, splits={"train"}, listener=Listener())
