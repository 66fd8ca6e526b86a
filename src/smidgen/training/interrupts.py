"""Signals: training stops at the next safe moment, with its state saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interrupted(BaseException):
    """The process was asked to stop (SIGTERM, Ctrl-C); `signal` is the signal's number.

    Not an `Exception`, like KeyboardInterrupt: nothing on the way up should swallow it.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.signal = number


class Interrupts:
    """Turns SIGTERM and SIGINT into `Interrupted`; inside `deferred` the signal's number becomes `pending` instead."""

    def __init__(self, *, patience: float = 3.0) -> None:
        self.pending: int | None = None
        self._deferring = False
        self._patience = patience
        self._alarm: threading.Timer | None = None

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again, self.pending = self.pending is not None, number
        if again or not self._deferring:
            raise Interrupted(number)
        main = threading.main_thread().ident  # to this very thread, so that a system call it waits in returns
        self._alarm = threading.Timer(self._patience, signal.pthread_kill, (main, number))
        self._alarm.daemon = True
        self._alarm.start()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer a signal to `pending`, for the caller to check; a second one, or one past `patience`, is raised.

        patience: in seconds; a step of a large net may take longer than a supervisor waits before it sends SIGKILL.
        """
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Interrupts]:
        """Handle signals while the body runs; in threads other than the main one, Python cannot catch any."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        numbers = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield self
        finally:
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm.join()
            for number, handler in before.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)  # None: set by C code
