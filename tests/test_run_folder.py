"""The run folder: what it holds, and who may write to it."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from smidgen.csv_tables import read_csv
from smidgen.errors import RunError
from smidgen.files import write_json
from smidgen.run_folder import RunFolder

CONFIG = {"data": "digits", "seed": 0, "options": {"rate": 0.1, "widths": (16, 32)}}


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

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(RunError, match=r"The run folder .* cannot be written to: Permission denied\."):
        start(tmp_path)
    monkeypatch.setattr(Path, "mkdir", refuse)
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


_HOLD = """
import sys, time
from smidgen.run_folder import RunFolder
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
