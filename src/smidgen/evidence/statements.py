"""Statements: what is known as it was said, in tables that name images, bags and classes, and where each was said."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from smidgen.evidence.kinds import all_kinds


@dataclass(frozen=True)
class Origin:
    """Where consecutive statements of one kind come from: a file and their lines, or "" for Python.

    of_run: whether the file is a table of smidgen's, which may name images of other splits too. folder: the folder that
    the names of its images begin in, "" if that is not known.
    """

    source: str
    lines: Sequence[int]
    of_run: bool = False
    folder: str = ""


class Statements:
    """The tables of `Evidence`, one tuple a row, and the places in files that the rows come from.

    tables: of each kind of evidence those that its file (`evidence.kinds`) describes; they are attributes too:
    labels: (image, class). bags: (bag, image). counts: (bag, min, max or None for no limit), the number of different
    classes. proportions: (bag, class, share), class_counts: (bag, class, number of images); classes not named have
    none. presence: (bag, class, whether present). pairs: (image, image, whether of the same class). …
    """

    def __init__(
        self, *, origins: Mapping[str, tuple[Origin, ...]] | None = None, **tables: tuple[tuple[Any, ...], ...]
    ) -> None:
        names = table_names()
        if strange := tables.keys() - set(names):
            raise TypeError(f"There is no evidence {sorted(strange)[0]!r}; there are {', '.join(names)}.")
        self.tables = {name: tuple(tables.get(name, ())) for name in names}
        self.origins = origins or {}

    def __getattr__(self, name: str) -> tuple[tuple[Any, ...], ...]:
        if name != "tables" and name in self.tables:
            return self.tables[name]
        raise AttributeError(f"{type(self).__name__} has no {name!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={rows}' for name, rows in self.tables.items() if rows)})"

    def origins_of(self, kind: str, kept: Collection[int] | None = None) -> tuple[Origin, ...]:
        """Return the origins of a kind's statements, of those numbered in `kept` only."""
        origins = self.origins.get(kind) or (Origin("", range(1, len(getattr(self, kind)) + 1)),)
        if kept is None:
            return tuple(origin for origin in origins if len(origin.lines))
        left, start = [], 0
        for origin in origins:
            left.append(replace(origin, lines=[line for i, line in enumerate(origin.lines, start) if i in kept]))
            start += len(origin.lines)
        return tuple(origin for origin in left if len(origin.lines))

    def __bool__(self) -> bool:
        return any(self.tables.values())

    def sizes(self) -> dict[str, int]:
        """Return how much there is of each kind that is there; bags are counted, not their images.

        >>> Statements(bags=(("a", 0), ("a", 1), ("b", 2)), labels=((0, "cat"),)).sizes()
        {'labels': 1, 'bags': 2}
        """
        return {name: kind.size(self.tables[name]) for kind in all_kinds() for name in kind.tables if self.tables[name]}

    def where(self, kind: str, i: int) -> str:
        """Return where the i-th statement of a kind comes from: "labels.csv line 3", or "Labels, entry 3"."""
        for origin in self.origins_of(kind):
            if i < len(origin.lines):
                place = origin.source or kind.replace("_", " ").capitalize()
                return f"{place} line {origin.lines[i]}" if origin.source else f"{place}, entry {origin.lines[i]}"
            i -= len(origin.lines)
        raise IndexError(i)

    def source(self, kind: str) -> str:
        """Return where the first statement of a kind comes from: a file, or the name of the kind for Python."""
        origins = self.origins_of(kind)
        return (origins[0].source if origins else "") or kind.replace("_", " ").capitalize()

    def class_mentions(self) -> Iterator[tuple[str, int, str]]:
        """Yield (kind, number of the statement, class) wherever a class is named."""
        for kind in all_kinds():
            at = kind.class_at
            if at is not None:
                for table in kind.tables:
                    for i, row in enumerate(self.tables[table]):
                        yield table, i, row[at]

    def folders_of_runs(self, kind: str) -> dict[int, str]:
        """Return the numbers of a kind's statements from tables of smidgen's, and the folders their images are in."""
        found: dict[int, str] = {}
        start = 0
        for origin in self.origins_of(kind):
            if origin.of_run:
                found |= dict.fromkeys(range(start, start + len(origin.lines)), origin.folder)
            start += len(origin.lines)
        return found


def table_names() -> tuple[str, ...]:
    """Return the names of all tables of statements, in their order."""
    return tuple(name for kind in all_kinds() for name in kind.tables)
