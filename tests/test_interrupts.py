"""Signals as exceptions."""

from __future__ import annotations

import os
import signal

import pytest

from pathnas.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_an_exception_with_its_exit_code(number: signal.Signals, code: int) -> None:
    with pytest.raises(Interrupted, match=number.name) as caught, Interrupts():
        os.kill(os.getpid(), number)
    assert caught.value.exit_code == code


def test_within_deferred_it_waits_for_the_end() -> None:
    done = []
    with pytest.raises(Interrupted), Interrupts() as interrupts:
        with interrupts.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("written")
        done.append("never")
    assert done == ["written"]


def test_without_a_signal_deferred_does_nothing() -> None:
    with Interrupts() as interrupts, interrupts.deferred():
        pass


def test_an_error_within_deferred_is_not_lost() -> None:
    with pytest.raises(OSError, match="full"), Interrupts() as interrupts, interrupts.deferred():
        raise OSError("full")


def test_the_handlers_of_before_come_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
