"""Whom a fit reports to: sentences for the user, and how far the work is."""

from __future__ import annotations


class Listener:
    """Hears what a run says and how far it is; this one hears nothing. The command line's prints."""

    def say(self, text: str) -> None:
        """Hear a sentence."""

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Hear that `done` of `total` are done."""
