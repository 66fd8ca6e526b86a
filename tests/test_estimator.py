"""The estimator: scikit-learn's own checks, everything it takes as X, evidence, and what it leaves alone."""

import pickle
import random
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs
from sklearn.exceptions import NotFittedError
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from smidgen import Evidence, ImageClusterer, fitting
from smidgen.csv_tables import read_csv
from smidgen.errors import InputError, RunError
from smidgen.training.interrupts import Interrupted

QUICK = {"steps": 12, "refine_steps": 2, "batch_size": 64}
BLOBS, CLASSES = make_blobs(n_samples=60, centers=3, n_features=5, cluster_std=0.5, random_state=0)
DIGITS = load_digits().images[:60] / 16


def kmeans(n_clusters=3, **changes):
    return ImageClusterer(n_clusters, method="kmeans", random_state=0, **changes)


def fusion(n_clusters=3, **options):
    return ImageClusterer(n_clusters, random_state=0, options=QUICK | options)


@pytest.fixture
def folder(tmp_path):
    """A folder of 60 digits as PNG files, in the order of DIGITS."""
    (tmp_path / "photos").mkdir()
    for row, pixels in enumerate(DIGITS):
        Image.fromarray(np.rint(pixels * 255).astype(np.uint8)).save(tmp_path / "photos" / f"{row:02d}.png")
    return tmp_path / "photos"


@parametrize_with_checks([kmeans(), fusion()])
def test_scikit_learn_s_checks_pass(estimator, check):
    check(estimator)


# --------------------------------------------------------------------------------------------------------- the package


def test_importing_smidgen_imports_nothing_slow():
    code = (
        "import sys, smidgen; dir(smidgen); known = set(sys.modules) & {'torch', 'numpy', 'sklearn', 'PIL'};"
        " assert not known, known; from smidgen import Config; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_public_names_are_there_and_others_are_not():
    import smidgen

    assert {name for name in dir(smidgen) if not name.startswith("_")} >= set(smidgen.__all__)
    assert all(getattr(smidgen, name).__name__ == name for name in smidgen.__all__)
    with pytest.raises(AttributeError, match="no attribute 'ImageCluster'"):
        _ = smidgen.ImageCluster


# --------------------------------------------------------------------------------------------------------------- images


@pytest.mark.parametrize("make", [kmeans, fusion])
def test_every_layout_of_the_same_images_gives_the_same(make, folder):
    model = make().fit(folder)
    as_bytes = np.rint(DIGITS * 255).astype(np.uint8)
    for images in (as_bytes, as_bytes[..., None], as_bytes[:, None], DIGITS, DIGITS.tolist(), str(folder)):
        assert (model.predict(images) == model.labels_).all()
    assert (make().fit(as_bytes).labels_ == model.labels_).all()
    assert model.image_ids_[:2].tolist() == ["00.png", "01.png"]
    assert model.n_features_in_ == 64


def test_assignments_and_embeddings_have_a_row_per_image():
    model = fusion().fit(DIGITS)
    assignments = model.predict_proba(DIGITS[:7])
    assert assignments.shape == (7, 3)
    np.testing.assert_allclose(assignments.sum(1), 1, rtol=1e-5)
    assert model.transform(DIGITS[:7]).shape == (7, 128)
    assert model.transform(DIGITS[:7]).dtype == np.float32
    assert (model.transform(DIGITS)[3] == model.transform(DIGITS[3:4])[0]).all()


def test_a_named_dataset_trains_on_its_training_split_and_is_scored_on_its_test_split():
    model = kmeans(n_clusters=None).fit("digits")
    assert len(model.labels_) == 1438
    assert len(model.cluster_names_) == 10
    assert model.metrics_["test_accuracy"] > 0.6
    assert (model.predict("digits") == model.labels_).all()


def test_new_images_are_made_like_the_training_images():
    model = kmeans().fit(DIGITS)
    large_and_colourful = np.kron(np.rint(DIGITS * 255).astype(np.uint8), np.ones((1, 2, 2), np.uint8))
    colour = np.repeat(large_and_colourful[..., None], 3, axis=3)
    assert (model.predict(colour) == model.labels_).mean() > 0.9


def test_paths_have_a_row_each_in_their_order_and_patterns_leave_files_out(folder):
    paths = sorted(map(str, folder.iterdir()), reverse=True)
    backwards = kmeans().fit(paths)
    assert backwards.image_ids_.tolist() == [f"{row:02d}.png" for row in range(59, -1, -1)]
    np.testing.assert_array_equal(backwards.predict(paths[::-1]), backwards.labels_[::-1])
    np.testing.assert_array_equal(backwards.predict(f"{folder}/0*.png"), backwards.labels_[:-11:-1])
    without = kmeans(exclude=["0*"]).fit(folder)
    assert without.image_ids_[0] == "10.png"
    assert len(without.predict(folder)) == 50


def test_some_classes_of_a_named_dataset_are_fitted_and_predicted():
    model = ImageClusterer(None, method="kmeans", classes=["0", "1"], random_state=0).fit("digits")
    assert (len(model.cluster_names_), len(model.labels_), len(model.predict("digits"))) == (2, 312, 312)


def test_unreadable_images_have_no_row_and_a_warning_says_so(folder):
    (folder / "10.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match=r"1 images of .* could not be read and have no row, first '10.png'"):
        model = kmeans().fit(folder)
    assert len(model.labels_) == 59
    assert "10.png" not in model.image_ids_
    with pytest.warns(UserWarning, match="have no row"):
        assert (model.predict(folder) == model.labels_).all()
    with pytest.raises(InputError, match=r"1 of 60 images .* cannot be read"):
        kmeans(allow_bad=0).fit(folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.full((60, 8, 8), np.nan), "must be finite, got NaN or infinity in 60 of 60, first in row 0"),
        (np.zeros((60, 4, 8, 8)), None),
        (np.zeros((60, 2, 8, 8)), "1, 3 or 4 channels"),
        ("no-such-dataset", "Unknown dataset"),
        (DIGITS[:2], "3 clusters were wanted of 2 images"),
        (np.zeros((60, 2, 2, 2, 3)), r"got shape \(60, 2, 2, 2, 3\)"),
        (["a.png", "b.png"], "There is no file or folder 'a.png'"),
    ],
)
def test_what_is_no_image_is_refused_in_a_sentence(given, message):
    if message is None:  # four channels: the last is transparency
        assert len(kmeans().fit(given).labels_) == 60
        return
    with pytest.raises(ValueError, match=message):
        kmeans().fit(given)


def test_time_ends_a_fit():
    model = ImageClusterer(3, random_state=0, max_seconds=1e-3, options={"steps": 50}).fit(DIGITS)
    assert (model.metrics_["steps"], model.metrics_["stopped_early"]) == (6, True)  # the fewest
    with pytest.raises(InputError, match="`max_seconds` must be a number above 0"):
        model.set_params(max_seconds=-1).fit(DIGITS)


def test_a_model_of_images_refuses_embeddings_and_the_other_way_round():
    with pytest.raises(InputError, match="fitted on images, and was given a matrix"):
        kmeans().fit(DIGITS).predict(BLOBS)
    with pytest.raises(InputError, match="fitted on ready embeddings, and was given images"):
        kmeans().fit(BLOBS).predict(DIGITS)


# ----------------------------------------------------------------------------------------------------------- embeddings


@pytest.mark.parametrize("scale", [1e-28, 1e-12, 1, 1e12, 1e18, 1e28])
@pytest.mark.parametrize("make", [kmeans, lambda: fusion(steps=60)])
def test_embeddings_of_any_scale_are_clustered(make, scale):
    found = make().fit(BLOBS * scale)
    assert adjusted_rand_score(CLASSES, found.labels_) > 0.9
    assert adjusted_rand_score(CLASSES, found.predict_proba(BLOBS * scale).argmax(1)) > 0.9


@pytest.mark.parametrize("change", ["offset", "constant feature", "large feature"])
def test_embeddings_with_an_offset_or_odd_features_are_clustered(change):
    x = BLOBS.astype(np.float64)
    x = {"offset": x + 1e6, "constant feature": np.c_[x, np.full(len(x), 1e20)]}.get(change, x * [1e20, 1, 1, 1, 1])
    assert adjusted_rand_score(CLASSES, fusion(steps=60).fit_predict(x)) > 0.9
    if change != "large feature":  # distances are as large
        assert adjusted_rand_score(CLASSES, kmeans().fit_predict(x)) > 0.9


@pytest.mark.parametrize(
    ("x", "words"),
    [(BLOBS * 1e-200, "multiply them"), (BLOBS * 1e200, "multiply them"), (BLOBS + 1e12, "subtract the mean")],
)
def test_embeddings_that_float32_cannot_hold_are_refused(x, words):
    with pytest.raises(InputError, match=words):
        kmeans().fit(x)


def test_the_names_of_the_features_say_who_made_them():
    names = kmeans().fit(BLOBS).get_feature_names_out()
    assert names.tolist() == [f"imageclusterer{i}" for i in range(5)]
    with pytest.raises(NotFittedError):
        kmeans().get_feature_names_out()


# ------------------------------------------------------------------------------------------------------------- evidence


def supervised(n_clusters=3):
    return ImageClusterer(n_clusters, method="supervised", random_state=0, options={"steps": 30, "batch_size": 64})


@pytest.mark.parametrize("kind", ["list", "array", "evidence"])
def test_labels_are_evidence_and_name_the_clusters(kind):
    names = np.array(["cat", "dog", "emu"])
    labels = np.where(np.arange(60) % 3 == 0, names[CLASSES], "")
    given = {"list": [x or None for x in labels], "array": labels, "evidence": Evidence.from_labels(labels)}[kind]
    model = supervised(4).fit(BLOBS, evidence=given)
    assert (model.cluster_names_[model.labels_] == names[CLASSES]).all()
    assert model.cluster_names_.tolist() == ["cat", "dog", "emu", "3"]


def test_the_fit_uses_the_evidence_and_ignores_y():
    apart = Evidence.from_pairs(different=[(0, 1)])
    plain = fusion().fit(DIGITS)
    assert (fusion().fit(DIGITS, np.arange(60)).predict_proba(DIGITS) == plain.predict_proba(DIGITS)).all()
    assert (fusion().fit(DIGITS, evidence=apart).predict_proba(DIGITS) != plain.predict_proba(DIGITS)).any()


def test_no_two_clusters_have_the_same_name():
    labels = np.where(CLASSES == 0, 2, -1)
    assert supervised().fit(BLOBS, evidence=labels).cluster_names_.tolist() == ["2", "1", "cluster 2"]


def test_evidence_names_the_files_of_a_folder(folder):
    found = fusion().fit(folder, evidence=Evidence.from_labels(["x", "y"], ids=["00.png", "01.png"]))
    assert found.cluster_names_.tolist() == ["x", "y", "2"]
    with pytest.raises(InputError, match="Labels by row go with arrays only"):
        fusion().fit(folder, evidence=[1] * 60)


@pytest.mark.parametrize("wrong", [[0, 1], CLASSES[:, None], "labels.csv"])
def test_evidence_that_is_no_label_per_row_is_refused(wrong):
    with pytest.raises(InputError, match="one label for each of 60 rows"):
        kmeans().fit(BLOBS, evidence=wrong)


def test_evidence_of_more_classes_than_clusters_is_refused():
    with pytest.raises(InputError, match="names 3 classes"):
        kmeans(n_clusters=2).fit(BLOBS, evidence=CLASSES)


# -------------------------------------------------------------------------------------------- scikit-learn's machinery


def test_it_works_at_the_end_of_a_pipeline():
    pipeline = make_pipeline(StandardScaler(), supervised()).fit(BLOBS, imageclusterer__evidence=CLASSES)
    assert (pipeline.predict(BLOBS) == CLASSES).all()
    assert pipeline.score(BLOBS) > 0.8


def test_it_works_in_the_middle_of_a_pipeline():
    assert make_pipeline(fusion(), StandardScaler()).fit_transform(BLOBS).shape == (60, 16)


def test_a_grid_search_prefers_clusters_to_one_lump():
    few = [
        QUICK | {"steps": 30, "softness": softness} for softness in (1.0, 0.7)
    ]  # the first is kept from saying anything
    search = GridSearchCV(fusion(), {"n_clusters": [1, 3], "options": few}, cv=2, refit=False).fit(BLOBS)
    assert search.best_params_ == {"n_clusters": 3, "options": few[1]}


def test_labels_by_row_follow_their_rows_into_the_folds():
    order = np.argsort(CLASSES, kind="stable")[np.arange(60).reshape(3, 20).T.ravel()]
    folds = GridSearchCV(supervised(), {"allow_bad": [0.05]}, scoring="rand_score", cv=3)
    folds.fit(BLOBS[order], CLASSES[order], evidence=CLASSES[order])
    assert folds.best_score_ > 0.95


def test_the_score_is_the_information_that_assignments_hold():
    assert kmeans(n_clusters=1).fit(BLOBS).score(BLOBS) == 0
    model = kmeans().fit(BLOBS)
    assert model.score(BLOBS[:1]) == 0
    p = model.predict_proba(BLOBS).astype(float)
    by_hand = -(p.mean(0) * np.log(p.mean(0))).sum() + (p * np.log(np.maximum(p, 1e-300))).sum(1).mean()
    assert model.score(BLOBS) == pytest.approx(by_hand)
    assert 0.9 < model.score(BLOBS) < np.log(3)


def test_a_fitted_estimator_survives_the_trip_to_another_process():
    model = fusion().fit(DIGITS)
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict_proba(DIGITS) == model.predict_proba(DIGITS)).all()
    assert (clone(again).fit(DIGITS).labels_ == model.labels_).all()


# ----------------------------------------------------------------------------------------------------- chance and calm


def test_the_same_random_state_gives_the_same_and_none_another():
    def assignments(state):
        model = ImageClusterer(3, random_state=state, options=QUICK).fit(DIGITS)
        return model.predict_proba(DIGITS).tolist(), model.config_.seed

    assert assignments(3) == assignments(np.int64(3))
    assert assignments(3)[1] == 3
    drawn = np.random.RandomState(5)
    first, second = assignments(drawn), assignments(drawn)
    assert first == assignments(np.random.RandomState(5))
    assert first[0] != second[0]
    assert assignments(None)[1] != assignments(None)[1]
    with pytest.raises(ValueError, match="seed"):
        assignments("three")


def test_global_generators_and_threads_are_left_alone():
    def state():
        return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()), torch.get_num_threads()  # noqa: NPY002

    before = state()
    for model in (fusion(steps=3), kmeans(n_threads=before[3] + 1), kmeans().set_params(random_state=None)):
        model.fit(DIGITS).predict(DIGITS)
        model.transform(DIGITS)
    assert state() == before


def test_ctrl_c_is_a_keyboard_interrupt(monkeypatch):
    def stopped(*_args, **_options):
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(fitting, "fit", stopped)
    with pytest.raises(KeyboardInterrupt):
        kmeans().fit(DIGITS)


def test_it_says_what_it_does_only_if_asked(capsys):
    fusion().fit(DIGITS)
    assert capsys.readouterr() == ("", "")
    fusion().set_params(verbose=1).fit(DIGITS)
    said = capsys.readouterr()
    assert said.out == ""
    assert "60 training images of 8×8 pixels" in said.err
    assert "refine 2 of 2, loss" in said.err
    assert len(said.err.splitlines()) < 25


# -------------------------------------------------------------------------------------------------------------- folders


@pytest.mark.parametrize("X", [DIGITS, BLOBS], ids=["images", "embeddings"])
@pytest.mark.parametrize("make", [kmeans, fusion])
def test_a_saved_model_predicts_the_same_and_can_be_fitted_again(make, X, tmp_path):
    model = make().fit(X)
    model.save(tmp_path / "model")
    again = ImageClusterer.load(tmp_path / "model")
    assert (again.predict_proba(X) == model.predict_proba(X)).all()
    assert (again.transform(X) == model.transform(X)).all()
    assert again.cluster_names_.tolist() == model.cluster_names_.tolist()
    assert again.n_features_in_ == model.n_features_in_
    assert (again.set_params(random_state=0).fit(X).labels_ == model.labels_).all()


@pytest.mark.parametrize(
    ("name", "words"),
    [("options", "must be a mapping of names"), ("exclude", "takes patterns"), ("classes", "takes names")],
)
def test_parameters_of_another_kind_are_refused(name, words):
    with pytest.raises(InputError, match=f"`{name}` {words}"):
        kmeans(**{name: 3}).fit(BLOBS)


def test_names_given_by_hand_are_saved(tmp_path):
    model = kmeans().fit(BLOBS)
    model.cluster_names_ = [f"kind {k}" for k in range(len(model.cluster_names_))]
    model.save(tmp_path)
    assert ImageClusterer.load(tmp_path).cluster_names_.tolist() == model.cluster_names_


@pytest.mark.parametrize("names", [["one"], [1, 2, 3], ["", "b", "c"], ["a", "b", "\ud800"], "abc"])
def test_names_that_are_not_one_text_for_each_cluster_are_refused(names, tmp_path):
    model = ImageClusterer(n_clusters=3, method="kmeans", random_state=0).fit(BLOBS)
    model.cluster_names_ = names
    with pytest.raises(InputError, match="cluster_names_"):
        model.save(tmp_path)


def test_what_is_not_fitted_or_not_there_cannot_be_saved_or_loaded(tmp_path):
    with pytest.raises(NotFittedError):
        kmeans().save(tmp_path)
    with pytest.raises(RunError, match="holds no trained model"):
        ImageClusterer.load(tmp_path)


def test_a_run_folder_of_embeddings_is_whole_and_can_be_loaded(tmp_path):
    model = kmeans(out=tmp_path / "run").fit(BLOBS)
    assert not (tmp_path / "run" / "thumbnails.parquet").exists()
    table = read_csv(tmp_path / "run" / "assignments.csv")
    assert [model.cluster_names_[k] for k in model.labels_] == table["cluster"]
    assert list(model.image_ids_) == table["image"]
    assert (ImageClusterer.load(tmp_path / "run").predict(BLOBS) == model.labels_).all()
    with pytest.raises(RunError, match="already holds a run"):
        model.fit(BLOBS)
    model.set_params(overwrite=True).fit(BLOBS)


def test_shorthands_win_over_options_and_unknown_ones_are_named():
    both = fusion().set_params(steps=3, encoder="conv").fit(DIGITS)
    assert (both.config_.options["steps"], both.config_.options["refine_steps"]) == (3, 2)
    with pytest.raises(InputError, match="Unknown option of kmeans 'steps'"):
        kmeans(steps=3).fit(DIGITS)
    with pytest.raises(InputError, match=r"Unknown method 'fussion'\. Did you mean 'fusion'"):
        ImageClusterer(3, method="fussion").fit(DIGITS)


def test_a_file_of_embeddings_is_predicted_as_it_was_fitted(tmp_path):
    np.savez(tmp_path / "blobs.npz", embeddings=BLOBS)
    path = tmp_path / "blobs.npz"
    model = kmeans().fit(path)
    assert (model.predict(path) == model.labels_).all()
    with pytest.raises(InputError, match="fitted on ready embeddings of 5 features, and was given images"):
        model.predict("digits")
