"""`ImageClusterer.predict_bags`: bags by rows or by ids, of arrays, embeddings and files."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.exceptions import NotFittedError

from smidgen import ImageClusterer
from smidgen.errors import InputError

X, CLASSES = make_blobs(n_samples=60, centers=3, n_features=4, cluster_std=0.3, random_state=0)
BAGS = {"a": [0, 1, 2], "b": [5], "c": list(range(20))}


@pytest.fixture(scope="module")
def model():
    return ImageClusterer(3, method="kmeans", random_state=0).fit(X)


def test_counts_and_shares_are_those_of_separate_blobs(model):
    found = model.predict_bags(X, BAGS)
    assert found.bag_names == ("a", "b", "c")
    assert found.unique_counts.tolist() == [len(set(CLASSES[rows].tolist())) for rows in BAGS.values()]
    assert found.law.sum(1) == pytest.approx(np.ones(3))
    shares = np.stack([model.predict_proba(X[rows]).mean(0) for rows in BAGS.values()])
    assert found.shares == pytest.approx(shares, abs=1e-5)


@pytest.mark.parametrize(
    ("method", "options"), [("ucc", {"alpha": 1}), ("rcc", {"counts": "mse"}), ("rcc", {"counts": "dllp"})]
)
def test_heads_for_bags_say_what_they_think(method, options):
    options = {"encoder": "vectors", "steps": 3, "ucc": "1-3", "bag_size": "8", "augment": False} | options
    fitted = ImageClusterer(3, method=method, options=options, random_state=0)
    fitted.fit(X, evidence=[f"{'abc'[k]}" for k in CLASSES])
    found, alone = fitted.predict_bags(X, BAGS), fitted.predict_bags(X, [BAGS["b"]])
    assert found.head.sum(1) == pytest.approx(np.ones(3), abs=1e-5)
    assert alone.head == pytest.approx(found.head[1:2], abs=1e-5)
    table = found.columns(fitted.cluster_names_)
    assert table["head_ucc"] == (found.head.argmax(1) + 1).tolist()
    assert found.head[1].tolist() == [1, 0, 0]  # a bag of one image
    assert ("head_images(b)" in table) == (options.get("counts") == "mse")
    assert fitted.predict_bags(X, {}).head.shape == (0, 3)


def test_bags_by_list_by_id_and_by_file_are_the_same(model, tmp_path):
    by_name = {name: [f"train/{row:05d}" for row in rows] for name, rows in BAGS.items()}
    (tmp_path / "bags.csv").write_text(
        "bag,image\n" + "".join(f"{name},{image}\n" for name, images in by_name.items() for image in images)
    )
    laws = [model.predict_bags(X, bags).law for bags in (list(BAGS.values()), by_name, tmp_path / "bags.csv")]
    assert all(np.array_equal(law, model.predict_bags(X, BAGS).law) for law in laws)


def test_an_unknown_image_and_an_unfitted_estimator_are_refused(model):
    with pytest.raises(InputError, match="image 99 is not among the 60 images of X"):
        model.predict_bags(X, [[0, 99]])
    with pytest.raises(NotFittedError):
        ImageClusterer(3).predict_bags(X, BAGS)
