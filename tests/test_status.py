"""How runs are getting on: what is told, and in which form."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pathnas import facts, status
from pathnas.database import Database
from pathnas.store import RECORD
from tests.test_facts import ended  # noqa: F401


@pytest.fixture
def live(ended: Path, tmp_path: Path) -> Path:  # noqa: F811
    """A run in the middle of its search: two trials ended, one running, one waiting."""
    folder = tmp_path / "runs" / "live"
    shutil.copytree(ended, folder)
    writer = Database(folder / RECORD)
    with writer.transaction():
        for statement in (
            "DELETE FROM meta WHERE key = 'summary'",
            "DELETE FROM trials WHERE search = 'control' OR number >= 4",
            "DELETE FROM outcomes WHERE search = 'control' OR number >= 2",
            "UPDATE trials SET state = 'running' WHERE number = 2",
            "UPDATE trials SET state = 'pending' WHERE number = 3",
            "DELETE FROM clock WHERE phase NOT IN ('run', 'base', 'search')",
            "UPDATE clock SET seconds = 30",
        ):
            writer.execute(statement)
    writer.close()
    return folder


def test_a_run_in_the_middle(live: Path) -> None:
    found = status.status(facts.read(live))
    search = found["searches"]["search"]
    counts = {name: search[name] for name in ("budget", "done", "running", "pending")}
    assert counts == {"budget": 5, "done": 2, "running": 0, "pending": 2}
    assert found["left"] == {"trials": 3} and found["rate"] == 4
    assert found["state"] == "broken off" and found["phase"] == "search"
    shown = status.shown(found, colours=False)
    assert "2 of 5 trees done, 2 pending" in shown
    assert "3 trees (about 45 s at 4.0 a minute)" in shown
    assert f"python -m pathnas.run --resume {live}" in shown and "\033" not in shown
    assert "\033[33mbroken off\033[0m" in status.shown(found, colours=True)


def test_nothing_is_written(live: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in live.rglob("*")}
    assert status.main([str(live), "--json"]) == 0
    assert {path: path.stat().st_mtime_ns for path in live.rglob("*")} == before


def test_an_ended_run_tells_its_result(ended: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    assert status.main([str(ended)]) == 0
    shown = capsys.readouterr().out
    assert "ended" in shown and "result   test accuracy" in shown and "left" not in shown


def test_all_runs_below_runs(
    live: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(live.parent.parent)
    assert status.main(["--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert found["folder"] == "runs/live"
    monkeypatch.chdir(live)
    assert status.main([]) == status.EXIT_USAGE
    assert "give the folder" in capsys.readouterr().err


def test_a_damaged_run_does_not_hide_the_others(
    live: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status.main([str(tmp_path), str(live), "--json"]) == status.EXIT_DAMAGED
    captured = capsys.readouterr()
    assert "holds no run" in captured.err and len(json.loads(captured.out)) == 1
