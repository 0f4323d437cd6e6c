"""SIGINT and SIGTERM as an exception that comes when nothing is half done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)

    @property
    def exit_code(self) -> int:
        """What a shell says of a process that the signal ended: 130 or 143."""
        return 128 + self.number


class Interrupts:
    """Raises :class:`Interrupted` at the first SIGINT or SIGTERM; a second one ends the process.

    A context manager of the main thread, which restores the handlers that were there before.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._came = False

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            os._exit(Interrupted(number).exit_code)
        self._came = True
        raise Interrupted(number)


@contextmanager
def deferred() -> Iterator[None]:
    """Holds SIGINT and SIGTERM back until the block has ended; a second one does not wait.

    Python runs handlers in the main thread only, so in others nothing has to be held back. A mask
    of the thread would not do: with several threads the signal goes to one that does not mask it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # None stands for a handler that Python did not install and could not restore.
    before: dict[int, Any] = {
        n: signal.getsignal(n) for n in SIGNALS if signal.getsignal(n) is not None
    }
    waiting: list[int] = []
    holding = True

    def keep(number: int, frame: FrameType | None) -> None:
        if waiting or not holding:
            waiting.clear()
            signal.signal(number, before[number])
            signal.raise_signal(number)
        else:
            waiting.append(number)

    try:
        for number in before:
            signal.signal(number, keep)
        yield
    finally:
        # One signal may come while the handler of the other is put back, and cut that off.
        holding = False
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in waiting:
            signal.raise_signal(number)
