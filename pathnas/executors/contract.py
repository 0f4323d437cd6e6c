"""The contract of all executors."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar

from pathnas.executors.results import Results

A = TypeVar("A")
E = TypeVar("E", bound="Executor")
Paths: TypeAlias = Callable[[A], Iterable[Path]]
"""Files that belong to an argument; a folder stands for all files below it."""


class Later(enum.Enum):
    """What arguments may give in place of the next one; see :data:`LATER`."""

    LATER = "later"


LATER = Later.LATER
"""Nothing to do now: ask again when another result has been handed over."""


class Executor(Protocol):
    """The contract of all executors; a context manager that closes itself."""

    def run(
        self,
        function: Callable[[A], object],
        arguments: Iterable[A | Literal[Later.LATER]],
        *,
        deadline: float | None = None,
        files: Paths[A] | None = None,
        outputs: Paths[A] | None = None,
    ) -> Results:
        """Calls the function on each argument and yields ``(index, result)`` as jobs end.

        The first job starts with the first ``next``. Closing the generator early kills the jobs
        that are running; so does whatever exception passes through it.

        A sequence of arguments is known in advance: a worker that is free gets the next one
        before the results of others are handed over. From any other iterable an argument is taken
        only when a worker is free *and* all results so far have been handed over, so that what a
        generator gives next may depend on them; it may also give :data:`LATER`. With one worker
        the order of arguments and results is then the same on every executor.

        Args:
            function: A module-level function, which workers import by its name.
            arguments: One for each job; jobs start in this order.
            deadline: Seconds after which a running job is killed, counted from the moment its
                worker begins it; None for no limit. Deadlines are watched while the caller waits
                in ``next``.
            files: The files that a job reads. Where workers do not see the coordinator's disk
                they find them at the same absolute paths; elsewhere nothing is copied.
            outputs: The files that a job writes, and that stand on the coordinator's disk when its
                result is handed over, if it succeeded.

        Raises:
            ValueError: If the deadline is not positive and finite, the function is not
                importable by name, the executor is closed, or the arguments give LATER though
                nothing runs. What iterating over the arguments raises passes through.
        """
        ...

    def close(self) -> None:
        """Kills what still runs; the executor cannot be used afterwards. Twice is harmless."""
        ...

    def __enter__(self: E) -> E:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
