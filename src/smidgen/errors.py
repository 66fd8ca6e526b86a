"""The exception tree: every error smidgen raises on purpose says what was given, what was wanted and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class SmidgenError(Exception):
    """The root of every error raised on purpose; its message is one sentence for the user."""


class InputError(SmidgenError, ValueError):
    """An argument, option, file or image collection is not valid."""


class RunError(SmidgenError):
    """A run folder cannot be used as asked: it is full, locked, damaged or of another configuration."""


class Damaged(SmidgenError):
    """A file is not as smidgen wrote it; the message is only the reason, for the caller, who knows the file."""


class TrainingError(SmidgenError):
    """Training cannot go on: the loss stays infinite or not a number, or memory ran out."""


class ContractError(SmidgenError, TypeError):
    """A method does not keep the contract in `methods/base.py`; the message says what it gave and what was wanted."""


class InputWarning(UserWarning):
    """What was given can be read, and the user should know how: a column that was ignored, a name read as another."""


def unknown(kind: str, given: str, known: Iterable[str]) -> InputError:
    """Return the error for a name that is not in a list, with the nearest known one.

    >>> str(unknown("method", "swaw", ["kmeans", "swav"]))
    "Unknown method 'swaw'. Did you mean 'swav'? Known: kmeans, swav."
    """
    names = sorted(known)
    near = difflib.get_close_matches(given, names, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return InputError(f"Unknown {kind} {given!r}.{hint} Known: {', '.join(names)}.")
