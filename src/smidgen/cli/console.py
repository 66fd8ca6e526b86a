"""Messages and progress on stderr, so that stdout holds results alone."""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TextIO

from smidgen.errors import InputWarning

if TYPE_CHECKING:
    from rich.progress import TaskID

_SECONDS_BETWEEN_LINES = 3.0
_SECONDS_WITHOUT_NEWS = 30.0
_STEP = 0.1  # share of the work after which a line is news


def printable(text: str) -> str:
    """Return a text on one line: characters that break lines, hide or reorder others become escapes.

    >>> printable("a\\nb"), printable("café 🐱")
    ('a\\\\nb', 'café 🐱')
    """
    if text.isprintable():
        return text
    kept = "\u200d"  # joins emoji into one
    return "".join(
        c if c.isprintable() or c == kept else c.encode("unicode_escape", "backslashreplace").decode() for c in text
    )


def print_stderr(text: str) -> None:
    """Print a line on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def report_error(text: str) -> None:
    """Print an error as one line on stderr."""
    print_stderr(f"smidgen: {with_option_names(' '.join(text.splitlines()))}")


_OPTIONS = {
    "n_clusters": "--clusters",
    "allow_bad": "--allow-bad",
    "size": "--size",
    "value_range": "--value-range",
    "exclude": "--exclude",
    "classes": "--classes",
    "min_confidence": "--min-confidence",
    "keep_contradictory_pairs": "--keep-contradictory-pairs",
}


def with_option_names(text: str) -> str:
    """Return a sentence that names Python's arguments with the command line's options instead.

    >>> with_option_names("`n_clusters` must be 1 or above; `allow_bad=0.5`")
    '`--clusters` must be 1 or above; `--allow-bad 0.5`'
    """
    for argument, option in _OPTIONS.items():
        text = text.replace(f"`{argument}`", f"`{option}`").replace(f"`{argument}=", f"`{option} ")
    return text


class Progress:
    """Receives messages and progress and shows nothing: `--quiet`."""

    def log(self, text: str) -> None:
        """Log a sentence."""

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        """Report that `done` of `total` are done."""

    def of(self, what: str) -> Callable[[int, int], None]:
        """Return a function of (done, total) that updates `what`."""
        return lambda done, total: self.update(what, done, total)

    def close(self) -> None:
        """Remove what is shown temporarily."""


class _Pace:
    """How fast a piece of work goes: by all steps but the first, which what is prepared before it may make slow."""

    def __init__(self, now: float, done: int) -> None:
        self._first, self._since = done, (now, done)

    def left(self, now: float, done: int, total: int) -> str:
        """Return the estimated time left, "" while it is not known, or if nothing is left.

        >>> pace = _Pace(0.0, 0)
        >>> pace.left(60.0, 1, 50), pace.left(70.0, 11, 50), pace.left(109.0, 50, 50)
        ('', '0:39 left', '')
        """
        since, before = self._since
        if before == self._first or done <= before:
            self._since = (now, done)
            return ""
        left = round((now - since) / (done - before) * (total - done))
        return f"{left // 60}:{left % 60:02} left" if done < total else ""


class Lines(Progress):
    """Plain lines, for logs: one when a tenth more is done, or half a minute has passed, and never two at once."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream, self._clock = stream, clock
        self._what, self._began, self._pace = "", 0.0, _Pace(0.0, 0)
        self._said_at, self._said_share, self._spoke = 0.0, 0.0, False

    def log(self, text: str) -> None:
        """Print the sentence."""
        print(printable(text), file=self._stream, flush=True)

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        """Print a line if it is time for one; short work gets none."""
        now = self._clock()
        if what != self._what:
            self._what, self._began, self._pace = what, now, _Pace(now, done)  # not always 0: a run may go on
            self._said_at, self._said_share, self._spoke = now, done / total, False
        left = self._pace.left(now, done, total)
        waited, news = now - self._said_at, done / total - self._said_share
        is_time = waited >= _SECONDS_BETWEEN_LINES and (news >= _STEP or waited >= _SECONDS_WITHOUT_NEWS)
        if is_time or (done == total and self._spoke and news > 0):
            seconds = f"{now - self._began:.0f} s"
            how_far = f": {done:,} of {total:,}" if total > 1 else ""
            self.log(f"{what}{how_far} ({', '.join(word for word in (note, seconds, left) if word)})")
            self._said_at, self._said_share, self._spoke = now, done / total, True


class Bars(Progress):
    """A progress bar on a terminal; it disappears at the end, messages stay."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[count]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=Console(file=stream, highlight=False),
            transient=True,
        )
        self._what, self._pace = "", _Pace(0.0, 0)
        self._task: TaskID

    def log(self, text: str) -> None:
        """Print the sentence above the bars."""
        self._bars.console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def update(self, what: str, done: int, total: int, note: str = "") -> None:
        """Advance the bar of `what`, one bar at a time; work of one piece only pulses."""
        self._bars.start()
        if what != self._what:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._what, self._pace = what, _Pace(time.monotonic(), done)
            self._task = self._bars.add_task(what.ljust(12), total=total if total > 1 else None, count="", note="")
        left = self._pace.left(time.monotonic(), done, total)
        count = f"{done:,}/{total:,}" if total > 1 else ""
        of = total if total > 1 else None  # the same work may be done again, of another size
        self._bars.update(
            self._task, completed=done, total=of, count=count, note="   ".join(filter(None, (left, note)))
        )

    def close(self) -> None:
        """Remove the bar."""
        self._bars.stop()


@contextmanager
def progress(*, quiet: bool = False, on_warning: Callable[[str], None] | None = None) -> Iterator[Progress]:
    """Show progress on stderr while the body runs: bars on a terminal, plain lines elsewhere, nothing if quiet.

    on_warning: called once with the message of each `InputWarning`; None shows it like other messages.
    """
    shown = Progress() if quiet else Bars(sys.stderr) if sys.stderr.isatty() else Lines(sys.stderr)
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        warnings.showwarning = _as_sentences(on_warning or shown.log)
        try:
            yield shown
        finally:
            shown.close()


def _as_sentences(on_warning: Callable[[str], None]) -> Callable[..., None]:
    """Return a replacement for `warnings.showwarning` that prints plain sentences."""
    said, otherwise = set(), warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if not issubclass(category, InputWarning):
            otherwise(message, category, *where, **more)
        elif str(message) not in said:
            said.add(str(message))
            on_warning(with_option_names(str(message)))

    return show
