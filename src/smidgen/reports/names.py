"""Display names: hidden characters made visible, clusters called by number or name."""

from __future__ import annotations

import re
import unicodedata


def visible(text: str) -> str:
    """Return a text with characters that hide or reorder others written as escapes; emoji and letters stay.

    >>> visible("a\\nb"), visible("cat\u202egnp.exe")
    ('a\\\\nb', 'cat\\\\u202egnp.exe')
    """
    if text.isprintable():
        return text
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    joiner = character == "\u200d"  # joins emoji into one
    if joiner or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp"):
        return character
    return character.encode("unicode_escape", "backslashreplace").decode()


def cluster_title(name: str) -> str:
    """Return how a cluster is called: by its number, or its own name.

    >>> cluster_title("3"), cluster_title("nuclei")
    ('cluster 3', 'nuclei')
    """
    return f"cluster {name}" if is_numbered(name) else name


def is_numbered(cluster_name: str) -> bool:
    """Return whether a cluster has only a number, as without evidence that names classes."""
    return re.fullmatch(r"[0-9]+", cluster_name) is not None
