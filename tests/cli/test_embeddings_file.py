"""Ready embeddings in an .npz, from the shell: fitted and predicted; what needs pictures says so."""

import csv
import io

import numpy as np
import pytest
from cli_samples import QUICK
from sklearn.datasets import make_blobs

BLOBS, CLASSES = make_blobs(n_samples=60, centers=3, n_features=5, cluster_std=0.5, random_state=0)


@pytest.fixture
def embeddings(tmp_path):
    np.savez(tmp_path / "emb.npz", embeddings=BLOBS * 100, labels=CLASSES)
    return tmp_path / "emb.npz"


def test_embeddings_are_fitted_and_predicted(smidgen, embeddings, tmp_path):
    assert smidgen("fit", embeddings, "--out", tmp_path / "run", *QUICK).code == 0
    assert smidgen("eval", tmp_path / "run", "--json").json["train"]["accuracy"] == 1.0
    said = smidgen("predict", tmp_path / "run", embeddings, "--quiet")
    assert said.code == 0
    own = (tmp_path / "run/assignments.csv").read_text()
    rows = list(csv.DictReader(io.StringIO(own)))
    found = list(csv.DictReader(io.StringIO(said.out)))
    assert [row["cluster"] for row in found] == [row["cluster"] for row in rows]


def test_embeddings_and_images_are_told_apart(smidgen, embeddings, photos, tmp_path):
    assert smidgen("fit", embeddings, "--out", tmp_path / "run", *QUICK).code == 0
    said = smidgen("predict", tmp_path / "run", photos, "--quiet").refusal()
    assert said == (
        "This model was fitted on ready embeddings of 5 features, and was given images: give it what it was fitted on."
    )


def test_check_of_embeddings_is_refused(smidgen, embeddings):
    assert "ready embeddings" in smidgen("check", embeddings, "--quiet").refusal()
