import subprocess
import sys
from pathlib import Path

import pytest

from smidgen import __version__
from smidgen.cli.main import VERBS, main
from smidgen.training.interrupts import Interrupted

HEAVY = ("torch", "numpy", "scipy", "sklearn", "rich", "jinja2", "PIL")


@pytest.mark.parametrize("argv", [["--help"], ["fit", "--help"], ["fitt"], ["fit"], ["export", "run", "--to", "cvs"]])
def test_help_and_usage_errors_import_nothing_heavy(argv):
    code = (
        f"import sys; from smidgen.cli.main import main; main({argv}); print([m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("argv", [["list", "methods"], ["list", "datasets"], ["fit", "nowhere"], ["predict", "a", "b"]])
def test_answers_that_need_no_model_import_no_torch(argv):
    code = f"import sys; from smidgen.cli.main import main; main({argv}); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_module_runs_as_the_command_does():
    done = subprocess.run([sys.executable, "-m", "smidgen", "nonsense"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.startswith("smidgen: Unknown verb 'nonsense'.")


def test_reader_that_stops_reading_is_no_error():
    command = f"{sys.executable} -m smidgen list datasets | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_behind_stdout_is_one_sentence():
    command = f"{sys.executable} -m smidgen list datasets > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "smidgen: No space left on device: standard output.\n")


def test_help_names_every_verb(smidgen):
    said = smidgen("--help")
    assert said.code == 0
    assert all(f"\n  {name} " in said.out for name in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(smidgen, verb):
    said = smidgen(verb, "--help")
    assert said.code == 0
    assert f"usage: smidgen {verb}" in said.out


def test_version(smidgen):
    assert smidgen("--version").out == f"smidgen {__version__}\n"


def test_no_verb_shows_the_help(smidgen):
    assert "verbs:" in smidgen().out


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["pedict", "run", "data"], "Unknown verb 'pedict'. Did you mean 'predict'?"),
        (["--verison"], "Unknown option '--verison'. Did you mean '--version'?"),
        (["fit", "digits", "--cluster=3"], "Unknown option '--cluster'. Did you mean '--clusters'?"),
        (["fit", "digits", "--method", "fussion"], "Unknown method 'fussion'. Did you mean 'fusion'?"),
        (["fit", "digits", "--resize", "corp"], "Unknown way to resize 'corp'. Did you mean 'crop'?"),
        (["fit", "digits", "--set", "encodr=conv"], "Unknown option of fusion 'encodr'. Did you mean 'encoder'?"),
        (["fit", "digist"], "Unknown dataset 'digist'. Did you mean 'digits'?"),
        (["list", "method"], "Unknown kind 'method'. Did you mean 'methods'?"),
        (["list", "methods", "kmean"], "Unknown method 'kmean'. Did you mean 'kmeans'?"),
        (["export", "run", "--to", "folder", "--out", "x"], "Unknown format 'folder'. Did you mean 'folders'?"),
    ],
)
def test_unknown_names_get_a_suggestion(smidgen, tmp_path, monkeypatch, argv, sentence):
    monkeypatch.chdir(tmp_path)
    assert smidgen(*argv).refusal().startswith(sentence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["fit"], "DATA is missing: `smidgen fit --help` shows what is wanted."),
        (["fit", ""], "`DATA` must be a name or a path, got ''."),
        (["predict"], "RUN and DATA are missing"),
        (["fit", "a", "b"], "'b' is one argument too many"),
        (["fit", "a", "--set", "steps=3", "seed=2"], "'seed=2' stands alone: write `--set` before every option"),
        (["fit", "digits", "--clusters", "0"], "`--clusters` must be a whole number, 1 or above, got '0'."),
        (["fit", "digits", "--size", "9999"], "`--size` must be a whole number, from 1 to 4096, got '9999'."),
        (["fit", "digits", "--steps", "many"], "`--steps` must be a whole number"),
        (["fit", "digits", "--seed", "-1"], "`--seed` must be a whole number, 0 or above, got '-1'."),
        (["fit", "digits", "--allow-bad", "5"], "`--allow-bad` must be a share between 0 and 1, got '5'."),
        (["fit", "digits", "--set", "steps"], "`--set` must be name=value, got 'steps'."),
        (["fit", "digits", "--steps", "3", "--set", "steps=4"], "The option 'steps' is set more than once"),
        (["fit", "digits", "--clusters"], "`--clusters` expected one argument"),
        (["fit", "digits", "--resume", "--overwrite"], "Either --resume or --overwrite"),
        (["export", "r", "--to", "folders", "--out", "x", "--copy", "--link"], "`--link` cannot be given together"),
        (["list", "datasets", "mnist"], "`smidgen list datasets` takes no name, got 'mnist'."),
    ],
)
def test_bad_arguments_are_one_sentence(smidgen, tmp_path, monkeypatch, argv, sentence):
    monkeypatch.chdir(tmp_path)
    assert smidgen(*argv).refusal().startswith(sentence)


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (OSError(28, "No space left on device"), 2, "smidgen: No space left on device: standard output.\n"),
        (PermissionError(13, "Permission denied", "/x"), 2, "smidgen: Permission denied: '/x'.\n"),
        (OSError("9 requested and 5 written"), 2, "smidgen: Writing failed (9 requested and 5 written): is the disk"),
        (MemoryError(), 2, "smidgen: Memory ran out"),
        (KeyboardInterrupt(), 130, "smidgen: Interrupted.\n"),
        (Interrupted(15), 143, "smidgen: Interrupted.\n"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_what_the_machine_does_becomes_a_sentence(smidgen, monkeypatch, error, code, sentence):
    def fail(args):
        raise error

    monkeypatch.setattr("smidgen.cli.list.run", fail)
    said = smidgen("list", "methods")
    assert said.code == code
    assert said.err.startswith(sentence)


def test_errors_nobody_expected_keep_their_traceback(monkeypatch):
    def fail(args):
        raise ZeroDivisionError

    monkeypatch.setattr("smidgen.cli.list.run", fail)
    with pytest.raises(ZeroDivisionError):
        main(["list", "methods"])
