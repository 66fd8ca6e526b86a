"""Schemas (msgspec) that files are checked against before use; the first mismatch becomes one sentence."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypedDict, TypeVar

import msgspec

from smidgen.errors import Damaged
from smidgen.options import Count, Share

T = TypeVar("T")

Filled = Annotated[str, msgspec.Meta(min_length=1)]

Plain = bool | int | float | str | None
Values = Plain | list[Plain] | dict[str, Plain | list[Plain]]

MetricsTable = dict[str, Values]
"""What `metrics.json` holds: figures by name, and the alarms as texts."""

ManifestTable = dict[str, Plain | list[Values] | dict[str, Plain | list[Values] | dict[str, Values]]]
"""What `manifest.json` holds, as to how deep it goes; `KnownManifest` says more of some of it."""


class KnownMetrics(TypedDict, total=False):
    """Entries of `metrics.json` that are no mere figures."""

    alarms: list[str]
    stopped_early: bool


class KnownLine(KnownMetrics, total=False):
    """Entries of a line of `metrics.jsonl`."""

    stage: str
    step: float
    seconds: float


class KnownAssignments(TypedDict, total=False):
    """Columns of `assignments.csv` that something depends on."""

    image: list[Filled]
    split: list[Filled]
    cluster: list[Filled]
    confidence: list[Share | Literal[""]]


class KnownData(TypedDict, total=False):
    """A manifest's entries about the images."""

    name: str
    shape: tuple[Count, ...]
    value_range: dict[str, tuple[float, float]]
    fingerprint: str


class KnownClusters(TypedDict):
    """A manifest's entries about the number of clusters that "auto" came to."""

    best: Count
    low: Count
    high: Count


class KnownManifest(TypedDict, total=False):
    """Entries of `manifest.json` that something depends on."""

    clusters_choice: KnownClusters
    data: KnownData | str
    evidence: Plain | dict[str, Values]
    fingerprints: dict[str, str]
    paths: dict[str, str | list[str]]
    started: str
    finished: str


def decode_json(data: bytes | str, kind: Any = Any, *, nan: bool = False) -> Any:
    """Return the value in JSON text, of a type that msgspec knows; raises Damaged with the reason if it is another.

    nan: also take Python's NaN and Infinity.

    >>> decode_json(b'{"clusters": 10}', dict[str, int])
    {'clusters': 10}
    >>> decode_json(b'{"clusters": "ten"}', dict[str, int])
    Traceback (most recent call last):
    smidgen.errors.Damaged: expected `int`, got `str` - at `$[...]`
    """
    if nan:
        return convert(_reasoned(lambda: json.loads(data)), kind)
    return _reasoned(lambda: msgspec.json.decode(data, type=kind))


def decode_toml(text: str) -> dict[str, Any]:
    """Return the table in TOML text; raises Damaged with the reason if it is none."""
    return _reasoned(lambda: tomllib.loads(text))


def convert(value: Any, kind: type[T], *, strict: bool = True) -> T:
    """Return plain values (dicts, lists, texts, numbers) as a type that msgspec knows.

    Raises Damaged with the reason if they do not fit. strict: if False, texts may stand for numbers, as in a CSV file.

    >>> convert(["0.5"], list[float], strict=False)
    [0.5]
    """
    return _reasoned(lambda: msgspec.convert(value, kind, strict=strict))


def _reasoned(read: Callable[[], T]) -> T:
    try:
        return read()
    except RecursionError:
        raise Damaged("it is nested too deeply") from None
    except ValueError as error:  # msgspec's, tomllib's, Unicode's
        text = " ".join(str(error).split())[:200]
        raise Damaged(text if text[1:2].isupper() else f"{text[:1].lower()}{text[1:]}") from None  # JSON is a name
