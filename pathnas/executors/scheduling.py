"""The loop that all executors share: arguments, deadlines, retries, results, one at a time.

What differs between executors is an :class:`Engine`: how an attempt at a job is started, watched
and ended. Everything that decides a result is here, so that it is the same everywhere.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from pathnas.executors.contract import LATER, Executor, Later, Paths
from pathnas.executors.results import Result, Results, attempt, failed, refused

A = TypeVar("A")
P = TypeVar("P")
T = TypeVar("T", bound="Attempt")
_END: Any = object()


class Attempt(Protocol):
    """One try at a job, in a worker of its own."""

    begun: float | None
    """When the worker began the job, on the clock of `time.monotonic`; None before."""
    result: Result | None
    """What became of it; None while it runs."""

    def start(self) -> None:
        """Starts the worker; if that is impossible, `result` says so."""

    def end(self) -> None:
        """Kills the worker if it lives, and gives back what it holds. Twice is harmless."""


class Engine(Protocol[P, T]):
    """How attempts are made."""

    slots: int
    """Attempts at a time."""
    patience: float | None
    """Seconds that a worker may take to begin its job; None for no limit."""

    def preparer(
        self,
        function: Callable[[Any], object],
        files: Paths[Any] | None,
        outputs: Paths[Any] | None,
    ) -> Callable[[Any], P]:
        """Returns what turns an argument into all that its attempts need.

        Raises:
            ValueError: If the function cannot be sent to a worker.
        """

    def attempt(self, prepared: P, slot: int) -> T:
        """Makes an attempt, which is not started yet, for a free slot below `slots`."""

    def wait(self, attempts: Sequence[T], timeout: float | None) -> None:
        """Sleeps until something happens to an attempt or time is out; updates the attempts."""

    def close(self) -> None:
        """Gives back what the engine holds. Twice is harmless."""


@dataclass
class _Job(Generic[P]):
    index: int
    prepared: P
    tried: int = 0
    since: float = 0.0  # when the last attempt was started


@dataclass
class _Run(Generic[P, T]):
    """The state of one call of `run`."""

    arguments: Iterator[Any]
    prepare: Callable[[Any], P]
    eager: bool
    deadline: float | None
    taken: int = 0
    exhausted: bool = False
    again: deque[_Job[P]] = field(default_factory=deque)
    running: dict[int, tuple[_Job[P], T]] = field(default_factory=dict)
    ended: deque[tuple[int, Result]] = field(default_factory=deque)

    def next_job(self) -> _Job[P] | None:
        """Returns the next job to start; None if there is none now."""
        if self.again:
            return self.again.popleft()
        while not self.exhausted and (self.eager or not self.ended):
            argument = next(self.arguments, _END)
            if argument is _END:
                self.exhausted = True
            elif argument is LATER:
                return None
            else:
                index, self.taken = self.taken, self.taken + 1
                prepared = attempt(self.prepare, argument)
                if prepared.failure is None:
                    return _Job(index, prepared.value)  # type: ignore[arg-type]
                self.ended.append((index, refused("the argument cannot be sent", prepared)))
        return None


class Scheduler(Executor, Generic[P, T]):
    """An executor on an engine.

    Args:
        engine: Makes the attempts; closed with the executor.
        retries: How often a job whose worker was lost is tried again, from its start.

    Raises:
        ValueError: If `retries` is negative.
    """

    def __init__(self, engine: Engine[P, T], retries: int) -> None:
        if retries < 0:
            raise ValueError(f"`retries` must be at least 0, but got {retries}")
        self._engine = engine
        self._retries = retries
        self._live: list[T] = []
        self._closed = False

    def run(
        self,
        function: Callable[[A], object],
        arguments: Iterable[A | Literal[Later.LATER]],
        *,
        deadline: float | None = None,
        files: Paths[A] | None = None,
        outputs: Paths[A] | None = None,
    ) -> Results:
        """See `Executor.run`."""
        if deadline is not None and not (0.0 < deadline < math.inf):
            raise ValueError(f"`deadline` must be positive finite seconds, but got {deadline}")
        self._check_open()
        prepare = self._engine.preparer(function, files, outputs)
        eager = isinstance(arguments, Sequence)
        return self._iterate(_Run(iter(arguments), prepare, eager, deadline))

    def close(self) -> None:
        """See `Executor.close`."""
        self._closed = True
        self._end(list(self._live))
        self._engine.close()

    def _iterate(self, run: _Run[P, T]) -> Results:
        try:
            while True:
                self._check_open()
                if run.eager:
                    self._fill(run)
                while run.ended:
                    yield run.ended.popleft()
                    self._check_open()
                self._fill(run)
                if run.ended:
                    continue
                if run.running:
                    self._wait(run)
                elif run.exhausted:
                    return
                else:
                    raise ValueError("`arguments` gave LATER, but no job runs to wait for")
        finally:
            self._end([one for _, one in run.running.values()])

    def _fill(self, run: _Run[P, T]) -> None:
        """Starts jobs as long as there are free slots and jobs."""
        for slot in range(self._engine.slots):
            while slot not in run.running:
                job = run.next_job()
                if job is None:
                    return
                new = self._engine.attempt(job.prepared, slot)
                run.running[slot] = job, new  # before it lives: no interrupt loses sight of it
                self._live.append(new)
                new.start()
                job.tried, job.since = job.tried + 1, time.monotonic()
                if new.result is not None:
                    self._settle(run, slot, new.result)

    def _wait(self, run: _Run[P, T]) -> None:
        """Sleeps until an attempt ends or is due, and settles those that have."""
        first = min(self._due(run, *pair) for pair in run.running.values())
        timeout = max(0.0, first - time.monotonic()) if first < math.inf else None
        self._engine.wait([one for _, one in run.running.values()], timeout)
        for slot, (job, one) in list(run.running.items()):
            result = one.result
            if result is None and time.monotonic() >= self._due(run, job, one):
                result = self._overdue(run, one)
            if result is None:
                continue
            lost = result.failure is not None and result.failure.status == "crashed"
            if lost and job.tried <= self._retries:
                self._release(run, slot)
                run.again.append(job)
            else:
                self._settle(run, slot, result)

    def _due(self, run: _Run[P, T], job: _Job[P], one: T) -> float:
        """When the worker must have begun, or ended; on the clock of `time.monotonic`."""
        if one.begun is None:
            return job.since + (self._engine.patience or math.inf)
        return one.begun + (run.deadline or math.inf)

    def _overdue(self, run: _Run[P, T], one: T) -> Result:
        if one.begun is None:
            return failed("crashed", f"its worker did not begin in {self._engine.patience:g} s")
        seconds = time.monotonic() - one.begun
        return failed("timed_out", f"killed at its deadline of {run.deadline:g} s", seconds)

    def _settle(self, run: _Run[P, T], slot: int, result: Result) -> None:
        job = self._release(run, slot)
        run.ended.append((job.index, result.of_attempt(job.tried)))

    def _release(self, run: _Run[P, T], slot: int) -> _Job[P]:
        job, ended = run.running[slot]
        self._end([ended])
        del run.running[slot]
        return job

    def _end(self, attempts: Sequence[T]) -> None:
        with ExitStack() as stack:  # each is ended, whatever becomes of the others
            for one in reversed(attempts):
                stack.callback(self._end_one, one)

    def _end_one(self, one: T) -> None:
        one.end()
        if one in self._live:
            self._live.remove(one)

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the executor is closed, make a new one")
