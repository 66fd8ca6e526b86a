"""Evidence: everything that is known about the images, as statements that name images, bags and classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.data.evidence_files import FILES, Table, files_in, read_table, write_table
from smidgen.data.resolved import Resolved
from smidgen.data.resolving import resolve
from smidgen.data.statements import KINDS, ImageKey, Origin, Statements
from smidgen.errors import InputError


@dataclass(frozen=True, eq=False)
class Evidence(Statements):
    """What is known, in any mixture; every part optional. Made by `from_…`, joined by `|`.

    It holds tables of statements like those of the files, see `Statements`; they are checked in `resolve`.
    """

    # ------------------------------------------------------------------------------------------------- constructors

    @classmethod
    def from_files(
        cls,
        *,
        labels: Path | str | None = None,
        bags: Path | str | None = None,
        counts: Path | str | None = None,
        proportions: Path | str | None = None,
        presence: Path | str | None = None,
        pairs: Path | str | None = None,
    ) -> Evidence:
        """Return the evidence in CSV files, with columns

        image,label · bag,image · bag,ucc or bag,ucc_min,ucc_max · bag,label,share or bag,label,count ·
        bag,label,present · image_a,image_b,same

        An empty label or -1 is not known. Raises InputError naming file and line.
        """
        paths = (labels, bags, counts, proportions, presence, pairs)
        given = {kind: path for kind, path in zip(FILES, paths, strict=True) if path is not None}
        about_bags = [kind for kind in ("counts", "proportions", "presence") if kind in given]
        if about_bags and bags is None:
            raise InputError(
                f"`{about_bags[0]}` {str(given[about_bags[0]])!r} speaks of bags, but `bags` was not given: add the"
                " file that lists their images as bag,image."
            )
        result = cls()
        for kind, path in given.items():
            result = result | cls._from_table(kind, read_table(path, kind))
        return result

    @classmethod
    def from_folder(cls, folder: Path | str) -> Evidence:
        """Return the evidence in the files `labels.csv`, `bags.csv`, … of a folder, those that are there."""
        return cls.from_files(**files_in(folder))

    @classmethod
    def _from_table(cls, kind: str, table: Table) -> Evidence:
        rows, lines = table.rows, table.lines
        if kind == "labels":
            known = [i for i, row in enumerate(rows) if row[1] is not None]
            rows, lines = tuple(rows[i] for i in known), tuple(lines[i] for i in known)
        elif "label" in table.columns and any(row[1] is None for row in rows):
            i = next(i for i, row in enumerate(rows) if row[1] is None)
            raise InputError(f"{table.path} line {lines[i]}: label must name a class.")
        if table.columns == ("bag", "ucc"):
            rows = tuple((bag, count, count) for bag, count in rows)
        if table.columns == ("bag", "label", "count"):
            kind = "class_counts"
        return cls(**{kind: rows, "origins": {kind: (Origin(table.path, lines),)}})  # type: ignore[arg-type]

    @classmethod
    def from_labels(cls, labels: Sequence[Any] | np.ndarray, *, ids: Sequence[ImageKey] | None = None) -> Evidence:
        """Return labels of the training images, in their order or that of `ids`.

        labels: (n,) integers or texts; -1, "", None and NaN are not known. Classes are named by their text ("3").

        >>> Evidence.from_labels([-1, 3, "cat"]).labels
        ((1, '3'), (2, 'cat'))
        """
        keys: Sequence[ImageKey] = range(len(labels)) if ids is None else ids
        if len(keys) != len(labels):
            raise InputError(f"`ids` names {len(keys)} images, but there are {len(labels)} labels.")
        values = labels.tolist() if isinstance(labels, np.ndarray) else list(labels)
        named = ((key, _class_name(value)) for key, value in zip(keys, values, strict=True))
        return cls(labels=tuple((_key(key), name) for key, name in named if name is not None))

    @classmethod
    def from_bags(
        cls,
        bags: Mapping[str, Iterable[ImageKey]] | Sequence[Iterable[ImageKey]],
        *,
        counts: Mapping[str, Any] | Sequence[Any] | None = None,
        proportions: Mapping[str, Any] | Sequence[Any] | None = None,
        class_counts: Mapping[str, Any] | Sequence[Any] | None = None,
        presence: Mapping[str, Any] | Sequence[Any] | None = None,
    ) -> Evidence:
        """Return bags and what is known of each; images are ids or rows of the training set.

        bags: name → images, or a list of bags, which are then called bag0, bag1, …; the others likewise by name or in
        the same order, None where nothing is known. A count is a whole number or (least, largest); proportions,
        class_counts and presence are {class: value}.

        >>> Evidence.from_bags([[0, 1, 2], [3, 4]], counts=[2, (1, 2)]).counts
        (('bag0', 2, 2), ('bag1', 1, 2))
        """
        named = _by_name(bags, None)
        tables: dict[str, tuple[tuple[Any, ...], ...]] = {
            "bags": tuple((name, _key(image)) for name, images in named.items() for image in images)
        }
        if counts is not None:
            known = ((name, value) for name, value in _by_name(counts, named).items() if value is not None)
            tables["counts"] = tuple((name, *_as_range(value)) for name, value in known)
        for kind, values in (("proportions", proportions), ("class_counts", class_counts), ("presence", presence)):
            if values is not None:
                tables[kind] = tuple(
                    (name, str(label), value)
                    for name, row in _by_name(values, named).items()
                    for label, value in (row or {}).items()
                )
        return cls(**tables)  # type: ignore[arg-type]

    @classmethod
    def from_pairs(
        cls,
        *,
        same: Iterable[tuple[ImageKey, ImageKey]] = (),
        different: Iterable[tuple[ImageKey, ImageKey]] = (),
    ) -> Evidence:
        """Return pairs of images of the same class and of different classes; images are ids or rows.

        >>> Evidence.from_pairs(same=[(0, 1)], different=[(0, 2)]).pairs
        ((0, 1, True), (0, 2, False))
        """
        stated = ((pairs, answer) for pairs, answer in ((same, True), (different, False)))
        return cls(pairs=tuple((_key(a), _key(b), answer) for pairs, answer in stated for a, b in pairs))

    # -------------------------------------------------------------------------------------------------------- joining

    def merge(self, other: Evidence) -> Evidence:
        """Return all statements of both; a bag that is in both must have the same images in both.

        Raises InputError otherwise. `a | b` is the same.
        """
        tables = {kind: getattr(self, kind) + getattr(other, kind) for kind in KINDS}
        origins = {kind: self.origins_of(kind) + other.origins_of(kind) for kind in KINDS}
        if self.bags and other.bags:
            mine, theirs = _members(self.bags), _members(other.bags)
            common = mine.keys() & theirs.keys()
            different = next((name for name in theirs if name in common and mine[name] != theirs[name]), None)
            if different is not None:
                raise InputError(
                    f"Bag {different!r} has other images in the other evidence; give it another name there."
                )
            kept = {i for i, (name, _) in enumerate(other.bags) if name not in common}
            tables["bags"] = self.bags + tuple(row for i, row in enumerate(other.bags) if i in kept)
            origins["bags"] = self.origins_of("bags") + other.origins_of("bags", kept)
        return Evidence(**tables, origins=origins)

    def __or__(self, other: Evidence) -> Evidence:
        return self.merge(other)

    # ------------------------------------------------------------------------------------------------------------ use

    def resolve(
        self,
        ids: Sequence[str] | np.ndarray,
        class_names: Sequence[str] | None = None,
        n_clusters: int | None = None,
        *,
        skipped: Collection[str] = (),
        keep_contradictory_pairs: bool = False,
        kind_of_images: str = "training images",
    ) -> Resolved:
        """Return the evidence as index arrays over the training images, all statements checked.

        ids: (n,) ids of the training images, unique.
        class_names: the classes there are, which fixes their order; None for those named, in natural order.
        n_clusters: largest count possible; None to let that pass.
        skipped: ids of images that could not be read: what is said of them is dropped, and the count of a bag that
            lost images becomes the range that is left possible.
        keep_contradictory_pairs: let pairs pass of which one calls different what others call the same; wrong
            evidence is ordinary, and the losses bear it, but usually such pairs are slips worth mending.
        kind_of_images: what messages call them.

        Raises InputError naming the file and line of an unknown image or class, a bag without images, contradictory
        labels, pairs or presence, an image paired with itself, a count below 1, above the bag's images or above
        `n_clusters`, a range that ends before it begins, shares that are negative or do not sum to one, class counts
        that do not sum to the bag size.

        >>> Evidence.from_labels([-1, 7, 3]).resolve(["a.png", "b.png", "c.png"]).labels
        tensor([-1,  1,  0])
        """
        return resolve(
            self,
            ids,
            class_names=class_names,
            n_clusters=n_clusters,
            skipped=skipped,
            keep_contradictory_pairs=keep_contradictory_pairs,
            kind_of_images=kind_of_images,
        )

    def to_files(self, folder: Path | str, *, ids: Sequence[str] | np.ndarray | None = None) -> dict[str, Path]:
        """Write each table that is not empty as CSV into a folder, made if missing; return kind → path.

        ids: the ids of the training images, needed where statements give images by row. Shares and class counts are
        one file and cannot both be written. `from_folder` reads the files back. Raises InputError.
        """
        if self.proportions and self.class_counts:
            raise InputError("Shares and class counts are both kept in proportions.csv; write them to two folders.")
        tables = {kind: (FILES[kind][0], getattr(self, kind)) for kind in ("labels", "bags", "proportions", "presence")}
        tables["pairs"] = (FILES["pairs"][0], self.pairs)
        exact = all(least == largest for _, least, largest in self.counts)
        tables["counts"] = (
            (FILES["counts"][0], [row[:2] for row in self.counts]) if exact else (FILES["counts"][1], self.counts)
        )
        if self.class_counts:
            tables["proportions"] = (FILES["proportions"][1], self.class_counts)
        Path(folder).mkdir(parents=True, exist_ok=True)
        written = {}
        for kind, (columns, rows) in tables.items():
            if rows:
                written[kind] = Path(folder) / f"{kind}.csv"
                write_table(written[kind], columns, [_with_ids(columns, row, ids) for row in rows])
        return written


def _class_name(value: Any) -> str | None:
    """Return the class as text, None if not known; a float that is whole is named as the integer."""
    if value is None or value != value or value in (-1, "-1"):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def _key(image: Any) -> ImageKey:
    return image if isinstance(image, str) else int(image)


def _by_name(values: Mapping[str, Any] | Sequence[Any], bags: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return name → value; a list is in the order of `bags`, or names them."""
    if isinstance(values, Mapping):
        return values
    names = [f"bag{i}" for i in range(len(values))] if bags is None else list(bags)
    if len(names) != len(values):
        raise InputError(f"There are {len(names)} bags, but {len(values)} values for them; give None where not known.")
    return dict(zip(names, values, strict=True))


def _as_range(value: Any) -> tuple[int, int | None]:
    if isinstance(value, tuple | list):
        least, largest = value
        return int(least), None if largest is None else int(largest)
    return int(value), int(value)


def _members(bags: Iterable[tuple[str, ImageKey]]) -> dict[str, list[ImageKey]]:
    found: dict[str, list[ImageKey]] = {}
    for name, image in bags:
        found.setdefault(name, []).append(image)
    return {name: sorted(images, key=str) for name, images in found.items()}


def _with_ids(columns: Sequence[str], row: tuple[Any, ...], ids: Sequence[str] | np.ndarray | None) -> tuple[Any, ...]:
    if not any(name.startswith("image") and not isinstance(v, str) for name, v in zip(columns, row, strict=True)):
        return row
    if ids is None:
        raise InputError("Some images are given by row; pass `ids` to write their names.")
    return tuple(
        str(ids[v]) if name.startswith("image") and not isinstance(v, str) else v
        for name, v in zip(columns, row, strict=True)
    )
