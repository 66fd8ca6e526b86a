"""Files appear whole or not at all, and what is wrong with one is a sentence."""

import os
import resource
from pathlib import Path

import numpy as np
import pytest

from smidgen.csv_tables import read_csv, write_csv
from smidgen.errors import RunError
from smidgen.files import appearing_folder, atomic_write, read_json, read_toml, write_json, write_toml
from smidgen.run_folder import RunFolder
from smidgen.training.callbacks import MetricsLog


def test_a_write_that_fails_midway_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, [1])

    def half():
        with atomic_write(path) as file:
            file.write(b"[2,")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        half()
    assert read_json(path) == [1]
    assert list(tmp_path.iterdir()) == [path]


def test_the_bytes_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    events = []
    replace = os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: events.append("folder" if is_folder(handle) else "file"))
    monkeypatch.setattr(Path, "replace", lambda old, new: (events.append("rename"), replace(old, new)))
    write_json(tmp_path / "a.json", 1)
    assert events == ["file", "rename", "folder"]


def is_folder(handle):
    return (os.fstat(handle).st_mode & 0o170000) == 0o040000


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, "old")
    with atomic_write(path) as file:
        file.write(b'"new"')
        file.flush()
        assert read_json(path) == "old"
    assert read_json(path) == "new"


@pytest.mark.parametrize(("mask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)])
def test_the_umask_says_who_may_read_what_is_written(tmp_path, mask, file, folder):
    before = os.umask(mask)
    try:
        write_json(tmp_path / "a.json", 1)
        with appearing_folder(tmp_path / "tables") as building:
            write_csv(building / "a.csv", {"a": [1]})
    finally:
        os.umask(before)
    assert mode(tmp_path / "a.json") == mode(tmp_path / "tables" / "a.csv") == file
    assert mode(tmp_path / "tables") == folder


def mode(path):
    return path.stat().st_mode & 0o777


@pytest.fixture
def _small_files():
    """No file of this process may be larger than 8 kB: as on a full disk, but repeatable."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_small_files")
@pytest.mark.parametrize(
    "write",
    [
        lambda path: write_json(path, "a" * 9000),
        lambda path: write_csv(path, {"a": ["b" * 9000]}),
        lambda path: write_toml(path, {"a": "b" * 9000}),
        lambda path: RunFolder(path.parent).write_array(path.name, np.zeros(9000)),
        lambda path: MetricsLog(path)._write("a" * 9000),
    ],
    ids=["json", "csv", "toml", "npy", "log"],
)
def test_what_cannot_be_written_is_named(tmp_path, write):
    with pytest.raises(OSError, match=r"File too large|requested and") as failed:
        write(tmp_path / "file")
    assert failed.value.filename == str(tmp_path / "file")


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as failed, atomic_write(tmp_path / "a"):
        (tmp_path / "b").read_bytes()
    assert failed.value.filename == str(tmp_path / "b")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    out = tmp_path / "new" / "out"
    with pytest.raises(FileNotFoundError) as failed, appearing_folder(out) as building:
        (building / "a" / "b").write_text("a")
    assert failed.value.filename == str(out / "a" / "b")
    assert not list(tmp_path.iterdir())
    out.mkdir(parents=True)
    with appearing_folder(out) as building:
        (building / "a").write_text("a")
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "a").read_text() == "a"


def test_a_long_name_can_be_written(tmp_path):
    path = tmp_path / ("é" * 120 + ".json")
    write_json(path, 1)
    assert read_json(path) == 1


def test_json_that_no_other_program_reads_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("read", "damaged"),
    [
        (read_json, b'{"a": '),
        (read_json, b"\xff\xfe"),
        (read_toml, b"a = "),
        (read_toml, b"\xff"),
        (read_csv, b""),
        (read_csv, b"a,b\n1\n"),
    ],
)
def test_missing_and_damaged_files_are_run_errors(read, damaged, tmp_path):
    path = tmp_path / "file"
    with pytest.raises(RunError, match="is missing"):
        read(path)
    path.write_bytes(damaged)
    with pytest.raises(RunError, match="is not "):
        read(path)


def test_toml_keeps_types(tmp_path):
    write_toml(tmp_path / "c.toml", {"data": "digits", "options": {"rate": 0.1, "widths": (16, 32)}})
    assert read_toml(tmp_path / "c.toml") == {"data": "digits", "options": {"rate": 0.1, "widths": [16, 32]}}
