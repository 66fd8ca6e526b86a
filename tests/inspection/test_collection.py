"""`inspect_collection`: what `smidgen check` finds, from Python."""

import numpy as np
import pytest
from PIL import Image

from smidgen import Evidence, inspect_collection
from smidgen.errors import InputError

NOISE = np.random.default_rng(0).integers(0, 256, (30, 12, 12), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Ten images in train, five in test, of which the first is also in train; one cannot be read."""
    for number, pixels in enumerate(NOISE[:15]):
        path = tmp_path / ("train" if number < 10 else "test") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "test/again.png").write_bytes((tmp_path / "train/3.png").read_bytes())
    (tmp_path / "train/broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return tmp_path


def test_it_says_what_a_folder_holds_and_what_a_fit_would_refuse(folder):
    found = inspect_collection(folder, n_clusters=11)
    assert found.sizes == {(12, 12): 16}
    assert [found.dataset.ids[row] for row in found.copies[0]] == ["test/again.png", "train/3.png"]
    assert found.issue_table()["kind"] == ["duplicate", "duplicate"]
    assert found.refusals == [
        "1 of 11 train images cannot be read: repair or remove them, or pass `allow_bad=0.1`.",
        "10 images cannot make 11 clusters: add images or pass `n_clusters=10`.",
    ]
    assert "1 images are in both train and test: test scores will be optimistic." in found.advice
    assert inspect_collection(folder, n_clusters=5, allow_bad=0.1).refusals == []


@pytest.mark.parametrize("form", [list, np.asarray], ids=["list", "array"])
def test_arrays_and_lists_of_them_are_collections_too(form):
    found = inspect_collection(form([*NOISE, NOISE[4]]), n_clusters=2)
    assert [issue.row for issue in found.issues["duplicate"]] == [4, 30]
    assert found.refusals == []


def test_evidence_is_counted_and_what_is_wrong_with_it_is_a_refusal(folder):
    known = Evidence(labels=(("train/1.png", "a"), ("train/2.png", "b")))
    found = inspect_collection(folder, n_clusters=2, allow_bad=0.1, evidence=known)
    assert found.evidence["labels"] == 2
    wrong = inspect_collection(folder, n_clusters=2, allow_bad=0.1, evidence=Evidence(labels=(("gone.png", "a"),)))
    assert "'gone.png'" in wrong.refusals[0]
    assert wrong.evidence == {}


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"allow_bad": 2}, "allow_bad"), ({"n_clusters": 0}, "n_clusters"), ({"encoder": "lite9"}, "lite2")],
)
def test_a_wrong_argument_is_refused_before_an_image_is_read(wrong, says, monkeypatch):
    monkeypatch.setattr("smidgen.inspection.collection.open_dataset", lambda *_, **__: pytest.fail("images are read"))
    with pytest.raises(InputError, match=says):
        inspect_collection("digits", **wrong)


def test_ready_embeddings_hold_no_pictures():
    with pytest.raises(InputError, match="ready embeddings"):
        inspect_collection(np.zeros((20, 4), dtype=np.float32))
