"""The configuration as a table, and back."""

import pytest

from smidgen.config import Config, as_table, from_table
from smidgen.errors import InputError


def test_several_paths_and_patterns_are_kept():
    config = Config(data=["a", "b"], exclude=["*.gif"])
    assert (config.data, config.exclude) == (("a", "b"), ("*.gif",))
    assert from_table(as_table(config)) == config
    for wrong in ({"data": ["a", 3]}, {"data": "a", "exclude": "*.gif"}):
        with pytest.raises(InputError, match="must be a list of texts"):
            from_table(wrong)


def test_what_is_none_is_left_out():
    table = as_table(Config("digits", options={"a": None, "b": 1}))
    assert "test" not in table
    assert table["options"] == {"b": 1}


def test_a_table_and_back():
    config = Config("digits", size=32, options={"steps": 3})
    assert from_table(as_table(config)) == config


def test_an_unknown_setting_is_named():
    with pytest.raises(InputError, match=r"Unknown setting 'sede'\. Did you mean 'seed'"):
        from_table({"data": "digits", "sede": 1})
