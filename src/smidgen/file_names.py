"""File and folder names that are valid on every system, each unique."""

from __future__ import annotations

import re
from pathlib import Path

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)
_FORBIDDEN = re.compile(r'[<>:"/\\|?*]')
_LONGEST = 120  # bytes of a name: leaves room for a number, below every file system's 255


def safe_name(text: str, *, otherwise: str = "unnamed") -> str:
    """Return a text as the name of one file or folder, on every system: no separators, controls or reserved names.

    A file's extension survives where the name is cut.

    >>> safe_name("../a/b"), safe_name("cat & dog?"), safe_name("nul.txt"), safe_name("..")
    ('_.._a_b', 'cat & dog_', '_nul.txt', 'unnamed')
    """
    name = "".join(c if c.isprintable() else "_" for c in _FORBIDDEN.sub("_", text)).strip().rstrip(". ")
    name = re.sub(r"^-", "_", name)
    stem, dot, ending = name.rpartition(".")
    ending = f"{dot}{ending}" if stem and len(ending) <= 8 and ending.isascii() else ""
    name = _cut(name[: len(name) - len(ending)], _LONGEST - len(ending)) + ending
    if not name.strip("."):
        return otherwise
    return f"_{name}" if name.startswith(".") or _RESERVED.fullmatch(name) else name


def _cut(text: str, n_bytes: int) -> str:
    return text.encode()[:n_bytes].decode(errors="ignore")


class Names:
    """Gives each text a name of its own within one folder, numbered where two would be the same on some system.

    >>> names = Names()
    >>> names.take("a.png"), names.take("A.png"), names.take("a.png")
    ('a.png', 'A-2.png', 'a-3.png')
    """

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._next: dict[str, int] = {}

    def take(self, text: str, *, otherwise: str = "unnamed") -> str:
        """Return a free name for `text`, and take it."""
        import unicodedata

        wanted = name = safe_name(text, otherwise=otherwise)
        stem, ending = Path(wanted).stem, Path(wanted).suffix

        def key(name: str) -> str:
            return unicodedata.normalize("NFC", name).casefold()

        number = self._next.get(key(wanted), 1)
        while key(name) in self._taken:
            number += 1
            name = f"{stem}-{number}{ending}"
        self._next[key(wanted)] = number
        self._taken.add(key(name))
        return name
