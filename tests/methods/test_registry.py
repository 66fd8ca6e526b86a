"""Finding methods and setting their options, by name and as text."""

import dataclasses
from typing import Literal

import pytest

from smidgen import methods
from smidgen.errors import InputError
from smidgen.methods import make_config


@dataclasses.dataclass(frozen=True)
class Options:
    count: int = 1
    rate: float = 0.5
    on: bool = True
    name: str = "a"
    kind: Literal["x", "y"] = "x"
    limit: float | None = None


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    member = methods._member
    monkeypatch.setattr(methods, "_member", lambda name, index: Options if name == "toy" else member(name, index))


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ("3", "count", 3),
        ("1e3", "count", 1000),
        (2.0, "count", 2),
        ("1e-3", "rate", 0.001),
        (1, "rate", 1.0),
        ("false", "on", False),
        ("True", "on", True),
        (False, "on", False),
        ("b", "name", "b"),
        ("y", "kind", "y"),
        ("none", "limit", None),
        (None, "limit", None),
        ("2", "limit", 2.0),
    ],
)
def test_texts_become_the_type_of_the_field(given, field, value):
    made = getattr(make_config("toy", {field: given}), field)
    assert made == value
    assert type(made) is type(value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": "1.5"}, "`count` must be of type int, got '1.5'"),
        ({"count": "many"}, "`count` must be of type int, got 'many'"),
        ({"count": "inf"}, "`count` must be of type int, got 'inf'"),
        ({"count": "nan"}, "`count` must be of type int, got 'nan'"),
        ({"on": "maybe"}, "`on` must be of type bool, got 'maybe'"),
        ({"kind": "z"}, "Unknown value for `kind` 'z'"),
        ({"rat": 1}, "Unknown option of toy 'rat'. Did you mean 'rate'?"),
        ({"limit": "low"}, "`limit` must be of type float, got 'low'"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(InputError) as caught:
        make_config("toy", options)
    assert str(caught.value).startswith(message)


def test_an_unknown_method_is_named():
    with pytest.raises(InputError, match=r"Unknown method 'fussion'\. Did you mean 'fusion'\?"):
        make_config("fussion")


@pytest.mark.parametrize(
    ("method", "option"), [("fusion", "batch_size"), ("kmeans", "n_init"), ("supervised", "steps")]
)
def test_an_option_out_of_range_is_refused(method, option):
    with pytest.raises(InputError, match=f"`{option}` must be"):
        make_config(method, {option: 0})
