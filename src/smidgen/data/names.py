"""Normalises names of classes and bags: one text per name, whatever its type and spelling, or none if missing."""

from __future__ import annotations

import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import date
from decimal import Decimal
from functools import lru_cache
from numbers import Integral, Real
from typing import Any

from smidgen.errors import InputError, InputWarning

_MISSING_IN_ANY_CASE = frozenset(("", "-1", "nan", "-nan", "null", "n/a", "#n/a", "<na>"))
_MISSING = frozenset(("NA", "#NA", "None", "NaT", "#N/A N/A", "1.#IND", "-1.#IND", "1.#QNAN", "-1.#QNAN"))
"""What pandas reads as missing; `none` and `na` in small letters are names there as here."""

_QUIETLY_MISSING = frozenset(("", "-1"))
_SURROGATES = re.compile("[\ud800-\udfff]")
_AROUND = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u200b\u200c\u200d\u2060\ufeff"  # and of no width
_UNICODE_MINUS = re.compile("\u2212[0-9.]+")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+")


def name_of(value: Any) -> str:
    """Return a name as text, "" for None, NaN and their like; the same name always as the same text.

    Spaces around it are dropped, letters are composed (Unicode NFC), and a whole number has no decimals.
    Raises ValueError for what is not a single text or number.

    >>> name_of(" cat "), name_of(1.0), name_of("1.0"), name_of("1.50"), name_of(float("nan"))
    ('cat', '1', '1', '1.50', '')
    """
    if value is None or _is_nan(value):
        return ""
    if not isinstance(value, str | bytes | bool | Real | Decimal | date):
        if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # an array or tensor of one value
            return name_of(value.item())
        raise ValueError(f"must be a single text or number, got a {type(value).__name__}")
    return _tidied(_as_text(value))


@lru_cache(maxsize=2**12)
def _tidied(text: str) -> str:
    text = unicodedata.normalize("NFC", text).strip(_AROUND)
    text = f"-{text[1:]}" if _UNICODE_MINUS.fullmatch(text) else text
    if _SURROGATES.search(text) is not None:  # bytes of another encoding
        raise ValueError(f"must be UTF-8 text, got {text!r}")
    whole = _WHOLE.fullmatch(text)
    return text if whole is None else whole[1]


def class_name(value: Any) -> str | None:
    """Return a class as text, see `name_of`; None where the class is not known, as pandas and NumPy spell that.

    >>> class_name("cat"), class_name(3.0), class_name(-1), class_name("-1.0"), class_name("NaN"), class_name(None)
    ('cat', '3', None, None, None, None)
    """
    text = name_of(value)
    return None if text.lower() in _MISSING_IN_ANY_CASE or text in _MISSING else text


def class_names(values: Iterable[Any], *, source: str, where: Callable[[int], str]) -> list[str | None]:
    """Return the class of each value, see `class_name`; warn where a word like "NA", which may be a name, is none.

    source: what the values are from; where: the place of the i-th. Raises InputError naming the place.
    """
    found: list[str | None] = []
    words = Counter[str]()
    for i, value in enumerate(values):
        try:
            found.append(class_name(value))
        except ValueError as error:
            raise InputError(f"{where(i)}: a class {error}.") from None
        if found[-1] is None and isinstance(value, str) and name_of(value) not in _QUIETLY_MISSING:
            words[name_of(value)] += 1
    if words:
        spelt = " or ".join(map(repr, sorted(words)))
        warnings.warn(
            InputWarning(
                f"{source}: {spelt} is read as a class that is not known ({words.total()} of {len(found)}); rename the"
                " class if it is one."
            ),
            stacklevel=2,
        )
    return found


def _is_nan(value: Any) -> bool:
    try:
        return bool(value != value) or type(value).__name__ == "MaskedConstant"
    except (TypeError, ValueError):  # pandas.NA is neither equal nor different; arrays are both
        return type(value).__name__ == "NAType"


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return str.__str__(value)  # of an enumeration its value
    if isinstance(value, bytes):
        return _decoded(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        if abs(value) == float("inf"):
            raise ValueError("must be a text or a finite number")
        whole = isinstance(value, Integral) or float(value).is_integer()
        return str(int(value) if whole else value)  # type: ignore[call-overload]  # Real has no __int__ in typeshed
    return str(value)


def _decoded(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError("must be UTF-8 text") from None
