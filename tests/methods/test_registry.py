"""Finding methods and setting their options, by name and as text."""

import dataclasses
import math
import typing
from typing import Literal

import numpy as np
import pytest

from smidgen import methods
from smidgen.errors import InputError
from smidgen.methods import FUSION_METHODS, METHODS, make_config, read_options
from smidgen.methods.fusion_options import FusionConfig
from smidgen.methods.kmeans import KMeansConfig
from smidgen.methods.rcc import RCCConfig
from smidgen.options import Options, field_types, help_texts, option, option_groups


@dataclasses.dataclass(frozen=True)
class Toy(Options):
    count: int = 1
    rate: float = 0.5
    on: bool = True
    name: str = "a"
    kind: Literal["x", "y"] = "x"
    limit: float | None = None


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    member = methods._member
    monkeypatch.setattr(methods, "_member", lambda name, index: Toy if name == "toy" else member(name, index))


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ("3", "count", 3),
        ("1e3", "count", 1000),
        (2.0, "count", 2),
        ("1e-3", "rate", 0.001),
        (".5", "rate", 0.5),
        ("5.", "count", 5),
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
        ({"count": "1.5"}, "`count` must be a whole number, got '1.5'"),
        ({"count": "many"}, "`count` must be a whole number, got 'many'"),
        ({"count": "inf"}, "`count` must be a whole number, got 'inf'"),
        ({"count": "nan"}, "`count` must be a whole number, got 'nan'"),
        ({"on": "maybe"}, "`on` must be true or false, got 'maybe'"),
        ({"kind": "z"}, "Unknown value for `kind` 'z'"),
        ({"rat": 1}, "Unknown option of toy 'rat'. Did you mean 'rate'?"),
        ({"limit": "low"}, "`limit` must be a number, got 'low'"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(InputError) as caught:
        make_config("toy", options)
    assert str(caught.value).startswith(message)


def test_an_unknown_method_is_named():
    with pytest.raises(InputError, match=r"Unknown method 'fussion'\. Did you mean 'fusion'\?"):
        make_config("fussion")


def test_fusion_is_no_method_of_its_own():
    with pytest.raises(InputError, match="stands for one of fusion-images and fusion-embeddings: name one"):
        make_config("fusion")


def test_options_that_both_methods_of_fusion_have_are_declared_once_and_of_one_type():
    images, embeddings = (field_types(methods._member(name, 1)) for name in FUSION_METHODS)
    shared = field_types(FusionConfig)
    assert images.keys() & embeddings.keys() == shared.keys()
    for name, kind in shared.items():
        assert images[name] == embeddings[name] == kind
    first, second = (help_texts(methods._member(name, 1)) for name in FUSION_METHODS)
    assert all(second[name].startswith(first[name]) for name in shared)  # or says a limit of its own


def test_options_of_fusion_are_those_of_both_as_typed_values():
    given = {"settle": "0.5", "hidden": "32", "steps": "1e3"}
    assert read_options("fusion", given) == {"settle": 0.5, "hidden": 32, "steps": 1000}


@pytest.mark.parametrize(
    ("method", "option", "other"),
    [("fusion-images", "hidden", "fusion-embeddings"), ("fusion-embeddings", "encoder", "fusion-images")],
)
def test_an_option_of_the_other_method_of_fusion_is_named_as_that(method, option, other):
    with pytest.raises(InputError) as caught:
        make_config(method, {option: "3"})
    remedy = f"leave it out, or take `--method {other}`"
    assert str(caught.value) == f"`{option}` is an option of {other}, not of {method}: {remedy}."


@pytest.mark.parametrize("method", METHODS)
def test_every_option_has_a_help_text(method):
    texts = help_texts(methods._member(method, 1))
    assert list(make_config(method)) == list(texts)
    assert make_config(method) == dict(make_config(method))  # `eq=False`: it is what config.toml holds
    for text in texts.values():
        assert text == " ".join(text.split()).rstrip(".")
        assert len(text) > 5


def test_a_default_of_its_own_keeps_the_help_text_and_another_text_replaces_it():
    texts = help_texts(RCCConfig)
    assert texts["bag_size"] == "images per sampled bag, as 32 or 8-40"
    assert texts["weight_decay"] == "of Adam, ours"
    assert RCCConfig().bag_size == "36"


def test_a_configuration_is_a_mapping_of_its_options():
    config = KMeansConfig(n_init=3)
    assert config == dataclasses.asdict(config) == KMeansConfig(n_init=3) != KMeansConfig(n_init=4)
    assert (config["n_init"], config.get("steps"), len(config)) == (3, None, 8)
    with pytest.raises(KeyError):
        config["__post_init__"]


OPTIONS = [
    (method, name, kind)
    for method in METHODS
    for name, kind in field_types(methods._member(method, 1)).items()
    if typing.get_origin(kind) is typing.Annotated or kind in (int, float)
]


@pytest.mark.parametrize(("method", "name", "kind"), OPTIONS, ids=lambda value: str(value)[:30])
def test_every_number_has_a_range_wherever_it_is_given(method, name, kind):
    """From the command line (texts), from recipes and Python (numbers), and where a config is made by hand."""
    meta = kind.__metadata__[0]
    least = meta.ge if meta.ge is not None else meta.gt
    outside = [least - 1, *([meta.le + 1] if meta.le == 1 else []), *([] if meta.lt is None else [meta.lt])]
    for number in [*outside, math.nan, math.inf, -math.inf]:
        for value in (number, str(number)):
            with pytest.raises(InputError, match=f"^`{name}` must be a (whole )?number"):
                make_config(method, {name: value})
        with pytest.raises(InputError, match=f"^`{name}` must be a (whole )?number"):
            methods._member(method, 1)(**{name: number})


@pytest.mark.parametrize(
    ("method", "option", "value", "wanted"),
    [
        ("fusion-images", "wrong", 2, "a number from 0 to 1, got 2"),
        ("fusion-images", "decay", "2", "a number from 0 to 1, got '2'"),
        ("fusion-images", "settle", 5, "a number from 0 to 1, got 5"),
        ("fusion-images", "doubt", 1.01, "a number from 0 to 1, got 1.01"),
        ("fusion-images", "batch_size", 1, "a whole number, 2 or above, got 1"),
        ("fusion-embeddings", "dropout", 1, "a number from 0 to below 1, got 1"),
        ("ucc", "bandwidth", 0, "a number above 0, got 0"),
        ("kmeans", "n_init", True, "a whole number, 1 or above, got True"),
        ("kmeans", "n_init", None, "a whole number, 1 or above, got None"),
    ],
)
def test_a_refusal_says_what_was_wanted(method, option, value, wanted):
    with pytest.raises(InputError) as caught:
        make_config(method, {option: value})
    assert str(caught.value) == f"`{option}` must be {wanted}."


def test_numbers_of_numpy_are_numbers():
    config = make_config("kmeans", {"n_init": np.int64(3), "components": np.float32(7)})
    assert (config.n_init, type(config.n_init), config.components) == (3, int, 7)
    assert type(KMeansConfig(n_init=np.int64(3)).n_init) is int


@pytest.mark.parametrize("method", METHODS)
def test_every_option_is_listed_once_under_one_heading(method):
    config = make_config(method)
    groups = option_groups(type(config))
    assert next(iter(groups)) == ""
    assert sorted(name for names in groups.values() for name in names) == sorted(config)


def test_a_heading_is_kept_by_a_subclass_that_says_nothing_of_it():
    @dataclasses.dataclass(frozen=True, eq=False)
    class Base(Options):
        a: int = option(1, "first", group="Later:")
        b: int = option(2, "second")
        c: int = option(3, "third", group="Later:")

    @dataclasses.dataclass(frozen=True, eq=False)
    class Sub(Base):
        a: int = 4
        c: int = option(5, "now first", group="Last:")

    assert option_groups(Sub) == {"": ["b"], "Later:": ["a"], "Last:": ["c"]}
    assert help_texts(Sub) == {"a": "first", "b": "second", "c": "now first"}
