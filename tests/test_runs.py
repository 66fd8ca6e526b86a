"""The run folder: files whole or not there, harmless tables, and who may write to it."""

import csv
import os
import resource
import signal
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen import runs
from smidgen.errors import RunError
from smidgen.runs import (
    RunFolder,
    appearing_folder,
    atomic_write,
    guard_cell,
    read_csv,
    read_json,
    read_toml,
    restore_cell,
    write_csv,
    write_json,
    write_toml,
)
from smidgen.training.callbacks import MetricsLog

CONFIG = {"data": "digits", "seed": 0, "options": {"rate": 0.1, "widths": (16, 32)}}

# --------------------------------------------------------------------------------------------------------------- files


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
    monkeypatch.setattr(runs.Path, "replace", lambda old, new: (events.append("rename"), replace(old, new)))
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


# -------------------------------------------------------------------------------------------------------------- tables

CELLS = st.text(st.characters(codec="utf-8"), max_size=12) | st.from_regex(r"\A(\./)*[=+@\t\r-]\w*\Z")


@given(st.lists(st.tuples(CELLS, CELLS), max_size=5))
def test_a_table_reads_back_as_it_was_written(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "table.csv"
    columns = {"image": [row[0] for row in rows], "note, odd": [row[1] for row in rows]}
    write_csv(path, columns)
    assert read_csv(path) == columns


@given(CELLS)
def test_no_written_text_starts_a_formula(text):
    guarded = guard_cell(text)
    assert restore_cell(guarded) == text
    if guarded.startswith(("=", "+", "-", "@", "\t", "\r")):
        float(guarded)  # only a number may


@pytest.mark.parametrize("number", ["-1", "+1", "-0.5", "-.5", "-1e-05", "-inf", "1.", "nan"])
def test_numbers_are_left_alone(number):
    assert guard_cell(number) == number


@pytest.mark.parametrize("text", ["-1+cmd|' /C calc'!A0", "=1", "@SUM(A1)", "+1+1", "-", "--1", "\t=1", "-1e"])
def test_formulas_are_not(text):
    assert guard_cell(text) == f"./{text}"


def test_a_name_that_is_not_utf8_keeps_its_bytes(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    write_csv(tmp_path / "t.csv", {"image": [name]})
    assert b"caf\xe9.png" in (tmp_path / "t.csv").read_bytes()
    assert read_csv(tmp_path / "t.csv") == {"image": [name]}


def test_other_programs_read_the_table(tmp_path):
    write_csv(tmp_path / "t.csv", {"image": ["a,b", 'say "x"', "line\nbreak", "r\rr"], "k": [1, 2, 3, 4]})
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == ["a,b", 'say "x"', "line\nbreak", "r\rr"]


def test_columns_of_different_length_are_refused(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        write_csv(tmp_path / "t.csv", {"a": [1, 2], "b": [1]})


# ------------------------------------------------------------------------------------------------------ who may write


def start(path, config=CONFIG, *, resume=False, overwrite=False):
    return RunFolder.start(path, config, resume=resume, overwrite=overwrite)


def test_a_new_folder_gets_the_configuration(tmp_path):
    with start(tmp_path / "deep" / "run") as run:
        assert run.config["options"]["rate"] == 0.1
        assert not run.finished
        assert run.history() == []


def test_a_folder_with_a_run_is_refused_with_the_two_ways_out(tmp_path):
    start(tmp_path).close()
    for refuse in (lambda: start(tmp_path), lambda: RunFolder.check(tmp_path, resume=False, overwrite=False)):
        with pytest.raises(RunError, match=r"already holds a run.*--resume.*--overwrite"):
            refuse()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_with_other_files_is_never_touched(options, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="not a run's"):
        start(tmp_path, **options)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_overwriting_spares_what_no_run_wrote(tmp_path):
    start(tmp_path).close()
    (tmp_path / "metrics.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(RunError, match=r"also holds 'notes\.txt'"):
        start(tmp_path, overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock") == [
        "config.toml",
        "metrics.json",
        "notes.txt",
    ]


def test_overwriting_empties_a_run_and_only_that(tmp_path):
    start(tmp_path / "run").close()
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "000000001.safetensors").write_text("x")
    (tmp_path / "run" / ".git").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "precious").write_text("x")
    (tmp_path / "run" / "tables").symlink_to(tmp_path / "elsewhere")
    start(tmp_path / "run", {"data": "mnist"}, overwrite=True).close()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [".git", ".lock", "config.toml"]
    assert (tmp_path / "elsewhere" / "precious").exists()


def test_resuming_needs_the_same_configuration_and_shows_the_difference(tmp_path):
    start(tmp_path).close()
    start(tmp_path, resume=True).close()  # tuples come back from TOML as lists
    changed = {**CONFIG, "seed": 1, "options": {"rate": 0.2, "widths": (16, 32), "more": True}}
    with pytest.raises(RunError) as caught:
        start(tmp_path, changed, resume=True)
    for difference in ("seed: 0 → 1", "options.rate: 0.1 → 0.2", "options.more: 'unset' → True"):
        assert difference in str(caught.value)
    assert "widths" not in str(caught.value)


def test_resuming_an_empty_folder_starts_fresh(tmp_path):
    with start(tmp_path, resume=True) as run:
        assert run.config["data"] == "digits"


def test_resuming_sweeps_away_what_killed_writers_left(tmp_path):
    start(tmp_path).close()
    (tmp_path / ".embeddings.npy.x8_f0").write_bytes(b"half")
    (tmp_path / ".config.toml.x8_f0").write_bytes(b"half")
    (tmp_path / ".notes").write_text("mine")
    start(tmp_path, resume=True).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".notes", "config.toml"]


def test_either_resume_or_overwrite(tmp_path):
    with pytest.raises(RunError, match="Either --resume or --overwrite"):
        RunFolder.check(tmp_path, resume=True, overwrite=True)


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(RunError, match="is a file"):
        start(tmp_path / "run")


def test_a_folder_that_cannot_be_written_to_is_said_in_one_sentence(tmp_path, monkeypatch):
    def refuse(*_args, **_options):
        raise PermissionError(13, "Permission denied")  # root, as in containers, is refused nothing

    monkeypatch.setattr(runs.Path, "open", refuse)
    with pytest.raises(RunError, match=r"The run folder .* cannot be written to: Permission denied\."):
        start(tmp_path)
    monkeypatch.setattr(runs.Path, "mkdir", refuse)
    with pytest.raises(RunError, match=r"The run folder .* cannot be made: Permission denied\."):
        start(tmp_path / "run")


def test_reading_what_is_no_run_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(RunError, match=r"is not a run folder.*smidgen fit"):
        RunFolder.open(tmp_path)


def test_a_run_is_finished_when_the_manifest_says_so(tmp_path):
    with start(tmp_path) as run:
        write_json(tmp_path / "manifest.json", {"started": "now"})
        assert not run.finished
        write_json(tmp_path / "manifest.json", {"started": "now", "finished": "later"})
        assert RunFolder.open(tmp_path).finished


# ---------------------------------------------------------------------------------------------------------------- lock

_HOLD = """
import sys, time
from smidgen.runs import RunFolder
run = RunFolder.start(sys.argv[1], {"data": "digits"}, resume=True, overwrite=False)
print("locked", flush=True)
time.sleep(60)
"""


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path):
    with subprocess.Popen([sys.executable, "-c", _HOLD, tmp_path], stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "locked\n"
            with pytest.raises(RunError, match=r"Another process is writing to .*wait for it"):
                start(tmp_path, {"data": "digits"}, resume=True)
        finally:
            other.send_signal(signal.SIGKILL)
    start(tmp_path, {"data": "digits"}, resume=True).close()


def test_the_lock_is_free_after_a_refusal(tmp_path):
    start(tmp_path).close()
    with pytest.raises(RunError):
        start(tmp_path, {"data": "other"}, resume=True)
    start(tmp_path, resume=True).close()


def test_two_in_one_process_are_refused_too(tmp_path):
    with start(tmp_path), pytest.raises(RunError, match="Another process"):
        start(tmp_path, resume=True)


# ------------------------------------------------------------------------------------------------------- what it holds


def test_arrays_tables_and_thumbnails_go_where_reports_look(tmp_path):
    from pyarrow import parquet

    with start(tmp_path) as run:
        run.write_array("embeddings.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
        run.write_table("bags", {"bag": ["=a"], "share": [0.5]})
        run.write_thumbnails([0, 2], [b"png", b"jpeg"])
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
        assert run.history() == [{"step": 1}, {"step": 2}]
    assert np.load(tmp_path / "embeddings.npy", allow_pickle=False)[2].tolist() == [4.0, 5.0]
    assert read_csv(tmp_path / "tables" / "bags.csv") == {"bag": ["=a"], "share": ["0.5"]}
    assert parquet.read_table(tmp_path / "thumbnails.parquet").to_pydict() == {
        "row": [0, 2],
        "bytes": [b"png", b"jpeg"],
    }


def test_an_array_of_objects_is_refused(tmp_path):
    with start(tmp_path) as run, pytest.raises(ValueError, match="allow_pickle=False"):
        run.write_array("embeddings.npy", np.array([{}], dtype=object))


def test_toml_keeps_types(tmp_path):
    write_toml(tmp_path / "c.toml", CONFIG)
    assert read_toml(tmp_path / "c.toml") == {**CONFIG, "options": {"rate": 0.1, "widths": [16, 32]}}
