"""Opened data: files or arrays that are listed, but not decoded; a split of them becomes a `Dataset`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from smidgen.data.arrays import ArrayPart, as_levels, as_vectors, channels_second, contents_of, extents_of, fitted
from smidgen.data.chosen_classes import dataset_of
from smidgen.data.collection import SPLITS, Collection
from smidgen.data.dataset import Dataset
from smidgen.data.decoding import NATIVE_LIMIT, Progress, Skipped, decode_items
from smidgen.data.images import Resize, check_options
from smidgen.data.values import ValueRange, as_value_range, decision, doubts, joined
from smidgen.errors import InputError
from smidgen.options import Share, convert

Split = Literal["train", "test", "all"]


@dataclass(frozen=True)
class Reading:
    """How images are read, as `reading` makes it."""

    size: int | None
    channels: int | None
    resize: Resize
    values: ValueRange
    allow_bad: float
    progress: Progress | None
    other_size: int = NATIVE_LIMIT


def reading(
    size: Any,
    channels: Any,
    resize: Resize,
    value_range: Any,
    allow_bad: Any,
    progress: Progress | None,
    other_size: int,
) -> Reading:
    """Return how images are read; raises InputError for what is not valid."""
    size, channels = (
        convert(name, value, int | None, strict=True) for name, value in (("size", size), ("channels", channels))
    )
    check_options(size=size, channels=channels, resize=resize)
    allow_bad = convert("allow_bad", allow_bad, Share, strict=True)
    return Reading(size, channels, resize, as_value_range(value_range), allow_bad, progress, other_size)


@dataclass(frozen=True)
class Files:
    """Data that are image files: a folder, an archive or a manifest."""

    name: str
    collection: Collection

    def splits(self) -> tuple[str, ...]:
        """Return which of `SPLITS` there are."""
        present = {item.split for item in self.collection.items}
        return tuple(split for split in SPLITS if split in present)

    def of_split(self, split: Split, options: Reading) -> Dataset:
        """Return the images of a split; raises InputError if there are none, or too many are bad."""
        items = self.collection.of_split(split)
        if not items:
            _refuse_nothing(self.name, split, has=self.splits(), notes=self.collection.notes)
        images, good, skipped, sizes, values, extents = decode_items(
            items,
            size=options.size,
            channels=options.channels,
            resize=options.resize,
            other_size=options.other_size,
            values=options.values,
            deciding=[item.split == "train" for item in items],
            progress=options.progress,
        )
        _check_bad(self.name, skipped, total=len(items), allow_bad=options.allow_bad)
        kept = tuple(items[row] for row in good)
        names = self.collection.class_names()
        rows = {name: row for row, name in enumerate(names)}
        classes = np.array([rows.get(item.label or "", -1) for item in kept], dtype=np.int64)
        ids = _id_array(item.id for item in kept)
        return Dataset(
            name=self.name,
            split=split,
            ids=ids,
            images=images,
            classes=classes if (classes >= 0).any() else None,
            class_names=names,
            skipped=skipped,
            ignored=self.collection.ignored,
            items=kept,
            sizes=sizes,
            value_range=values,
            notes=(*self.collection.notes, *decision(extents, values)),
            doubts=doubts(extents, values, ids),
        )


@dataclass(frozen=True)
class Arrays:
    """Data that are arrays: given, in an .npz, or a named dataset's; `part` reads one split, "" the unsplit whole.

    Matrices are ready embeddings; sizes and channels mean nothing to them. classes: names of those whose rows are
    taken; none for all.
    """

    name: str
    part: Callable[[str], ArrayPart]
    names: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    def splits(self) -> tuple[str, ...]:
        """Return which of `SPLITS` there are."""
        return tuple(split for split in SPLITS if split in self.names)

    def of_split(self, split: Split, options: Reading) -> Dataset:
        """Return the images of a split; raises InputError if there are none, or too many are bad."""
        dataset = dataset_of(self._whole(split, options), self.classes)
        if len(dataset) == 0:
            _refuse_nothing(self.name, split, has=(), notes=dataset.notes)
        return dataset

    def _whole(self, split: Split, options: Reading) -> Dataset:
        wanted = self.names if split == "all" else tuple(name for name in self.names if name in (split, ""))
        parts = [self.part(name) for name in wanted]
        if sum(len(part.images) for part in parts) == 0:
            _refuse_nothing(self.name, split, has=self.splits())
        known = [np.full(len(p.images), -1, dtype=np.int64) if p.classes is None else p.classes for p in parts]
        classes = np.concatenate(known)
        whole = "test" if split == "test" else "train"  # one name for `fit`, `check` and `predict`: evidence has it
        ids = _id_array(
            f"{name or whole}/{row:05d}"
            for name, part in zip(wanted, parts, strict=True)
            for row in range(len(part.images))
        )
        dataset = Dataset(
            name=self.name,
            split=split,
            ids=ids,
            images=np.empty((0, 1, 1, 1), dtype=np.uint8),
            classes=classes if (classes >= 0).any() else None,
            class_names=self.class_names,
            notes=self.notes,
        )
        if all(part.images.ndim == 2 for part in parts):
            return replace(dataset, images=self._joined([as_vectors(part.images) for part in parts]))
        return self._with_images(dataset, dict(zip(wanted, parts, strict=True)), options)

    def _with_images(self, dataset: Dataset, parts: dict[str, ArrayPart], options: Reading) -> Dataset:
        given = {name: channels_second(part.images) for name, part in parts.items()}
        extents = {name: extents_of(array) for name, array in given.items()}
        decides = "train" if "train" in parts else next(iter(parts))
        whole = joined([*extents.values()])
        values = options.values.decided(extents[decides].overall()).decided(whole.overall())
        images = fitted(
            self._joined([as_levels(array, values) for array in given.values()]),
            size=options.size,
            channels=options.channels,
            resize=options.resize,
            other_size=options.other_size,
            progress=options.progress,
        )
        kept = all(array.dtype == np.uint8 and array.shape[1:] == images.shape[1:] for array in given.values())
        contents = None if kept and values.eight_bits == (0, 255) else [contents_of(array) for array in given.values()]
        return replace(
            dataset,
            images=images,
            value_range=values,
            notes=(*dataset.notes, *decision(whole, values)),
            doubts=doubts(whole, values, dataset.ids),
            contents=None if contents is None else np.concatenate(contents),
        )

    def _joined(self, arrays: list[np.ndarray]) -> np.ndarray:
        shapes = {array.shape[1:] for array in arrays}
        if len(shapes) > 1:
            raise InputError(f"The splits of {self.name!r} must have one shape, got {' and '.join(map(str, shapes))}.")
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _refuse_nothing(name: str, split: str, *, has: tuple[str, ...], notes: tuple[str, ...] = ()) -> None:
    if split in has:
        raise InputError(f"The {split!r} split of {name!r} is empty; leave it out, or put images into it.")
    if has:
        remedy = "; to train on it, give it alone or rename it" if has == ("test",) and split == "train" else ""
        raise InputError(f"{name!r} has no {split!r} split, only {' and '.join(map(repr, has))}{remedy}.")
    found = f" ({' '.join(notes).rstrip('.')})" if notes else ""
    raise InputError(f"{name!r} holds no images{found}; give one that holds JPEG, PNG or other image files.")


def too_many_bad(n_bad: int, *, total: int, allow_bad: float) -> bool:
    """Return whether so many unreadable images of one split, `total` with the readable ones, stop a fit."""
    return n_bad > allow_bad * total or n_bad == total > 0


def allowing(n_bad: int, *, total: int) -> str:
    """Return the least `allow_bad`, in whole hundredths, that lets so many pass; "" if no image can be read."""
    return "" if n_bad == total else f"{np.ceil(100 * n_bad / total) / 100:g}"


def _check_bad(name: str, skipped: tuple[Skipped, ...], *, total: int, allow_bad: float) -> None:
    if not too_many_bad(len(skipped), total=total, allow_bad=allow_bad):
        return
    first = "; ".join(f"{bad.id!r}: {bad.reason}" for bad in skipped[:3])
    enough = allowing(len(skipped), total=total)
    allow = f" (more than the allowed share of {allow_bad:g})" if enough else ""
    remedy = f", or allow them with `allow_bad={enough}`" if enough else ""
    raise InputError(
        f"{len(skipped)} of {total} images in {name!r} cannot be read{allow}: "
        f"{first}{'; …' if len(skipped) > 3 else ''}; repair or remove them{remedy}."
    )


def _id_array(ids: Iterable[str]) -> np.ndarray:
    return np.array(list(ids), dtype=object)
