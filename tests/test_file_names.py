"""Names that every system takes, and none twice."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smidgen.file_names import Names, safe_name


@given(st.text(max_size=300))
def test_safe_names_name_one_file_below_their_folder(text):
    name = safe_name(text)
    assert name not in ("", ".", "..")
    assert not set('/\\:*?"<>|\0\n') & set(name)
    assert not name.startswith((".", "-"))
    assert not name.endswith((".", " "))
    assert len(name.encode()) <= 200


@given(st.lists(st.sampled_from(["a.png", "A.png", "a-2.png", "é", "e\u0301", "", ".."]), max_size=12))
def test_names_are_never_given_twice(wanted):
    names = Names()
    given = [names.take(text) for text in wanted]
    assert len({name.casefold() for name in given}) == len(wanted)


@pytest.mark.parametrize(("text", "name"), [("con", "_con"), ("a" * 300 + ".png", "a" * 116 + ".png"), ("x.", "x")])
def test_names_that_some_system_refuses(text, name):
    assert safe_name(text) == name
