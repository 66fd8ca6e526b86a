"""Parses single values of evidence, from files or Python: numbers, ranges, booleans, images."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable
from numbers import Integral
from pathlib import PurePath
from typing import Any

from smidgen.data.names import class_name, name_of

ImageKey = str | int
"""How a statement names an image: its id, or its row in the training set."""

_TRUE = frozenset(("1", "true", "t", "yes", "y", "same", "present"))
_FALSE = frozenset(("0", "false", "f", "no", "n", "different", "absent"))


def shown(value: Any) -> str:
    """Return a value as a message shows it: a picture's bytes are not shown whole.

    >>> shown("a.png"), len(shown("a" * 1000))
    ("'a.png'", 201)
    """
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}…"


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: empty, None, NaN and their like; -1 is a number.

    >>> is_missing(" "), is_missing(float("nan")), is_missing("NA"), is_missing(0), is_missing(-1)
    (True, True, True, False, False)
    """
    try:
        return class_name(value) is None and name_of(value) != "-1"
    except ValueError:
        return False


def if_given(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return a reader of cells that may be empty, and are None then.

    >>> if_given(whole_number)("3"), if_given(whole_number)("")
    (3, None)
    """
    return lambda value: None if is_missing(value) else read(value)


def whole_number(value: Any) -> int:
    """Return a whole number; raises ValueError.

    >>> whole_number("3"), whole_number(3.0), whole_number("3,0")
    (3, 3, 3)
    """
    decimal_comma = isinstance(value, str) and re.fullmatch(r"\s*[0-9]+,0\s*", value)  # "1,000" may be a thousand
    number = _number(value.replace(",", ".") if decimal_comma else value)
    if not number.is_integer():
        raise ValueError("must be a whole number")
    return int(number)


def number(value: Any) -> float:
    """Return a finite number, of text also with a decimal comma or in percent; raises ValueError.

    >>> number("0.5"), number("0,5"), number("50 %"), number(1)
    (0.5, 0.5, 0.5, 1.0)
    """
    if isinstance(value, str) and value.rstrip().endswith("%"):
        return number(value.rstrip()[:-1]) / 100
    found = _number(value.replace(",", ".") if isinstance(value, str) else value)
    if not math.isfinite(found):
        raise ValueError("must be a number")
    return found


def _number(value: Any) -> float:
    """Return a number, NaN for anything else."""
    try:
        return math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan


def truth(value: Any) -> bool:
    """Return whether something is so: 1 or 0, yes or no, true or false; raises ValueError.

    >>> truth("yes"), truth(0.0), truth(True)
    (True, False, True)
    """
    word = name_of(value).lower()
    if word not in _TRUE | _FALSE:
        raise ValueError("must be 1 or 0")
    return word in _TRUE


def count_range(value: Any) -> tuple[int, int | None]:
    """Return the range (min, max) of a count, a number or a pair, None for no limit; raises ValueError.

    >>> count_range(2), count_range((1, None))
    ((2, 2), (1, None))
    """
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError("must be a whole number or (least, largest)")
        return whole_number(value[0]), None if is_missing(value[1]) else whole_number(value[1])
    return whole_number(value), whole_number(value)


def image_key(value: Any) -> ImageKey:
    """Return what names an image: its id, or its row in the training set; raises ValueError.

    >>> image_key("a.png"), image_key(3.0)
    ('a.png', 3)
    """
    if isinstance(value, str):
        return str(value)
    if isinstance(value, PurePath):
        return os.fspath(value)
    if isinstance(value, bool) or not (isinstance(value, Integral) or _number(value).is_integer()):
        raise ValueError("must be the name of an image or its row")
    return int(value)
