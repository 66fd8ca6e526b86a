"""Evidence: everything that is known about the images, as statements that name images, bags and classes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smidgen.data.cells import ImageKey, shown
from smidgen.data.collection import natural_key
from smidgen.data.names import class_name, class_names, name_of
from smidgen.errors import InputError, unknown
from smidgen.evidence.files import Table, files_in, read_table, write_table
from smidgen.evidence.kind import Kind
from smidgen.evidence.kinds import KINDS, all_kinds, kind_of
from smidgen.evidence.resolved import Resolved
from smidgen.evidence.resolving import resolve
from smidgen.evidence.statements import Origin, Statements
from smidgen.evidence.values import image_keys, value_of


class Evidence(Statements):
    """What is known, in any mixture; every part optional. Made by `from_…`, joined by `|`.

    It holds tables of statements like those of the files, see `Statements`; they are checked in `resolve`.
    """

    # ------------------------------------------------------------------------------------------------- constructors

    @classmethod
    def from_files(cls, *, min_confidence: float | None = None, **paths: Path | str | None) -> Evidence:
        """Return the evidence in tables (CSV, JSONL or Parquet), kind=path: labels="labels.csv", pairs=…

        Their columns are

        labels: image,label · partial: image,label, a row for each class that an image may be of · bags: bag,image ·
        counts: bag,ucc or bag,ucc_min,ucc_max · proportions: bag,label,share or bag,label,count ·
        presence: bag,label,present · pairs: image_a,image_b,same

        min_confidence: where the labels are the clusters of a run's assignments.csv, the least confidence, in [0, 1],
        of those that are taken; None for all.

        An empty label, -1, NaN and the like are not known. Columns may have another usual name ("path" for "image",
        "class" for "label"); others are ignored, with an InputWarning. Raises InputError naming file and line.
        """
        for name in paths:
            if name not in KINDS:
                raise unknown("kind of evidence", name, KINDS)
        given = {name: path for name in KINDS if (path := paths.get(name)) is not None}
        about_bags = [name for name in given if name != "bags" and kind_of(name).about == "bags"]
        if about_bags and "bags" not in given:
            raise InputError(
                f"`{about_bags[0]}` {str(given[about_bags[0]])!r} is about bags, but `bags` was not given: add the"
                " file that lists their images as bag,image."
            )
        if min_confidence is not None and "labels" not in given:
            raise InputError("`min_confidence` is about `labels`: give both, or leave it out.")
        result = cls()
        for name, path in given.items():
            least = min_confidence if name == "labels" else None
            result = result | cls._from_table(kind_of(name), read_table(path, name, min_confidence=least))
        return result

    @classmethod
    def from_folder(cls, folder: Path | str) -> Evidence:
        """Return the evidence in the files `labels.csv`, `bags.csv`, … of a folder, those that are there."""
        return cls.from_files(min_confidence=None, **files_in(folder))

    @classmethod
    def _from_table(cls, kind: Kind, table: Table) -> Evidence:
        said = [i for i, row in enumerate(table.rows) if any(cell is not None for cell in row[kind.subject :])]
        rows, lines = tuple(table.rows[i] for i in said), tuple(table.lines[i] for i in said)
        at = kind.class_at
        nameless = next((i for i, row in enumerate(rows) if at is not None and row[at] is None), None)
        if nameless is not None:
            raise InputError(f"{table.path} line {lines[nameless]}: label must name a class.")
        name, rows = kind.from_file(table.columns, rows)
        origin = Origin(table.path, lines, of_run=table.of_run, folder=table.folder)
        return cls(**{name: rows}, origins={name: (origin,)})

    @classmethod
    def from_labels(
        cls,
        labels: Sequence[Any] | Mapping[ImageKey, Any] | np.ndarray,
        *,
        ids: Sequence[ImageKey] | None = None,
    ) -> Evidence:
        """Return labels of the training images, in their order or that of `ids`; or those of a mapping image → label.

        labels: (n,) integers or texts; -1, "", None, NaN and the like are not known. Classes are named by their text
        ("3"), whole numbers without decimals.

        >>> Evidence.from_labels([-1, 3, " cat", np.nan, 3.0]).labels
        ((1, '3'), (2, 'cat'), (4, '3'))
        """
        if isinstance(labels, Mapping):
            if ids is not None:
                raise InputError("`labels` names the images itself: leave `ids` out.")
            ids, labels = list(labels), list(labels.values())
        values = _in_order(labels)
        keys: Sequence[ImageKey] = range(len(values)) if ids is None else ids
        if len(keys) != len(values):
            raise InputError(f"`ids` names {len(keys)} images, but there are {len(values)} labels.")
        names = class_names(values, source="Labels", where=lambda i: f"Labels, entry {i + 1}")
        named = zip(image_keys(keys, "Labels"), names, strict=True)
        return cls(labels=tuple((key, name) for key, name in named if name is not None))

    @classmethod
    def from_partial_labels(
        cls, sets: Mapping[ImageKey, Any] | Sequence[Any], *, ids: Sequence[ImageKey] | None = None
    ) -> Evidence:
        """Return for images the sets of classes of which each is one, and it is not known which.

        sets: of the training images in their order or that of `ids`, or a mapping image → set; a list or set of
        classes, or a single one; None, NaN, an empty set and the like where nothing is known.

        >>> Evidence.from_partial_labels([["cat", "dog"], None, "owl"]).partial
        ((0, 'cat'), (0, 'dog'), (2, 'owl'))
        """
        if isinstance(sets, Mapping):
            if ids is not None:
                raise InputError("`sets` names the images itself: leave `ids` out.")
            ids, sets = list(sets), list(sets.values())
        values = _in_order(sets, "sets")
        keys: Sequence[ImageKey] = range(len(values)) if ids is None else ids
        if len(keys) != len(values):
            raise InputError(f"`ids` names {len(keys)} images, but there are {len(values)} sets.")
        named = zip(image_keys(keys, "Partial labels"), values, strict=True)
        return cls(
            partial=tuple(
                (key, name) for i, (key, own) in enumerate(named) for name in _set_of_classes(own, f"entry {i + 1}")
            )
        )

    @classmethod
    def from_bags(
        cls,
        bags: Mapping[str, Iterable[ImageKey]] | Sequence[Iterable[ImageKey]],
        **known: Mapping[str, Any] | Sequence[Any] | None,
    ) -> Evidence:
        """Return bags and what is known of each; images are ids or rows of the training set.

        bags: name → images, or a list of bags, which are then called bag0, bag1, …
        known: of the bags, counts=, proportions=, class_counts= or presence=; likewise by name or in the same order,
            None where nothing is known. A count is a whole number or (min, max); proportions, class_counts and presence
            are {class: value}.

        >>> Evidence.from_bags([[0, 1, 2], [3, 4]], counts=[2, (1, 2)]).counts
        (('bag0', 2, 2), ('bag1', 1, 2))
        """
        about_bags = {table: kind for kind in all_kinds() if kind.about == "bags" for table in kind.tables}
        del about_bags["bags"]
        for table in known:
            if table not in about_bags:
                raise unknown("kind of evidence about bags", table, about_bags)
        named = _by_name(bags, None)
        tables: dict[str, tuple[tuple[Any, ...], ...]] = {
            "bags": tuple((name, key) for name, images in named.items() for key in image_keys(images, f"Bag {name!r}"))
        }
        for table, values in known.items():
            if values is not None:
                of_bags = _by_name(values, named).items()
                read = about_bags[table].of_bag
                tables[table] = tuple(row for bag, value in of_bags for row in read(table, bag, value))
        return cls(origins=None, **tables)

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
        return cls(pairs=(*_pairs(same, True), *_pairs(different, False)))

    # -------------------------------------------------------------------------------------------------------- joining

    def merge(self, other: Evidence) -> Evidence:
        """Return all statements of both; a bag that is in both must have the same images in both.

        Raises InputError otherwise. `a | b` is the same.
        """
        tables = {name: rows + other.tables[name] for name, rows in self.tables.items()}
        origins = {name: self.origins_of(name) + other.origins_of(name) for name in tables}
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
        data: Path | str = "",
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
        data: where they are from; images may then be named from outside of it, "photos/a.jpg" of "a.jpg" in `photos`.
            An image's name may also differ from its id in spaces and quotes around it, `\\` for `/`, `./`, and the form
            of its Unicode letters.

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
            data=data,
        )

    def to_files(self, folder: Path | str, *, ids: Sequence[str] | np.ndarray | None = None) -> dict[str, Path]:
        """Write each table that is not empty as CSV into a folder, made if missing; return kind → path.

        ids: the ids of the training images, needed where statements give images by row. Shares and class counts are
        one file and cannot both be written. `from_folder` reads the files back. Raises InputError.
        """
        files = {kind.name: kind.to_file(self) for kind in all_kinds()}
        Path(folder).mkdir(parents=True, exist_ok=True)
        written = {}
        for name, (columns, rows) in files.items():
            if rows:
                written[name] = Path(folder) / f"{name}.csv"
                write_table(written[name], columns, [_with_ids(columns, row, ids) for row in rows])
        return written


def _set_of_classes(value: Any, where: str) -> list[str]:
    """Return the classes of a set, or of a single one; none where nothing is known."""
    value = value.tolist() if getattr(value, "ndim", 0) else value
    classes = list(value) if isinstance(value, list | tuple | set | frozenset) else [value]
    names = [value_of(class_name, each, f"Partial labels, {where}: a class") for each in classes]
    if len(names) > 1 and None in names:
        raise InputError(f"Partial labels, {where}: {classes[names.index(None)]!r} does not name a class.")
    unique = dict.fromkeys(name for name in names if name is not None)
    return sorted(unique, key=natural_key) if isinstance(value, set | frozenset) else list(unique)


def _in_order(labels: Any, what: str = "labels") -> list[Any]:
    """Return labels of images in their order as a list; raises InputError for what has no order or is a table."""
    shape = getattr(labels, "shape", None)
    if (shape is not None and len(shape) != 1) or isinstance(labels, str | bytes | set | frozenset):
        got = type(labels).__name__ if shape is None else f"{type(labels).__name__} of shape {tuple(shape)}"
        raise InputError(f"`{what}` must be a list, one for each image, got a {got}.")
    try:
        return labels.tolist() if hasattr(labels, "tolist") else list(labels)
    except TypeError:
        raise InputError(f"`{what}` must be a list, one for each image, got a {type(labels).__name__}.") from None


def _pairs(pairs: Iterable[Any], same: bool) -> Iterator[tuple[ImageKey, ImageKey, bool]]:
    for pair in pairs:
        keys = image_keys(pair, "Pairs")
        if len(keys) != 2:
            raise InputError(f"Pairs: a pair is two images, got {len(keys)}.")
        yield keys[0], keys[1], same


def _by_name(values: Mapping[str, Any] | Sequence[Any], bags: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return name → value; a list is in the order of `bags`, or names them."""
    if isinstance(values, Mapping):
        named = {value_of(name_of, name, "The name of a bag"): value for name, value in values.items()}
        if len(named) < len(values):
            raise InputError(f"Two bags have one name, {', '.join(map(repr, values))}; give each its own.")
        return named
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise InputError(f"Bags, and what is known of each, are a list or {{name: value}}, got {shown(values)}.")
    names = [f"bag{i}" for i in range(len(values))] if bags is None else list(bags)
    if len(names) != len(values):
        raise InputError(f"There are {len(names)} bags, but {len(values)} values for them; give None where not known.")
    return dict(zip(names, values, strict=True))


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
