r"""Names of images as people write them, found again: `.\a.jpg`, "a.jpg ", another Unicode form, another folder."""

from __future__ import annotations

import os
import posixpath
import unicodedata
from collections.abc import Callable, Collection, Sequence
from functools import cache
from pathlib import Path

from smidgen.data.collection import path_from_id
from smidgen.data.tabular import TABLES


def plain_path(name: str) -> str:
    r"""Return a path as all spellings of it have it: no spaces or quotes around it, slashes, no `./`, Unicode NFC.

    >>> plain_path(' ".\\cats\\a.jpg" '), plain_path("cats//a.jpg")
    ('cats/a.jpg', 'cats/a.jpg')
    """
    name = unicodedata.normalize("NFC", name).strip()
    if len(name) > 2 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1].strip()
    return posixpath.normpath(name.replace("\\", "/"))


def folders_of_images(data: Path | str) -> tuple[str, ...]:
    """Return the name of the folder that images are in, or would be if they were unpacked, with links and without.

    >>> folders_of_images("x/photos/"), folders_of_images("x/photos.zip"), folders_of_images("/x/photos/list.csv")
    (('photos',), ('photos',), ('photos',))
    """
    given = Path(data).expanduser().absolute()
    return tuple(dict.fromkeys(_folder_name(path) for path in (given, given.resolve())))


def _folder_name(path: Path) -> str:
    if path.suffix.lower() in TABLES:
        return path.parent.name
    return path.stem if path.suffix.lower() in (".zip", ".tar") else path.name


def prefix_of_folder(names: Sequence[str], folders: Collection[str], exists: Callable[[str], bool]) -> str | None:
    """Return what comes before the names of images that begin outside their folder, "C:/photos/" of "C:/photos/a.jpg".

    names: plain paths. folders: names of the images' own folder, one of which the prefix has to end with.
    exists: whether there is an image of a name. None if no or more than one prefix fits all names.

    >>> prefix_of_folder(["C:/photos/a.jpg"], ["photos"], lambda name: name == "a.jpg")
    'C:/photos/'
    """
    first = names[0].split("/") if names else []
    ends = {plain_path(folder).casefold() for folder in folders if folder}
    prefixes = ["/".join(first[:i]) + "/" for i in range(1, len(first)) if first[i - 1].casefold() in ends]
    fitting = [p for p in prefixes if all(name.startswith(p) and exists(name[len(p) :]) for name in names)]
    return fitting[0] if len(fitting) == 1 else None


def path_below(folder: str, path: str) -> str:
    """Return a path below a folder, or an absolute one as it is; of a hundred thousand, a `Path` each takes long."""
    return os.path.join(folder, path)  # noqa: PTH118


class FilesBelow:
    """Finds the files below a folder that names in a manifest mean."""

    def __init__(self, root: Path) -> None:
        self.root, self._folder = root, os.fspath(root)
        self._listed = cache(self._list)

    def find(self, name: str) -> str | None:
        """Return the path of a file below the root, as it is written on the disk; None if there is none.

        The name as it stands comes first, then as an image id, then as other systems and spreadsheets write it.
        """
        path = posixpath.normpath(name)
        if self.has(path):
            return path
        plain = plain_path(name)
        for path in (posixpath.normpath(path_from_id(name)), plain):
            if self.has(path):
                return path
        return None if plain.isascii() else self._in_another_form(plain)

    def has(self, path: str) -> bool:
        """Return whether a file with exactly this path exists."""
        return os.path.lexists(path_below(self._folder, path))

    def _in_another_form(self, plain: str) -> str | None:
        """Return the path whose letters are composed otherwise, as macOS and Linux differ; None if there is none."""
        found = ""
        for part in plain.split("/"):
            spelt = self._listed(found).get(part)
            if spelt is None:
                return None
            found = posixpath.join(found, spelt)
        return found

    def _list(self, below: str) -> dict[str, str]:
        """Return the plain name → the name of each entry of a folder."""
        try:
            names = [entry.name for entry in (self.root / below).iterdir()]
            return {unicodedata.normalize("NFC", name): name for name in names}
        except (OSError, ValueError):
            return {}
