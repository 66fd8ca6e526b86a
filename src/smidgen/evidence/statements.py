"""Statements: what is known as it was said, in tables that name images, bags and classes, and where each was said."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from smidgen.data.cells import ImageKey

KINDS = ("labels", "bags", "counts", "proportions", "class_counts", "presence", "pairs")
"""The kinds of statements, which are the tables of `Evidence`."""


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


@dataclass(frozen=True, eq=False)
class Statements:
    """The tables of `Evidence`, one tuple a row, and the places in files that the rows come from.

    labels: (image, class). bags: (bag, image). counts: (bag, least, largest or None for no limit), the number of
    different classes. proportions: (bag, class, share), class_counts: (bag, class, number of images); classes not
    named have none. presence: (bag, class, whether present). pairs: (image, image, whether of the same class).
    """

    labels: tuple[tuple[ImageKey, str], ...] = ()
    bags: tuple[tuple[str, ImageKey], ...] = ()
    counts: tuple[tuple[str, int, int | None], ...] = ()
    proportions: tuple[tuple[str, str, float], ...] = ()
    class_counts: tuple[tuple[str, str, int], ...] = ()
    presence: tuple[tuple[str, str, bool], ...] = ()
    pairs: tuple[tuple[ImageKey, ImageKey, bool], ...] = ()
    origins: Mapping[str, tuple[Origin, ...]] = field(default_factory=dict, repr=False)

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
        return any(getattr(self, kind) for kind in KINDS)

    def sizes(self) -> dict[str, int]:
        """Return how much there is of each kind that is there; bags are counted, not their images.

        >>> Statements(bags=(("a", 0), ("a", 1), ("b", 2)), labels=((0, "cat"),)).sizes()
        {'labels': 1, 'bags': 2}
        """
        about_images = ("labels", "pairs")
        found = {kind: getattr(self, kind) for kind in KINDS}
        return {
            kind: len(rows) if kind in about_images else len({row[0] for row in rows})
            for kind, rows in found.items()
            if rows
        }

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
        for kind in ("labels", "proportions", "class_counts", "presence"):
            for i, row in enumerate(getattr(self, kind)):
                yield kind, i, row[1]

    def folders_of_runs(self, kind: str) -> dict[int, str]:
        """Return the numbers of a kind's statements from tables of smidgen's, and the folders their images are in."""
        found: dict[int, str] = {}
        start = 0
        for origin in self.origins_of(kind):
            if origin.of_run:
                found |= dict.fromkeys(range(start, start + len(origin.lines)), origin.folder)
            start += len(origin.lines)
        return found
