"""The link between the library, which reports to a listener, and the console."""

from __future__ import annotations

from smidgen.cli.console import Progress, with_option_names
from smidgen.listener import Listener


class ConsoleListener(Listener):
    """Passes on to the console what the library reports."""

    def __init__(self, console: Progress) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Pass on a sentence."""
        self._console.say(with_option_names(text))

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Pass on how far it is."""
        self._console.update(what, done, total, note)
