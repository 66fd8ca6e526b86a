"""What the source must not contain, and what every module must."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

import smidgen

ROOT = Path(smidgen.__file__).parent
SOURCES = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
READERS = "data/readers.py"  # the one exception: hash-checked dataset files, through an unpickler of arrays only
LIBRARY = sorted(name for name in SOURCES if not name.startswith("cli/"))
FORBIDDEN = re.compile(
    r"\b(c?pickle|_pickle|dill|joblib|shelve|marshal)\b|weights_only=False|\bjit\.load\b|\bexport\.load\b"
    r"|\byaml\.\w*load|\bextractall\b|allow_pickle=True|(?<![.\w])(eval|exec)\(",
    re.IGNORECASE,
)
GLOBAL_DRAWS = re.compile(r"(np|numpy)\.random\.(?!default_rng|Generator|SeedSequence)\w+")


def statements(source):
    """Imports, calls and attributes as Python prints them, texts left out: what is said is not what is done."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom, ast.Call, ast.Attribute)):
            yield re.sub(r"'[^'\n]*'|\"[^\"\n]*\"", "''", ast.unparse(node))


def forbidden(source):
    return [text for text in statements(source) if FORBIDDEN.search(text)]


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only = False)",
        "torch.jit.load(path)",
        "torch.export.load(path)",
        "yaml.load(file)",
        "np.load(path, allow_pickle=True)",
        "archive.extractall(folder)",
        "eval(text)",
    ],
)
def test_the_search_finds_what_it_looks_for(source):
    assert forbidden(source)


@pytest.mark.parametrize("source", ["method.eval()", "say('no pickle, please')", "np.load(path, allow_pickle=False)"])
def test_the_search_leaves_the_rest_alone(source):
    assert not forbidden(source)


@pytest.mark.parametrize("name", sorted(SOURCES.keys() - {READERS}))
def test_nothing_runs_code_from_a_file(name):
    assert forbidden(SOURCES[name]) == []


def test_the_one_reader_of_pickles_admits_arrays_only():
    uses = {text for text in statements(SOURCES[READERS]) if "pickle" in text.lower()}
    assert {text for text in uses if re.search(r"\bpickle\.loads?\b", text)} == set()
    assert "def find_class" in SOURCES[READERS]
    assert [name for name in SOURCES if "find_class" in SOURCES[name]] == [READERS]


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_module_opens_with_a_sentence(name):
    docstring = ast.get_docstring(ast.parse(SOURCES[name]))
    assert docstring
    assert re.search(r"\w{3,} .*[.]$", docstring.split("\n\n")[0].replace("\n", " "))


@pytest.mark.parametrize("name", LIBRARY)
def test_the_library_neither_prints_nor_draws_from_global_generators(name):
    nodes = list(ast.walk(ast.parse(SOURCES[name])))
    calls = [ast.unparse(node.func) for node in nodes if isinstance(node, ast.Call)]
    assert "print" not in calls
    assert [call for call in calls if GLOBAL_DRAWS.fullmatch(call)] == []
    assert not any(alias.name == "random" for node in nodes if isinstance(node, ast.Import) for alias in node.names)


def test_there_are_no_catch_all_modules():
    names = {part for name in SOURCES for part in Path(name).with_suffix("").parts}
    assert not names & {"utils", "util", "common", "helpers", "core", "misc"}


PROJECT = ROOT.parents[1] / "pyproject.toml"


@pytest.mark.skipif(not PROJECT.is_file(), reason="an installed package has no pyproject.toml beside it")
def test_every_extra_that_a_message_names_exists():
    extras = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    named = {name for source in SOURCES.values() for name in re.findall(r"smidgen\[(\w+)\]", source)}
    assert named
    assert named <= extras.keys()


def test_type_checkers_are_told_that_the_package_has_types():
    assert (ROOT / "py.typed").is_file()


def test_every_public_name_resolves_and_has_a_docstring():
    assert all(getattr(smidgen, name).__doc__ for name in smidgen.__all__)
