"""Jobs one after another in this process."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pathnas.executors.contract import Paths
from pathnas.executors.results import Result, attempt
from pathnas.executors.scheduling import Scheduler
from pathnas.executors.worker import check_memory, memory_limit, one_thread

Call = Callable[[], Any]


class Inline(Scheduler[Call, "_Attempt"]):
    """Runs jobs one after another in this process, for tests and for debugging.

    While a job runs torch has one thread; the caller's number is restored after it. Nothing can
    stop a job here, so the deadline is not enforced, and a job that kills its process kills all.

    Args:
        memory: MiB that a job may allocate beyond what the process has when it starts; None for
            no limit.

    Raises:
        ValueError: If `memory` is below 1.
    """

    def __init__(self, *, memory: int | None = None) -> None:
        super().__init__(_Here(memory), retries=0)


class _Here:
    """The engine: a job runs when the caller waits for it."""

    slots = 1
    patience: float | None = None

    def __init__(self, memory: int | None) -> None:
        check_memory(memory)
        self._memory = memory

    def preparer(
        self,
        function: Callable[[Any], object],
        files: Paths[Any] | None,
        outputs: Paths[Any] | None,
    ) -> Callable[[Any], Call]:
        return lambda argument: partial(function, argument)

    def attempt(self, prepared: Call, slot: int) -> _Attempt:
        return _Attempt(prepared, self._memory)

    def wait(self, attempts: Sequence[_Attempt], timeout: float | None) -> None:
        for one in attempts:
            one.run()

    def close(self) -> None:
        pass


class _Attempt:
    begun: float | None = None

    def __init__(self, call: Call, memory: int | None) -> None:
        self._call = call
        self._memory = memory
        self.result: Result | None = None

    def start(self) -> None:
        pass

    def run(self) -> None:
        with one_thread(), memory_limit(self._memory):
            self.result = attempt(self._call)

    def end(self) -> None:
        pass
