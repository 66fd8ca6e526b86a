"""The images of a collection before decoding: their ids, in natural order."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from smidgen.data.images import BadImage

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
    """The content of a folder, archive or manifest: its images in order, and the number of other files.

    notes: sentences on how it was understood: which folders are splits, what was passed over.
    """

    items: tuple[Item, ...]
    ignored: int = 0
    notes: tuple[str, ...] = ()

    def has_splits(self) -> bool:
        """Return whether the collection itself has a training and a test split."""
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


def refused(reason: str) -> bytes:
    """Raise BadImage: the `read` of an item that is known beforehand to be unreadable."""
    raise BadImage(reason)
