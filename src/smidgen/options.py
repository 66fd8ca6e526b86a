"""Typed options: one converter and one check of ranges for the command line, recipes, stored runs and Python."""

from __future__ import annotations

import dataclasses
import functools
import operator
import os
import re
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from smidgen.errors import InputError, unknown

_MOST = 2**53
LARGEST = sys.float_info.max
"""The largest finite number."""

Count = Annotated[int, Meta(ge=1, le=_MOST)]
"""A number of things that there must be one of at least."""
CountOrZero = Annotated[int, Meta(ge=0, le=_MOST)]
"""A number of things of which there may be none."""
Several = Annotated[int, Meta(ge=2, le=_MOST)]
"""A number of things of which one is not enough: images in a batch, ends of an interval."""
Share = Annotated[float, Meta(ge=0, le=1)]
"""A share, a probability."""
ShareBelowOne = Annotated[float, Meta(ge=0, lt=1)]
"""A share that is never all: 1 would leave nothing to learn from."""
Weight = Annotated[float, Meta(ge=0, le=LARGEST)]
"""A weight, a rate, a factor: 0 turns it off."""
Positive = Annotated[float, Meta(gt=0, le=LARGEST)]
"""A number that cannot be 0: a width, a time."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?")


def convert(name: str, value: Any, kind: Any, *, strict: bool = False) -> Any:
    """Return a value as the annotated type of a field, in the field's range.

    kind: bool, int, float or str, perhaps with a range, `Annotated[float, Meta(ge=0, le=1)]`; Literal[…]; a mapping;
    or one of these or None; or one of these or a word, `int | Literal["auto"]`; or str and msgspec's Structs, which
    tables are read as. strict: texts are not read as numbers, as in TOML, which has both.
    Raises InputError, with the name, the value and what was wanted.

    >>> convert("n_init", "3", Count), convert("spherical", "true", bool), convert("max_seconds", "none", float | None)
    (3, True, None)
    >>> convert("n_clusters", "auto", Count | Literal["auto"])
    'auto'
    >>> convert("wrong", 2, Share)
    Traceback (most recent call last):
    smidgen.errors.InputError: `wrong` must be a number from 0 to 1, got 2.
    """
    options = _alternatives(kind)
    if type(None) in options and (value is None or (value == "none" and not strict)):
        return None
    options = tuple(option for option in options if option is not type(None))
    structs = tuple(o for o in options if isinstance(o, type) and issubclass(o, msgspec.Struct))
    if isinstance(value, structs):
        return value
    if structs and isinstance(value, Mapping):
        return _struct(name, value, structs)
    kind = next((o for o in options if _base(o) is tuple and isinstance(value, list | tuple)), options[0])
    plain = value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value  # of NumPy
    words = [word for o in options[1:] if typing.get_origin(o) is Literal for word in typing.get_args(o)]
    if isinstance(plain, str) and plain in words:
        return plain
    if typing.get_origin(kind) is Literal:
        if plain not in typing.get_args(kind):
            raise unknown(f"value for `{name}`", str(plain), typing.get_args(kind))
        return plain
    if _base(kind) in _TABLES and isinstance(plain, Mapping):
        return plain
    try:
        return msgspec.convert(_read(plain, _base(kind), strict=strict), kind, strict=strict)
    except msgspec.ValidationError:
        others = "".join(f", or {word}" for word in words if isinstance(plain, str))
        raise InputError(f"`{name}` must be {_wanted(kind)}{others}, got {plain!r}.") from None


def _struct(name: str, table: Mapping[str, Any], structs: tuple[type, ...]) -> Any:
    try:
        return msgspec.convert(dict(table), functools.reduce(operator.or_, structs))
    except msgspec.ValidationError as error:
        given = f"got {dict(table)!r} ({error})"
        raise InputError(f"`{name}` must be a text, or a table as runs write it, {given}.") from None


def check_fields(config: Any) -> None:
    """Bring the fields of a dataclass to their annotated types; to be called when it is made.

    Raises InputError for a field that is of another type or out of its range; texts are not read as numbers.
    """
    for name, kind in field_types(type(config)).items():
        object.__setattr__(config, name, convert(name, getattr(config, name), kind, strict=True))  # it may be frozen


def field_types(config_class: type) -> Mapping[str, Any]:
    """Return name → annotated type, with its range, of a dataclass's fields."""
    kinds = typing.get_type_hints(config_class, include_extras=True)
    return {field.name: kinds[field.name] for field in dataclasses.fields(config_class)}


def option(default: Any, about: str, *, group: str = "") -> Any:
    """Return a field of a method's configuration with its help text, as `smidgen list methods NAME` shows it.

    group: a heading under which it is listed with others, after those without one: what a reader needs last.
    """
    return dataclasses.field(default=default, metadata={"help": about, "group": group})


def help_texts(config_class: type) -> dict[str, str]:
    """Return name → help text of a configuration's options; a field that a subclass only gives a default keeps its."""
    return _metadata(config_class, "help")


def option_groups(config_class: type) -> dict[str, list[str]]:
    """Return heading → names of a configuration's options, those without a heading first, under "".

    A field that a subclass declares anew keeps its heading, unless it gets another one.
    """
    groups: dict[str, list[str]] = {"": []}
    headings = _metadata(config_class, "group")
    for field in dataclasses.fields(config_class):
        groups.setdefault(headings.get(field.name, ""), []).append(field.name)
    return groups


def _metadata(config_class: type, name: str) -> dict[str, str]:
    """Return field → what its metadata, or those of the class that first declared it, hold under a name."""
    declared = [part.__dict__.get("__dataclass_fields__", {}) for part in reversed(config_class.__mro__)]
    fields = [field for part in declared for field in part.values()]
    return {field.name: field.metadata[name] for field in fields if field.metadata.get(name)}


class Options(Mapping[str, Any]):
    """The configuration of a method, whose fields are checked when it is made.

    Subclasses are `dataclass(frozen=True, eq=False)`, every one with this decorator: as a mapping, name → value, it
    equals any other with the same options, such as those read from `config.toml`. A field is an `option` of a type that
    `convert` knows; `Count`, `Share` and the like have a range.

    >>> @dataclasses.dataclass(frozen=True, eq=False)
    ... class ToyConfig(Options):
    ...     steps: Count = option(300, "steps of training")
    >>> ToyConfig(steps=0)
    Traceback (most recent call last):
    smidgen.errors.InputError: `steps` must be a whole number, 1 or above, got 0.
    """

    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    """Options by name, set at once by `preset`."""
    BATCH: ClassVar[str] = "batch_size"
    """The option that says how much a step takes, for when memory runs out."""

    def __post_init__(self) -> None:
        check_fields(self)

    def __getitem__(self, name: str) -> Any:
        if name not in self.__dict__:
            raise KeyError(name)
        return self.__dict__[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.__dict__)

    def __len__(self) -> int:
        return len(self.__dict__)


def in_words(kind: Any) -> str:
    """Return a field's range as help shows it, "" where there is none.

    >>> in_words(Share), in_words(Count), in_words(Weight), in_words(str)
    ('0 to 1', '1 or above', '0 or above', '')
    """
    ends = _range(next(option for option in _alternatives(kind) if option is not type(None)))
    return ends.removeprefix("from ").removeprefix(", ")


# ------------------------------------------------------------------------------------------------- types and texts


def _alternatives(kind: Any) -> tuple[Any, ...]:
    is_union = typing.get_origin(kind) in (typing.Union, type(int | None))
    return typing.get_args(kind) if is_union else (kind,)


def _base(kind: Any) -> Any:
    """Return a type without its range: int of Annotated[int, …], dict of Mapping[str, str]."""
    return kind.__origin__ if typing.get_origin(kind) is Annotated else typing.get_origin(kind) or kind


def _read(value: Any, base: Any, *, strict: bool) -> Any:
    """Return a value in the form that msgspec reads: 3 for the whole number 3.0 and a path as text.

    Unless `strict`, numbers may also be written 1e3 or .5, and texts as numbers, as in `bag_size = 32`.
    """
    if base is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if base is tuple and isinstance(value, list | tuple):
        return [os.fspath(one) if isinstance(one, os.PathLike) else one for one in value]
    if base is str and not strict and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if base is not str and not strict and isinstance(value, str):
        value = float(value) if base in (int, float) and _NUMBER.fullmatch(value.strip()) else value.strip()
    return int(value) if base is int and isinstance(value, float) and value.is_integer() else value


_TABLES = (Mapping, dict)
_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", tuple: "a list of texts"}


def _wanted(kind: Any) -> str:
    ends = _range(kind)
    return f"{_WORDS.get(_base(kind), 'a table')}{ends if ends.startswith(',') else f' {ends}' if ends else ''}"


def _range(kind: Any) -> str:
    """Return "from 0 to 1", ", 1 or above", "above 0", or "" where a type has no range; beyond `_MOST` is none."""
    meta = next((m for m in getattr(kind, "__metadata__", ()) if isinstance(m, Meta)), Meta())
    least, above = meta.ge, meta.gt
    largest = meta.le if meta.le is not None and meta.le < _MOST else None
    below = meta.lt if meta.lt is not None and meta.lt < _MOST else None
    if largest is None and below is None:
        return f"above {above:g}" if above is not None else f", {least:g} or above" if least is not None else ""
    start = f"above {above:g}" if above is not None else f"from {least:g}"
    return f"{start} to {largest:g}" if largest is not None else f"{start} to below {below:g}"
