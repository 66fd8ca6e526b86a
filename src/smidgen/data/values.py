"""The pixel values that map to black and white: chosen once per collection from its values, or by the user."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from smidgen.errors import InputError

BITS = (8, 10, 12, 14, 16)
"""Depths that cameras and scanners have; the smallest that holds a collection's largest value is taken for its own."""

KINDS = ("eight_bits", "integers", "floats")

_LITTLE = 1 / 8  # of the range: images that use less than that are nearly of one grey
_SEVERAL = 10  # images that say more than their own darkness

Range = tuple[float, float]


@dataclass(frozen=True, slots=True)
class ValueRange:
    """The values (low, high) that become black and white, by the kind of numbers in which pixels are stored.

    integers, floats: of more than 8 bits; None where no image has decided it yet.
    eight_bits: of all other images.
    """

    integers: Range | None = None
    floats: Range | None = None
    eight_bits: Range = (0, 255)

    def of(self, kind: str) -> Range | None:
        """Return the range of one of `KINDS`, None while it is open."""
        pair: Range | None = getattr(self, kind)
        return pair

    def as_table(self) -> dict[str, list[float]]:
        """Return the ranges that are not open, by kind."""
        return {kind: list(pair) for kind in KINDS if (pair := self.of(kind)) is not None}

    @classmethod
    def from_table(cls, table: Mapping[str, Sequence[float]]) -> ValueRange:
        """Return what `as_table` gave, from JSON; raises InputError for anything else."""
        pairs = {kind: _pair(pair) for kind, pair in table.items() if pair is not None}
        if not pairs.keys() <= set(KINDS) or not all(pair and pair[0] <= pair[1] for pair in pairs.values()):
            raise InputError(
                f"A range of values must be two numbers for each of {', '.join(KINDS)}, got {dict(table)}."
            )
        return cls(**pairs)  # type: ignore[arg-type]

    def decided(self, seen: Mapping[str, Range]) -> ValueRange:
        """Return the same with the ranges that are open decided by the least and the largest value of each kind.

        >>> ValueRange().decided({"integers": (0, 3000), "floats": (0.0, 0.7)})
        ValueRange(integers=(0, 4095), floats=(0, 1), eight_bits=(0, 255))
        """
        open_kinds = {kind: decide(*extent, kind=kind) for kind, extent in seen.items() if self.of(kind) is None}
        return ValueRange(
            open_kinds.get("integers", self.integers), open_kinds.get("floats", self.floats), self.eight_bits
        )


OPEN = ValueRange()
"""What images of more than 8 bits decide themselves."""


def decide(low: float, high: float, *, kind: str = "integers") -> Range:
    """Return the range that values from `low` to `high` belong to; it always holds them all.

    Floats within [0, 1] or [-1, 1] have these ranges. Otherwise it is 0 to the largest value of 8, 10, 12, 14 or 16
    bits, whichever is enough; and `low` to `high` themselves for negative values and those beyond 16 bits.

    >>> decide(0, 127), decide(0, 256), decide(-1000, 3000), decide(0.0, 0.5, kind="floats")
    ((0, 255), (0, 1023), (-1000, 3000), (0, 1))
    """
    if kind == "floats" and low >= -1 and high <= 1:
        return (0, 1) if low >= 0 else (-1, 1)
    for bits in BITS:
        if low >= 0 and high <= 2**bits - 1:
            return (0, 2**bits - 1)
    return (low, high)


def as_value_range(given: Any) -> ValueRange:
    """Return what a user gives as `value_range`: a pair (low, high) for all images, or something that says one.

    given: None or "auto" leaves it to the images; a pair of numbers; a text "LOW:HIGH", or "N-bit" for 0 to 2^N - 1;
        a ValueRange as it is. A pair beyond 0 to 255 is not about images of 8 bits, which keep 0 to 255.

    Raises InputError for anything else, and unless low is below high.

    >>> as_value_range("12-bit") == as_value_range("0:4095") == as_value_range((0, 4095))
    True
    """
    if isinstance(given, ValueRange):
        return given
    if given is None or (isinstance(given, str) and given == "auto"):
        return OPEN
    pair = _pair(given)
    if pair is None or not (all(map(math.isfinite, pair)) and pair[0] < pair[1]):
        raise InputError(
            f"`value_range` must be the values of black and white, LOW:HIGH with LOW below HIGH, as in 0:4095, or a"
            f" number of bits, as in 12-bit, or auto, got {given!r}."
        )
    return ValueRange(pair, pair, pair if pair[0] >= 0 and pair[1] <= 255 else (0, 255))


def _pair(given: Any) -> Range | None:
    if isinstance(given, str):
        if bits := re.fullmatch(r"([1-9]|[12][0-9]|3[0-2])[ -]?bits?", given.strip()):
            return (0, 2 ** int(bits[1]) - 1)
        given = given.split(":")
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        return None
    return _short(low), _short(high)


def _short(value: float) -> float:
    """Return a whole number as int, so that it is written as 4095 and not as 4095.0."""
    return int(value) if math.isfinite(value) and value == int(value) else value


def as_text(given: Any) -> str | None:
    """Return what `as_value_range` takes as the text that configurations have; raises InputError as it does.

    >>> as_text((0, 4095)), as_text(" 12-bit "), as_text("auto")
    ('0:4095', '12-bit', None)
    """
    values = as_value_range(given)
    if isinstance(given, str) or values == OPEN:
        return None if values == OPEN else given.strip()
    low, high = values.integers or values.floats or values.eight_bits
    return f"{low}:{high}"


def in_words(pair: Range) -> str:
    """Return a range as a user would say it.

    >>> in_words((0, 4095)), in_words((0.0, 1.0)), in_words((-0.5, 70000.25))
    ('0 to 4,095 (12 bits)', '0 to 1', '-0.5 to 70,000.2')
    """
    low, high = (f"{_short(value):,}" if value == int(value) else f"{value:,.6g}" for value in pair)
    bits = next((f" ({bits} bits)" for bits in BITS if pair == (0, 2**bits - 1)), "")
    return f"{low} to {high}{bits}"


# ------------------------------------------------------------------------------------------------------------- arrays


def kind_of(dtype: np.dtype) -> str:
    """Return which of `KINDS` an array's numbers are; raises InputError for what are no numbers."""
    if dtype in (np.uint8, np.bool_):
        return "eight_bits"
    if dtype.kind in "iu":
        return "integers"
    if dtype.kind == "f":
        return "floats"
    raise InputError(f"Images must be arrays of integers, floats or bool, got an array of {dtype}.")


def to_levels(values: np.ndarray, pair: Range) -> np.ndarray:
    """Return values as uint8, `pair` being 0 and 255; what lies outside becomes the nearer of them.

    Bool is black and white whatever the range.

    >>> to_levels(np.array([0, 127, 4095, 9999], dtype=np.uint16), (0, 4095))
    array([  0,   8, 255, 255], dtype=uint8)
    """
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint8 and pair == (0, 255):
        return values
    low, high = pair
    exact: np.ndarray = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
    with np.errstate(over="ignore"):
        levels = (exact - low) * (255 / max(high - low, 1e-300))  # all of one value: 0
    return np.rint(levels).clip(0, 255).astype(np.uint8)


@dataclass(frozen=True, eq=False)
class Extents:
    """What values each of n images holds.

    kinds: (n,) places in `KINDS`. low, high: (n,) float64, their least and largest value.
    """

    kinds: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def empty(cls, n: int) -> Extents:
        """Return those of n images of 8 bits, to be filled."""
        return cls(np.zeros(n, dtype=np.int8), np.zeros(n), np.zeros(n))

    def at(self, rows: np.ndarray) -> Extents:
        """Return those of some images: integers or a mask."""
        return Extents(self.kinds[rows], self.low[rows], self.high[rows])

    def overall(self) -> dict[str, Range]:
        """Return the least and the largest value of each kind that there is."""
        found = {}
        for place, kind in enumerate(KINDS):
            rows = self.kinds == place
            if rows.any():
                found[kind] = (float(self.low[rows].min()), float(self.high[rows].max()))
        return found

    def note(self, row: int, kind: str, low: float, high: float) -> None:
        """Fill in what one image holds."""
        self.kinds[row], self.low[row], self.high[row] = KINDS.index(kind), low, high


def joined(extents: Sequence[Extents]) -> Extents:
    """Return the extents of one collection after the other."""
    columns = ([getattr(part, name) for part in extents] for name in ("kinds", "low", "high"))
    return Extents(*(np.concatenate(column) for column in columns))


# -------------------------------------------------------------------------------------------------------------- words


def decision(extents: Extents, values: ValueRange) -> tuple[str, ...]:
    """Return how a collection's images are read, as sentences; none for what everyone expects, 8 bits from 0 to 255."""
    said = []
    for kind in extents.overall():
        pair = values.of(kind)
        if pair is not None and (kind, pair) != ("eight_bits", (0, 255)):
            name = "8-bit values" if kind == "eight_bits" else f"values stored as {kind}"
            said.append(f"Black to white are {name} from {in_words(pair)} (`value_range` changes it).")
    return tuple(said)


def doubts(extents: Extents, values: ValueRange, ids: Sequence[str] | np.ndarray) -> tuple[str, ...]:
    """Return what speaks against the range that a collection's images are read by, as sentences."""
    said = []
    for place, kind in enumerate(KINDS):
        pair, rows = values.of(kind), np.flatnonzero(extents.kinds == place)
        if pair is None or not len(rows):
            continue
        low, high = extents.low[rows], extents.high[rows]
        beyond = rows[(low < pair[0]) | (high > pair[1])]
        if len(beyond):
            said.append(
                f"{len(beyond):,} {'image holds' if len(beyond) == 1 else 'images hold'} values beyond"
                f" {in_words(pair)}, which become black or white, first"
                f" {ids[beyond[0]]!s}."
            )
        if kind != "eight_bits" or len(rows) >= _SEVERAL:  # a single picture may well be dark
            said += _of_little(low, high, pair)
    return tuple(said)


def _of_little(low: np.ndarray, high: np.ndarray, pair: Range) -> list[str]:
    """Return a sentence if a collection, or an ordinary image of it, uses next to nothing of the range."""
    share = _LITTLE * (pair[1] - pair[0])
    used, what = (low.min(), high.max()), "No image holds"
    if used[1] - used[0] >= share and len(low) >= _SEVERAL:
        used, what = (np.quantile(low, 0.25), np.quantile(high, 0.75)), "Most images hold no"
    if not 0 < used[1] - used[0] < share:
        return []
    least, most = _short(float(used[0])), _short(float(used[1]))
    return [
        f"{what} values outside {in_words((least, most))}, little of {in_words(pair)}:"
        f" `value_range={least:.6g}:{most:.6g}` shows more of them."
    ]
