"""Signals: at once, or held back while something must not be torn apart, but not for ever."""

import contextlib
import os
import signal
import threading
import time

import pytest

from smidgen.training.interrupts import Interrupted, Interrupts


def send(number=signal.SIGTERM, *, times=1):
    for _ in range(times):
        os.kill(os.getpid(), number)


def send_and_sleep():
    send()
    time.sleep(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_outside_a_deferral_a_signal_is_raised_at_once(number):
    with Interrupts().listening(), pytest.raises(Interrupted) as caught:
        send(number)
    assert caught.value.signal == number


def test_inside_one_it_waits_and_is_pending():
    with Interrupts().listening() as interrupts:
        with interrupts.deferred():
            send()
            survived = True
        assert survived
        assert interrupts.pending == signal.SIGTERM


def test_a_second_one_does_not_wait():
    with Interrupts().listening() as interrupts, pytest.raises(Interrupted), interrupts.deferred():
        send(signal.SIGINT, times=2)


def test_none_waits_longer_than_the_patience():
    began = time.monotonic()
    with Interrupts(patience=0.1).listening() as interrupts, pytest.raises(Interrupted), interrupts.deferred():
        send_and_sleep()
    assert time.monotonic() - began < 5


def test_the_patience_ends_with_the_listening():
    with Interrupts(patience=0.1).listening() as interrupts, interrupts.deferred():
        send()
    time.sleep(0.3)  # the alarm would end this process


def test_the_handlers_of_before_come_back():
    mine = lambda number, frame: None  # noqa: E731
    before = signal.signal(signal.SIGTERM, mine)
    try:
        with pytest.raises(Interrupted), Interrupts().listening():
            send()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_except_clause_for_errors_does_not_swallow_it():
    def careless():
        with contextlib.suppress(Exception):
            send()

    with Interrupts().listening(), pytest.raises(Interrupted):
        careless()


def test_another_thread_listens_to_nothing():
    seen = []

    def listen():
        before = signal.getsignal(signal.SIGTERM)
        with Interrupts().listening():
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [True]
