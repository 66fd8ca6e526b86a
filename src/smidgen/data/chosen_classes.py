"""A part of a collection: the images of some of its classes."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np

from smidgen.data.collection import Collection
from smidgen.data.dataset import Dataset
from smidgen.errors import InputError, unknown

_SHOWN = 8


def as_classes(classes: Any) -> tuple[str, ...]:
    """Return names of classes given as one, several or None; raises InputError for anything else.

    >>> as_classes("cat"), as_classes(["dog", "cat"]), as_classes(None)
    (('cat',), ('dog', 'cat'), ())
    """
    if classes is None:
        return ()
    names = (classes,) if isinstance(classes, str) else classes
    if not isinstance(names, Sequence | Set) or not all(isinstance(name, str) and name for name in names):
        raise InputError(f"`classes` takes names of classes, such as ['cat', 'dog'], got {classes!r:.80}.")
    return tuple(dict.fromkeys(names))


def collection_of(collection: Collection, classes: tuple[str, ...], *, name: str) -> Collection:
    """Return the files of some classes, in their old order, with a note on how many are left; all for no classes."""
    if not classes:
        return collection
    _require_known(classes, collection.class_names(), name=name)
    items = tuple(item for item in collection.items if item.label in classes)
    note = _note(classes, len(items), len(collection.items))
    return replace(collection, items=items, notes=(*collection.notes, note))


def dataset_of(dataset: Dataset, classes: tuple[str, ...]) -> Dataset:
    """Return the images of some classes, in their old order and under their old ids; all for no classes.

    The classes are numbered anew, in their old order, too.
    """
    if not classes:
        return dataset
    if dataset.classes is None:
        raise _nothing_known(dataset.name)
    _require_known(classes, dataset.class_names, name=dataset.name)
    rows = [row for row, each in enumerate(dataset.class_names) if each in classes]
    chosen = np.isin(dataset.classes, rows)
    return replace(
        dataset.subset(chosen),
        classes=np.searchsorted(rows, dataset.classes[chosen]),
        class_names=tuple(dataset.class_names[row] for row in rows),
        notes=(*dataset.notes, _note(classes, int(chosen.sum()), len(dataset))),
    )


def _require_known(classes: tuple[str, ...], known: Sequence[str], *, name: str) -> None:
    if not known:
        raise _nothing_known(name)
    for each in classes:
        if each not in known:
            raise unknown(f"class of {name!r}:", each, known)


def _nothing_known(name: str) -> InputError:
    return InputError(f"`classes` chooses among known classes, and {name!r} has none: omit it.")


def _note(classes: tuple[str, ...], n: int, total: int) -> str:
    names = ", ".join(map(repr, classes[:_SHOWN])) + (", …" if len(classes) > _SHOWN else "")
    return f"Only the images of {names}: {n:,} of {total:,}."
