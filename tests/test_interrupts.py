"""Signals as exceptions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from pathnas import interrupts
from pathnas.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_exception_with_its_exit_code(number: signal.Signals, code: int) -> None:
    with pytest.raises(Interrupted, match=number.name) as caught, Interrupts():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code


def test_a_second_signal_ends_the_process() -> None:
    script = """
import os, signal
from pathnas.interrupts import Interrupts
with Interrupts():
    try:
        os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
        print("never")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


def test_within_deferred_it_waits_for_the_end_of_the_outermost_block() -> None:
    done = []
    with pytest.raises(Interrupted), Interrupts():
        with interrupts.deferred():
            with interrupts.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("written")
            done.append("and the rest")
        done.append("never")
    assert done == ["written", "and the rest"]


def test_it_waits_while_other_threads_live() -> None:
    end, done = threading.Event(), []
    thread = threading.Thread(target=end.wait)
    thread.start()
    try:
        with pytest.raises(Interrupted), Interrupts():
            with interrupts.deferred():
                os.kill(os.getpid(), signal.SIGTERM)
                done.append("written")
            done.append("never")
    finally:
        end.set()
        thread.join()
    assert done == ["written"]


def test_a_second_signal_does_not_wait() -> None:
    done = []
    with pytest.raises(Interrupted, match="SIGINT"), Interrupts(), interrupts.deferred():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append("written")
        os.kill(os.getpid(), signal.SIGINT)
        done.append("never")
    assert done == ["written"]


def test_in_another_thread_a_signal_still_reaches_the_main_one() -> None:
    inside, end = threading.Event(), threading.Event()

    def write() -> None:
        with interrupts.deferred():
            inside.set()
            end.wait()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        inside.wait()
        with pytest.raises(Interrupted), Interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        end.set()
        thread.join()


def test_a_signal_while_the_handlers_are_put_back_swallows_no_later_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put, ended = signal.signal, []

    def interrupted(number: int, handler: object) -> object:
        before = put(number, handler)  # type: ignore[arg-type]
        if ended and number == signal.SIGINT:
            ended.clear()
            signal.raise_signal(signal.SIGINT)
        return before

    with Interrupts():
        with pytest.raises(Interrupted, match="SIGINT"), interrupts.deferred():
            monkeypatch.setattr(signal, "signal", interrupted)
            ended.append(True)
        monkeypatch.setattr(signal, "signal", put)
        exits = []
        monkeypatch.setattr(os, "_exit", exits.append)
        with pytest.raises(Interrupted, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)  # the second one: it ends the process
        assert exits == [143]


def test_an_error_within_deferred_is_not_lost() -> None:
    with pytest.raises(OSError, match="full"), interrupts.deferred():
        raise OSError("full")


def test_the_handlers_of_before_come_back() -> None:
    before = [signal.getsignal(number) for number in interrupts.SIGNALS]
    with Interrupts(), interrupts.deferred():
        assert [signal.getsignal(number) for number in interrupts.SIGNALS] != before
    assert [signal.getsignal(number) for number in interrupts.SIGNALS] == before
