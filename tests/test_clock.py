"""Seconds by phase, over all the times that a run was begun."""

from __future__ import annotations

from pathlib import Path

import pytest

from pathnas import clock
from pathnas.clock import Clock
from pathnas.database import Database


class Time:
    """Stands in for the clock of the system."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    found = Time()
    monkeypatch.setattr(clock, "time", found)
    return found


def test_phases_count_nested_and_again(tmp_path: Path, time: Time) -> None:
    database = Database(tmp_path / "record.sqlite", create=True)
    found = Clock(database)
    assert found.seconds("run") == 0
    with found.phase("run"):
        time.now += 1
        with found.phase("search"):
            time.now += 2
        time.now += 4
        assert found.seconds("run") == 7
    with found.phase("search"):
        time.now += 8
    assert (found.seconds("run"), found.seconds("search")) == (7, 10)
    database.close()


def test_a_killed_run_goes_on_from_its_last_commit(tmp_path: Path, time: Time) -> None:
    path = tmp_path / "record.sqlite"
    database = Database(path, create=True)
    found = Clock(database)
    with found.phase("search"):
        time.now += 3
        with database.transaction():
            pass
        time.now += 100  # of which nothing was committed
        copy = path.read_bytes(), path.with_name(f"{path.name}-wal").read_bytes()
    database.close()
    path.write_bytes(copy[0])
    path.with_name(f"{path.name}-wal").write_bytes(copy[1])
    database = Database(path)
    again = Clock(database)
    with again.phase("search"):
        time.now += 2
    assert again.seconds("search") == 5
    database.close()
