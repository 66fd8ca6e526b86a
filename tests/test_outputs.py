"""The manifest names the commit of smidgen's own checkout, and of no other repository."""

import subprocess
from pathlib import Path

import pytest

from smidgen import outputs


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
