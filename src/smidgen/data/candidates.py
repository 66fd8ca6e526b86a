"""Selects the image files of a collection by name or content; skips system folders and exclusions."""

from __future__ import annotations

import posixpath
import re
import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import pathspec

from smidgen.data.images import image_format
from smidgen.errors import InputError

EXTENSIONS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"})
EXTENSIONS |= {"ppm", "pgm", "pbm", "pnm", "pfm", "avif", "avifs", "heic", "heif", "hif", "jxl", "jp2", "tga"}
"""Names that promise an image; one that cannot be read is a bad image, with its reason, and never lost silently."""

_OTHERS = frozenset({"txt", "csv", "tsv", "json", "jsonl", "xml", "yaml", "yml", "md", "html", "npy", "npz", "parquet"})
_OTHERS |= {"pdf", "zip", "tar", "gz", "mp4", "mov", "avi", "mkv", "mp3", "wav", "py", "thm", "xmp", "ini", "db"}
_OTHERS |= {"dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "sr2", "srf", "orf", "raf", "rw2", "pef", "srw", "raw"}
"""Extensions of what lies beside images, often one for each: never opened. Raw files begin as TIFF does."""

_SYSTEM = {"__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin"}
_SYSTEM |= {"recycler", "system volume information", "lost+found", "lost.dir", "thumbs.db", "ehthumbs.db"}
_SYSTEM |= {"desktop.ini", "network trash folder", "temporary items"}

_EXTENSION = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,7}")
_SHOWN = 3
_KINDS_SHOWN = 6


class Sieve:
    """Separates a collection's images from its other files, and counts both.

    exclude: patterns as in a .gitignore: `*.gif`, `thumbs/`, `/raw`, `2019/**/draft-*`, `!keep.gif`. Raises InputError
        for one that is none.
    """

    def __init__(self, exclude: Sequence[str] = ()) -> None:
        self._exclude = _compiled(exclude)
        self._unmatched = {pattern: _compiled([pattern]) for pattern in exclude if not pattern.startswith("!")}
        self.ignored = 0
        self._by_content: list[str] = []
        self._kinds: Counter[str] = Counter()
        self._system: Counter[str] = Counter()
        self._excluded: list[str] = []

    def enters(self, folder: str) -> bool:
        """Return whether files in a folder, given by its path below the collection, are to be used."""
        name = posixpath.basename(folder)
        if is_system(name):
            self._system[name] += 1
            return False
        return not self._is_excluded(f"{folder}/")

    def admits(self, name: str, start: Callable[[], bytes]) -> bool:
        """Return whether a file should be an image: by its extension, or without a usual one by its first bytes.

        name: its path below the collection. start: returns its first bytes; called only if the name does not tell.
        """
        base = name.rpartition("/")[2]
        if is_system(base):
            self._system[base] += 1
            self.ignored += 1
            return False
        stem, dot, extension = base.rpartition(".")
        extension = extension.lower() if stem else ""
        is_image = extension in EXTENSIONS
        if not is_image and (extension in _OTHERS or image_format(start()) is None):
            extension = f"{dot}{extension}"
            self._kinds[extension if _EXTENSION.fullmatch(extension) else "without a usual extension"] += 1
            self.ignored += 1
            return False
        if self._is_excluded(name):
            return False
        if not is_image:
            self._by_content.append(name)
        return True

    def admits_member(self, name: str, start: Callable[[], bytes]) -> bool:
        """Return the same for a member of an archive, also checking its folders."""
        for folder in posixpath.dirname(name).split("/"):
            if is_system(folder):
                self._system[folder] += 1
                self.ignored += 1
                return False
        return self.admits(name, start)

    def excludes(self, name: str) -> bool:
        """Return whether a pattern excludes a file, and count it."""
        return self._is_excluded(name)

    def _is_excluded(self, name: str) -> bool:
        if self._exclude is None or not self._exclude.match_file(name):
            return False
        self._excluded.append(name)
        self._unmatched = {
            pattern: spec for pattern, spec in self._unmatched.items() if spec is None or not spec.match_file(name)
        }
        return True

    def notes(self) -> tuple[str, ...]:
        """Return sentences on files taken by content, skipped and excluded."""
        sentences = []
        if self._by_content:
            n = len(self._by_content)
            are = "file is read as an image by its" if n == 1 else "files are read as images by their"
            sentences.append(f"{n:,} {are} content, not by name: {_examples(self._by_content)}.")
        if self._kinds:
            often = sorted(self._kinds.items(), key=lambda kind: (-kind[1], kind[0]))
            kinds = ", ".join(f"{n:,} {kind}" for kind, n in often[:_KINDS_SHOWN])
            kinds += ", …" if len(often) > _KINDS_SHOWN else ""
            n = self._kinds.total()
            sentences.append(f"Passed over: {n:,} file{'s' * (n > 1)} of other kinds ({kinds}).")
        if self._system:
            sentences.append(f"Passed over: hidden and system files and folders, {_examples(list(self._system))}.")
        if self._excluded:
            n = len(self._excluded)
            count = f" ({n:,} files and folders)" if n > _SHOWN else ""
            sentences.append(f"Excluded: {_examples(self._excluded)}{count}.")
        if self._unmatched:
            sentences.append(
                f"Nothing is excluded by {_examples(list(self._unmatched))}: patterns are as in a .gitignore."
            )
        return tuple(sentences)


def is_system(name: str) -> bool:
    """Return whether a file or folder is hidden, or made by an operating system or network storage."""
    return (name.startswith(".") and name not in (".", "..")) or name.casefold() in _SYSTEM


def _line(pattern: str) -> str:
    """Return a pattern as a line of a .gitignore, where `#` begins a comment and `./` means nothing."""
    if pattern.startswith("./"):
        return pattern[1:]
    return rf"\{pattern}" if pattern.startswith("#") else pattern


def _compiled(patterns: Sequence[str]) -> pathspec.GitIgnoreSpec | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of `re`, for "[["
        return _compiled_loudly(patterns)


def _compiled_loudly(patterns: Sequence[str]) -> pathspec.GitIgnoreSpec | None:
    lines = [_line(pattern) for pattern in patterns]
    for pattern, line in zip(patterns, lines, strict=True):
        try:
            is_pattern = any(one.include is not None for one in pathspec.GitIgnoreSpec.from_lines([line]).patterns)
        except (ValueError, re.error):
            is_pattern = False
        if not is_pattern:
            raise InputError(f"`exclude` takes patterns like '*.gif', 'thumbs/' or '/2019/**', got {pattern!r}.")
    return pathspec.GitIgnoreSpec.from_lines(lines) if lines else None


def _examples(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", …" if len(names) > _SHOWN else "")
