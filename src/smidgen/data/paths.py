"""Resolves where data are: a path, a glob, or several, combined into one collection."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from smidgen.data.candidates import Sieve, is_system
from smidgen.data.collection import Collection, Item, id_from_path, natural_key
from smidgen.data.folders import first_bytes, items_below
from smidgen.data.images import read_capped
from smidgen.data.named import DATASETS
from smidgen.data.splits import arranged
from smidgen.errors import InputError, unknown

Paths = str | Path | Sequence[str | Path]


@dataclass(frozen=True)
class Given:
    """The resolved meaning of a path or glob. anchor: the folder that image names are relative to.

    passed_over: names of system folders that a glob matched by chance.
    """

    paths: tuple[Path, ...]
    anchor: Path
    passed_over: tuple[str, ...] = ()


def of_path(path: Path) -> Given:
    """Return a folder or file as part of several: its own name begins the names of its images."""
    path = Path(os.path.abspath(path))  # noqa: PTH100  # `resolve` would follow links, and rename what they lead to
    return Given((path,), path.parent)


def of_glob(pattern: str, *, root: str | None = None) -> Given:
    """Return the paths that match, in natural order; `**` matches any folders, hidden ones excepted.

    root: the folder that a relative pattern begins in.
    """
    pattern = os.path.abspath(Path(root or ".") / Path(pattern).expanduser())  # noqa: PTH100
    matches = sorted(glob.glob(pattern, recursive=True), key=natural_key)  # noqa: PTH207  # of any root
    fixed = Path(pattern)
    while glob.has_magic(str(fixed)):
        fixed = fixed.parent
    named = Path(pattern).parts
    system = {
        match: folder
        for match in matches
        for folder in Path(match).relative_to(fixed).parts[:-1]
        if is_system(folder) and folder not in named
    }
    return Given(tuple(Path(match) for match in matches if match not in system), fixed, tuple(system.values()))


def common_folder(given: Sequence[Given]) -> Path:
    """Return the folder that all names begin in."""
    return Path(os.path.commonpath([one.anchor for one in given]))


def as_paths(data: Any) -> Paths | None:
    """Return data that are given by path or name, or by several paths in a list, an array or a series; else None."""
    if isinstance(data, (str, Path)):
        return data
    if getattr(data, "ndim", None) == 1 and data.dtype.kind in "OUT":
        data = data.tolist()
    is_paths = isinstance(data, (list, tuple)) and all(isinstance(one, (str, Path)) for one in data)
    return tuple(data) if is_paths and data else None


def find_data(data: Paths) -> Path:
    """Return where a file or folder of images is: at the path or, if nothing is, at that path in `$SMIDGEN_DATA`.

    Of a glob or several paths: the folder that their images' ids begin in.
    A string that could be a name is not looked for there: MNIST, misspelt, would be found as its folder of raw files.
    Nothing is read. Raises InputError if there is nothing.
    """
    if isinstance(data, (str, Path)):
        return find_path(data) or common_folder([find_glob(data)])
    return common_folder(find_several(data))


def find_several(given: Sequence[str | Path]) -> list[Given]:
    """Return the resolved meaning of several paths and globs; raises InputError for one that is given twice."""
    for one, times in Counter(os.fspath(one) for one in given).items():
        if times > 1:
            raise InputError(f"{one!r} is given {times} times: give each path once.")
        if one in DATASETS and not Path(one).exists():
            raise InputError(f"{one!r} is the name of a dataset, not one of several paths: give it alone.")
    found = [(one, find_path(one)) for one in given]
    return [find_glob(one) if path is None else of_path(path) for one, path in found]


def find_glob(pattern: str | Path) -> Given:
    """Return the matches of a pattern, here or in `$SMIDGEN_DATA`; raises InputError if nothing does."""
    for root in (None, os.environ.get("SMIDGEN_DATA")):
        found = of_glob(os.fspath(pattern), root=root)
        if found.paths:
            return found
    raise InputError(f"No file or folder matches {os.fspath(pattern)!r}.")


def find_path(data: str | Path) -> Path | None:
    """Return where a path is, None if there is nothing but it may be a glob; raises InputError for anything else."""
    given = os.fspath(data)
    is_name = isinstance(data, str) and _could_be_name(data)
    root = None if is_name else os.environ.get("SMIDGEN_DATA")
    if given and "\0" not in given:
        path = Path(given).expanduser()
        for place in (path, Path(root) / path) if root else (path,):
            if place.exists():
                return place
        if glob.has_magic(given):
            return None
    if is_name:
        raise InputError(f"{unknown('dataset', given, DATASETS)} Nor is there a file or folder of this name here.")
    there = f", here or in {root!r}" if root else ""
    raise InputError(f"There is no file or folder {given!r}{there}; known names are {', '.join(DATASETS)}.")


def _could_be_name(data: str) -> bool:
    return not any(sign in data for sign in ("/", os.sep, ".", "~", "\0"))


def collect_several(given: Sequence[Given], *, exclude: Sequence[str] = ()) -> Collection:
    """Return the images among and below some paths, each once and in their order; splits and classes as in a folder."""
    root, sieve = common_folder(given), Sieve(exclude)
    for folder in (folder for one in given for folder in one.passed_over):
        sieve.enters(folder)
    items: dict[str, Item] = {}
    order: dict[str, int] = {}
    for position, path in enumerate(path for one in given for path in one.paths):
        for item in _items_of(path, root, sieve):
            items.setdefault(item.id, item)
            order.setdefault(item.id, position)
    found = arranged(items.values())
    return Collection(
        tuple(sorted(found.items, key=lambda item: order[item.id])), sieve.ignored, found.notes + sieve.notes()
    )


def _items_of(path: Path, root: Path, sieve: Sieve) -> list[Item]:
    name = path.relative_to(root).as_posix()
    if path.is_dir():
        return list(items_below(root, sieve, below=f"{name}/")) if sieve.enters(name) else []
    if not sieve.admits(name, partial(first_bytes, os.fspath(path))):
        return []
    return [Item(id_from_path(name), partial(read_capped, os.fspath(path)))]


def is_image_file(path: Path) -> bool:
    """Return whether a path leads to a file that should be an image, by its name or its content."""
    return path.is_file() and Sieve().admits(path.name, partial(first_bytes, os.fspath(path)))
