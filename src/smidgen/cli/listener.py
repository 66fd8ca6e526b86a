"""The link between a fit and the console; a module of its own because it imports torch."""

from __future__ import annotations

from smidgen.cli.console import Progress, with_option_names
from smidgen.listener import Listener


class ConsoleListener(Listener):
    """Passes on to the console what a fit says."""

    def __init__(self, console: Progress) -> None:
        self._console = console

    def say(self, text: str) -> None:
        """Pass on a sentence."""
        self._console.say(with_option_names(text))

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Pass on how far it is."""
        self._console.update(what, done, total, note)
