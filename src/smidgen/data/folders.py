"""A collection's images before they are read: ids, natural order, splits and classes, and the walk through a folder."""

from __future__ import annotations

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from smidgen.data.images import BadImage, image_format, read_capped
from smidgen.errors import InputError

EXTENSIONS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"})
EXTENSIONS |= {"ppm", "pgm", "pbm", "pnm", "pfm", "avif", "avifs", "heic", "heif", "jxl", "jp2", "tga"}
"""Names that promise an image; one that cannot be read is a bad image, with its reason, and never lost silently."""

SPLITS = ("train", "test")

_NUMBERS = re.compile(r"([0-9]{1,18})")  # 18 digits: longer runs are compared piecewise


@dataclass(frozen=True, slots=True)
class Item:
    """One image of a collection, not read yet.

    id: its image id. read: returns the file's bytes or raises BadImage.
    split: "train", "test", another name that only `split="all"` takes, or None in a collection without splits.
    label: its class name, None if unknown.
    """

    id: str
    read: Callable[[], bytes]
    split: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Collection:
    """What a folder, an archive or a manifest holds: its images, in order, and how many other files there are."""

    items: tuple[Item, ...]
    ignored: int = 0

    def has_splits(self) -> bool:
        """Tell whether the collection itself says which images train and which test."""
        return any(item.split in SPLITS for item in self.items)

    def class_names(self) -> tuple[str, ...]:
        """Return the names of all classes, over all splits, in natural order."""
        return tuple(sorted({item.label for item in self.items if item.label is not None}, key=natural_key))

    def of_split(self, split: str) -> tuple[Item, ...]:
        """Return the images of "train" or "test", or of "all"; everything if the collection has no splits."""
        if split == "all" or not self.has_splits():
            return self.items
        return tuple(item for item in self.items if item.split == split)


def natural_key(name: str) -> tuple[str, str]:
    """Return a sorting key that puts "img2" before "img10"; the same on every machine, whatever its locale.

    >>> sorted(["img10", "img2", "Img1", "7"], key=natural_key)
    ['7', 'Img1', 'img2', 'img10']
    """
    return _NUMBERS.sub(_number_key, name), name


def _number_key(digits: re.Match[str]) -> str:
    """Return digits as text that sorts as their number, and before all other text."""
    return "\0" + digits[0].zfill(18)


def id_from_path(path: str) -> str:
    r"""Return the image id of a POSIX path as `os.fsdecode` gives it, writable as UTF-8.

    A byte that is not UTF-8 becomes `\xNN` and a backslash in a name becomes two, so that `path_from_id` can tell
    them apart; every other name, with emoji, newline or leading dash, is its own id.

    >>> print(id_from_path("caf\udce9.jpg"), id_from_path("a\\b.jpg"))
    caf\xe9.jpg a\\b.jpg
    """
    doubled = path.replace("\\", "\\\\")
    return re.sub("[\udc80-\udcff]", lambda match: f"\\x{ord(match[0]) - 0xDC00:02x}", doubled)


def path_from_id(image_id: str) -> str:
    r"""Return the path that `id_from_path` made an id of.

    >>> path_from_id(r"caf\xe9.jpg") == "caf\udce9.jpg"
    True
    """

    def restore(match: re.Match[str]) -> str:
        return "\\" if match[1] is None else chr(0xDC00 + int(match[1], 16))

    return re.sub(r"\\(?:x([0-9a-f]{2})|\\)", restore, image_id)


def is_candidate(name: str, start: Callable[[], bytes]) -> bool:
    """Tell whether a file should be an image: by its extension, or without one by its first bytes.

    name: its path below the collection; hidden files, files in hidden folders and `__MACOSX` never are.
    start: returns the first 16 bytes; called only if there is no extension.
    """
    if any(_is_hidden(part) for part in name.split("/")):
        return False
    extension = posixpath.splitext(name)[1]
    if extension:
        return extension[1:].lower() in EXTENSIONS
    return image_format(start()) is not None


def _is_hidden(part: str) -> bool:
    return (part.startswith(".") and part not in (".", "..")) or part == "__MACOSX"


def refused(reason: str) -> bytes:
    """Raise BadImage: the `read` of an item that is known beforehand to be unreadable."""
    raise BadImage(reason)


def collect_folder(folder: Path) -> Collection:
    """Return the images below a folder, in natural order of their ids, with splits and classes from its folders.

    Links to files are read. Links to folders are followed, except to a folder that holds the link or the collection
    and to one that was followed before: no loop, and no walk through the whole disk. Hidden folders are not entered;
    named pipes and devices are never opened.

    Raises InputError if a folder cannot be listed.
    """
    items, ignored = [], 0
    for name in _files(folder):
        path = f"{folder}/{name}"  # no Path: making a hundred thousand takes as long as listing them
        if not is_candidate(name, partial(_start, path)):
            ignored += 1
            continue
        items.append(Item(id_from_path(name), partial(read_capped, path)))
    return Collection(arranged(items), ignored)


def _files(root: Path) -> Iterator[str]:
    """Yield the path below the root of every entry that is not a folder."""
    followed = {os.path.realpath(root)}
    pending = [""]
    while pending:
        below = pending.pop()
        try:
            entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"The folder {os.fspath(root / below)!r} cannot be listed ({error.strerror}).") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) or (entry.is_dir() and _may_follow(entry, root, followed)):
                if not _is_hidden(entry.name):
                    pending.append(f"{below}{entry.name}/")
            elif not entry.is_dir():
                yield below + entry.name


def _may_follow(link: os.DirEntry[str], root: Path, followed: set[str]) -> bool:
    target = os.path.realpath(link.path)
    holders = [os.path.realpath(root), os.path.realpath(Path(link.path).parent)]
    if target in followed or any(os.path.commonpath([target, holder]) == target for holder in holders):
        return False
    followed.add(target)
    return True


def _start(path: str) -> bytes:
    """Return a regular file's first bytes, nothing if it is none or cannot be read."""
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            return b""
        with Path(path).open("rb") as file:
            return file.read(16)
    except OSError:
        return b""


def arranged(items: Iterable[Item], *, below_wrapper: bool = False) -> tuple[Item, ...]:
    """Return the items in natural order of their ids, with splits and class names taken from their folders.

    - If every image lies below a top-level `train/` or `test/`, these are splits; beside both of them, images
      elsewhere (`val/`) belong to no split and are taken by "all" only.
    - Classes are known if every image of a split lies in a subfolder and there is more than one subfolder.
    - below_wrapper: look below one folder that holds everything, as archives often have.
    """
    items = sorted(items, key=lambda item: natural_key(item.id))
    depth = 0
    tops = {_part(item, 0) for item in items}
    while below_wrapper and len(tops) == 1 and None not in tops and not tops & set(SPLITS):
        depth += 1
        tops = {_part(item, depth) for item in items}
    if tops and (tops <= set(SPLITS) or tops >= set(SPLITS)):
        splits = [_part(item, depth) or "elsewhere" for item in items]
        depth += 1
        items = [replace(item, split=split) for item, split in zip(items, splits, strict=True)]
    return tuple(_with_classes(items, depth))


def _part(item: Item, depth: int) -> str | None:
    """Return the folder at a depth of an item's id, None if the image itself is there."""
    parts = item.id.split("/", depth + 1)
    return parts[depth] if len(parts) > depth + 1 else None


def _with_classes(items: list[Item], depth: int) -> list[Item]:
    by_split: dict[str | None, set[str | None]] = {}
    for item in items:
        by_split.setdefault(item.split, set()).add(_part(item, depth))
    known = {split for split, names in by_split.items() if None not in names and split != "elsewhere"}
    if len(set().union(*(by_split[split] for split in known))) < 2:
        return items
    return [Item(i.id, i.read, i.split, _part(i, depth)) if i.split in known else i for i in items]
