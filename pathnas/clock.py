"""How long the phases of a run took, over all the times that it was begun and broken off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pathnas.database import Database


class Clock:
    """Counts seconds by phase and commits them with whatever else is committed.

    Args:
        database: of the run; what it holds is where the count begins.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        with database.understanding("the clock"):
            self._before = {row["phase"]: float(row["seconds"]) for row in database.rows("clock")}
        self._begun: dict[str, float] = {}
        database.before_commit = self._commit

    def seconds(self, phase: str) -> float:
        """Returns the seconds of a phase up to now; 0 if it was never begun."""
        before = self._before.get(phase, 0.0)
        begun = self._begun.get(phase)
        return before if begun is None else before + time.monotonic() - begun

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the seconds of a block under a name; phases may nest."""
        self._begun[name] = time.monotonic()
        try:
            yield
        finally:
            self._before[name] = self.seconds(name)
            del self._begun[name]

    def _commit(self) -> None:
        for phase in [*self._before, *self._begun]:
            self._database.put("clock", replace=True, phase=phase, seconds=self.seconds(phase))
