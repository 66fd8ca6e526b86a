"""The listener of the command line: prints what the library reports."""

from __future__ import annotations

from smidgen.cli.console import Progress, with_option_names
from smidgen.listener import Listener


class ConsoleListener(Listener):
    """Prints to the console what the library reports."""

    def __init__(self, console: Progress) -> None:
        self._console = console

    def log(self, text: str) -> None:
        """Print a sentence."""
        self._console.log(with_option_names(text))

    def progress(self, what: str, done: int, total: int, note: str = "") -> None:
        """Show progress."""
        self._console.update(what, done, total, note)
