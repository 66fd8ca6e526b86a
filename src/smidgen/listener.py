"""The interface through which a fit reports log messages and progress."""

from __future__ import annotations


class Listener:
    """Receives log messages and progress; this default ignores them, the command line's prints them."""

    def log(self, text: str) -> None:
        """Log a sentence."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` are done."""
