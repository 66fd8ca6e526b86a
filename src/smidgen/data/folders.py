"""Lists the images below a folder."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from smidgen.data.candidates import Sieve
from smidgen.data.collection import Collection, Item, id_from_path
from smidgen.data.images import START, read_capped
from smidgen.data.splits import arranged
from smidgen.errors import InputError


def collect_folder(folder: Path, *, exclude: Sequence[str] = ()) -> Collection:
    """Return the images below a folder, in natural order of their ids, with splits and classes from its folders.

    exclude: patterns of files and folders to leave out, see `candidates.Sieve`.

    Links to files are read. Links to folders are followed, except to a folder that holds the link or the collection
    and to one that was followed before: no loop, and no walk through the whole disk. Hidden and system folders are
    not entered; named pipes and devices are never opened.

    Raises InputError if a folder cannot be listed, or for a pattern that is none.
    """
    sieve = Sieve(exclude)
    found = arranged(items_below(folder, sieve))
    return Collection(found.items, sieve.ignored, found.notes + sieve.notes())


def items_below(root: Path, sieve: Sieve, *, below: str = "") -> Iterator[Item]:
    """Yield the images in a folder `below` the root ("" or ending in "/") that pass the sieve, in no order."""
    for name in _files(root, sieve, below):
        path = f"{root}/{name}"  # no Path: making a hundred thousand takes as long as listing them
        if sieve.admits(name, partial(first_bytes, path)):
            yield Item(id_from_path(name), partial(read_capped, path))


def _files(root: Path, sieve: Sieve, below: str) -> Iterator[str]:
    """Yield the path below the root of every entry that is not a folder."""
    followed = {os.path.realpath(root)}
    pending = [below]
    while pending:
        below = pending.pop()
        try:
            entries = sorted(os.scandir(root / below), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"The folder {os.fspath(root / below)!r} cannot be listed ({error.strerror}).") from error
        for entry in entries:
            if entry.is_dir(follow_symlinks=False) or (entry.is_dir() and _may_follow(entry, root, followed)):
                if sieve.enters(below + entry.name):
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


def first_bytes(path: str) -> bytes:
    """Return a regular file's first bytes, nothing if it is none or cannot be read."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # as in `read_capped`: no Path for each file
            return b""
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123
            return file.read(START)
    except OSError:
        return b""
