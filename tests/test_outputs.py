"""The manifest names the commit of smidgen's own checkout, and of no other repository; filters are written."""

import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from smidgen import outputs
from smidgen.evidence.resolved import Resolved
from smidgen.files import read_array
from smidgen.methods import make_config, make_method
from smidgen.methods.base import Problem
from smidgen.run_folder import RunFolder


def repository(root: Path, *, project: str) -> None:
    root.mkdir(parents=True)
    (root / "pyproject.toml").write_text(f'[project]\nname = "{project}"\n')
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)


@pytest.mark.parametrize("package", ["src/smidgen", "lib/smidgen", ".venv/lib/python3.12/site-packages/smidgen"])
def test_another_project_s_commit_is_not_taken_for_smidgen_s(tmp_path, package):
    repository(tmp_path / "mine", project="mine")
    assert outputs._git_commit(tmp_path / "mine" / package) is None


def test_the_commit_is_that_of_the_checkout(tmp_path):
    repository(tmp_path / "smidgen", project="smidgen")
    package = tmp_path / "smidgen" / "src" / "smidgen"
    clean = outputs._git_commit(package)
    assert clean is not None
    assert len(clean) >= 7
    (tmp_path / "smidgen" / "pyproject.toml").write_text('[project]\nname = "smidgen"\nversion = "2"\n')
    assert outputs._git_commit(package) == f"{clean}-dirty"
    assert (
        outputs._git_commit(tmp_path / "smidgen" / ".venv" / "lib" / "python3.12" / "site-packages" / "smidgen") is None
    )


def test_test_images_are_scored_by_the_classes_that_clusters_got_on_training_images():
    train = SimpleNamespace(classes=np.array([1, 1, 0, 0, -1]), class_names=("cat", "dog"))
    matched = outputs.matched_classes(train, np.eye(2)[[0, 0, 1, 1, 1]], 2)
    assert matched == ["dog", "cat"]
    test = SimpleNamespace(classes=np.array([0, 0, 1, 2]), class_names=("bird", "cat", "dog"))  # other numbers
    scores = outputs.score_split("test", test, np.eye(2)[[1, 1, 1, 1]], 2, matched=matched)
    assert (scores["test_mapped_accuracy"], scores["test_accuracy"]) == (0.25, 0.5)
    assert outputs.matched_classes(train, np.eye(3)[[0, 1, 2, 2, 2]], 3) == ["dog", "dog", "cat"]  # by majority
    assert outputs.matched_classes(SimpleNamespace(classes=None), np.eye(2), 2) == []


@pytest.mark.parametrize(("encoder", "shape"), [("conv", (32, 3, 3, 3)), ("sobel:conv", (32, 2, 3, 3))])
def test_the_first_filters_of_a_net_are_written(tmp_path, encoder, shape):
    outputs.write_filters(RunFolder(tmp_path), supervised(encoder, (3, 8, 8)))
    assert read_array(tmp_path / "filters.npy").shape == shape


def test_a_net_without_convolution_has_no_filters(tmp_path):
    outputs.write_filters(RunFolder(tmp_path), supervised("conv", (3,)))
    assert not (tmp_path / "filters.npy").exists()


def supervised(encoder, shape):
    problem = Problem(6, shape, 2, (0.5,) * 3, (0.25,) * 3, Resolved.nothing(6))
    return make_method("supervised", make_config("supervised", {"encoder": encoder}), problem)
