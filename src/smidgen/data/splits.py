"""Infers splits and classes from names: folders `Train/` and `valid/`, or the column `split` of a manifest."""

from __future__ import annotations

import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from smidgen.data.collection import Item, natural_key
from smidgen.data.names import name_of

_SPELLINGS = {
    "train": ("train", "training", "trn", "trainval"),
    "test": ("test", "testing", "tst"),
    "eval": ("eval", "evaluation", "holdout"),
    "val": ("val", "valid", "validation", "validate", "dev", "devel", "development"),
}
_GENERIC = ("set", "split", "data", "dataset", "image", "images", "img", "imgs", "photos", "pictures", "samples")
_ROLES = {
    word + suffix: role
    for role, words in _SPELLINGS.items()
    for word in words
    for suffix in ("", "set", "data", "images", "imgs", "split")
}
_TEST_ROLES = ("test", "eval", "val")  # the first of these that is there is the test split
_CAMEL = re.compile("(?<=[a-z])(?=[A-Z])")
_WORDS = re.compile(r"[^\W\d_]+")
_HOLDOUT = re.compile(r"h[eo]ld[-_ ]?out")
_SHOWN = 4


def split_role(name: str) -> tuple[str, tuple[str, ...]] | None:
    """Return what a name promises ("train", "test", "eval" or "val") and its other words, None if nothing.

    Case, separators, digits and words such as "set" or "images" do not matter.

    >>> split_role("Training"), split_role("valid_set"), split_role("seg_test"), split_role("train2017")
    (('train', ()), ('val', ()), ('test', ('seg',)), ('train', ()))
    >>> split_role("contest") is split_role("train station test") is None
    True
    """
    name = _HOLDOUT.sub("holdout", _CAMEL.sub(" ", name).casefold())
    words = [word for word in _WORDS.findall(name) if word not in _GENERIC]
    roles = {_ROLES[word] for word in words if word in _ROLES}
    if roles == {"train", "val"}:  # `train_val` is both, for training
        roles = {"train"}
    return (roles.pop(), tuple(word for word in words if word not in _ROLES)) if len(roles) == 1 else None


@dataclass(frozen=True)
class Splits:
    """Which names stand for which split; roles: name → "train", "test", "eval" or "val".

    Nothing is tuned on validation images: beside test images they are left out, and without these they are the test
    split.
    """

    roles: Mapping[str, str]

    @property
    def test_role(self) -> str | None:
        """The role whose images are the test split."""
        return next((role for role in _TEST_ROLES if role in self.roles.values()), None)

    def of(self, name: str | None) -> str:
        """Return "train", "test", the name of a split that is left out, or "elsewhere"."""
        role = self.roles.get(name or "", "elsewhere")
        return "test" if role == self.test_role else role

    def described(self, sizes: Mapping[str | None, int], *, within: str | None = None) -> tuple[str, ...]:
        """Return sentences on how names were interpreted.

        sizes: images by name, None of those without any. within: the path that names of folders follow, "" or ending
            in "/"; None where they are not folders.
        """
        shown: defaultdict[str, list[str]] = defaultdict(list)
        counts: Counter[str] = Counter()
        for name in sorted(sizes, key=lambda name: natural_key(name or "")):
            called = name if within is None else f"{within}{name}/"
            shown[self.of(name)].append("images without one" if name is None else repr(called))
            counts[self.of(name)] += sizes[name]
        words = {"train": "the training split", "test": "the test split"}
        taken = [f"{_joined(shown[s])} for {words[s]} ({_images(counts[s])})" for s in words if s in shown]
        stands_in = self.test_role == "val" and "train" in shown
        sentences = [f"Taken: {', '.join(taken)}{', since there is no other for tests' if stands_in else ''}."]
        for split in shown.keys() - words.keys():
            why = "" if split == "elsewhere" else ": nothing is tuned on further splits"
            sentences.append(
                f"Neither: {_joined(shown[split])} ({_images(counts[split])}), which `fit` leaves out{why}."
            )
        return tuple(sorted(sentences, reverse=True))


def splits_among(names: Iterable[str | None]) -> Splits | None:
    """Return which folders beside each other are splits, None if they are not.

    They are if some are for training and others for testing or validation, of one naming (`train` and `val`,
    `seg_train` and `seg_test`); or if all are plainly named so and there is nothing else.
    """
    names = set(names)
    by_naming: defaultdict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for name in names - {None}:
        if name is not None and (found := split_role(name)) is not None:
            by_naming[found[1]][name] = found[0]
    complete = {naming: roles for naming, roles in by_naming.items() if {"train"} < set(roles.values())}
    if () in complete or len(complete) == 1:
        return Splits(complete.get((), next(iter(complete.values()))))
    plain = {name: _ROLES[name.casefold()] for name in names if name is not None and name.casefold() in _ROLES}
    return Splits(plain) if names and plain.keys() == names else None


def splits_of_values(values: Iterable[str]) -> Splits:
    """Return which values of a column `split` stand for which split; the others stand for none."""
    found = {value: split_role(value) for value in set(values)}
    return Splits({value: role[0] for value, role in found.items() if role is not None and not role[1]})


@dataclass(frozen=True)
class Arranged:
    """Images in natural order with their splits and classes, and sentences that say how these were found."""

    items: tuple[Item, ...]
    notes: tuple[str, ...] = ()


def arranged(items: Iterable[Item]) -> Arranged:
    """Return the items in natural order of their ids, with splits and class names taken from their folders.

    - One folder that holds everything is looked into, and so on.
    - Folders beside each other may be splits, see `splits_among`: at the top, or in each of several folders, which
      are the classes then. Images elsewhere belong to no split and are taken by "all" only.
    - Classes are known if every image of a split lies in a subfolder and there is more than one subfolder.
    """
    items = sorted(items, key=lambda item: natural_key(item.id))
    depth, wrapper = 0, ""
    tops = _parts(items, 0)
    while len(tops) == 1 and None not in tops and splits_among(tops) is None:
        wrapper += f"{next(iter(tops))}/"
        depth += 1
        tops = _parts(items, depth)
    if (splits := splits_among(tops)) is not None:
        split_items = _with_splits(items, splits, depth)
        labelled = _with_classes(split_items, _class_depths(items, splits, depth))
        return Arranged(labelled, splits.described(tops, within=wrapper))
    if (splits := _splits_in_classes(items, depth, tops)) is not None:
        labelled = tuple(
            replace(item, label=_class_of(item, depth) if item.split != "elsewhere" else None)
            for item in _with_splits(items, splits, depth + 1)
        )
        sizes = _parts(items, depth + 1)
        return Arranged(labelled, splits.described(sizes, within=f"{wrapper}…/"))
    labelled = _with_classes(items, defaultdict(lambda: depth))
    return Arranged(labelled, _about_doubts(items))


def _part(item: Item, depth: int) -> str | None:
    """Return the folder at a depth of an item's id, None if the image itself is there or higher up."""
    parts = item.id.split("/", depth + 1)
    return parts[depth] if len(parts) > depth + 1 else None


def _parts(items: Iterable[Item], depth: int) -> Counter[str | None]:
    return Counter(_part(item, depth) for item in items)


def _with_splits(items: Iterable[Item], splits: Splits, depth: int) -> list[Item]:
    return [Item(item.id, item.read, splits.of(_part(item, depth))) for item in items]


def _splits_in_classes(items: list[Item], depth: int, tops: Mapping[str | None, int]) -> Splits | None:
    """Return the splits that each of several folders holds: `cat/train/`, `cat/test/`, `dog/train/`, …"""
    splits = splits_among(_parts(items, depth + 1))
    if splits is None or None in tops or "train" not in splits.roles.values() or splits.test_role is None:
        return None
    with_splits = {_part(item, depth) for item in items if _part(item, depth + 1) in splits.roles}
    return splits if with_splits == set(tops) else None


def _class_depths(items: list[Item], splits: Splits, depth: int) -> dict[str | None, int]:
    """Return at which depth the classes of each split are: below its folder, or below `train/train/`."""
    inner: defaultdict[str, set[str | None]] = defaultdict(set)
    for item in items:
        inner[splits.of(_part(item, depth))].add(_part(item, depth + 1))
    return {split: depth + 1 + _repeats(split, names) for split, names in inner.items()}


def _repeats(split: str, names: set[str | None]) -> bool:
    only = next(iter(names))
    role = None if only is None or len(names) > 1 else split_role(only)
    return role is not None and (role[0] == split or (split == "test" and role[0] in _TEST_ROLES))


def _with_classes(items: list[Item], depths: Mapping[str | None, int]) -> tuple[Item, ...]:
    by_split: defaultdict[str | None, set[str | None]] = defaultdict(set)
    for item in items:
        by_split[item.split].add(_part(item, depths[item.split]))
    known = {split for split, names in by_split.items() if None not in names and split != "elsewhere"}
    if len(set().union(*(by_split[split] for split in known))) < 2:
        return tuple(items)
    return tuple(replace(i, label=_class_of(i, depths[i.split])) if i.split in known else i for i in items)


def _class_of(item: Item, depth: int) -> str | None:
    """Return the class of an image by its folder, named as evidence names it."""
    return name_of(_part(item, depth)) or None


def _about_doubts(items: Iterable[Item]) -> tuple[str, ...]:
    """Return a note on folders that may be meant as splits but are not taken as such."""
    holding = {posixpath.dirname(item.id) for item in items}
    every = {"/".join(parts[:n]) for parts in (f.split("/") for f in holding) for n in range(1, len(parts) + 1)} - {""}
    beside = Counter(map(posixpath.dirname, every))
    doubtful = [
        f"{folder}/"
        for folder in sorted(every, key=natural_key)
        if split_role(posixpath.basename(folder)) is not None
        and (beside[parent := posixpath.dirname(folder)] > 1 or parent in holding)
    ]
    if not doubtful:
        return ()
    return (
        f"Not taken for splits: {_joined(list(map(repr, doubtful)))}. Splits are folders for training and for testing"
        " or validation side by side, with all images in them: give the folder they are in, rename them, or give a"
        " manifest with a column `split`.",
    )


def _images(n: int) -> str:
    return f"{n:,} image{'' if n == 1 else 's'}"


def _joined(words: list[str]) -> str:
    if len(words) > _SHOWN:
        return f"{', '.join(words[:_SHOWN])}, …"
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))
