"""Looking at a run: what is read, and that nobody is disturbed."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from pathnas import evaluators, facts, files
from pathnas.database import Database, RecordError
from pathnas.store import OWNER, RECORD
from tests import stub_run


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, whose trainings are stubs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluators, "train", stub_run.train)
        patch.setattr(evaluators, "score", stub_run.score)
        summary = stub_run.run(tmp_path_factory.mktemp("runs"))
    return Path(summary["folder"])


def test_an_ended_run(ended: Path) -> None:
    found = facts.read(ended)
    assert found.name == "smoke" and found.state == "ended" and found.phase == "test"
    assert found.summary == json.loads((ended / "summary.json").read_text())
    for name in facts.SEARCHES:
        told = found.summary["searches"][name]
        assert len(found.trials[name]) == told["distinct_trees"]
        assert sum(found.failures(name).values()) == told["failed"]
        assert len(found.updates[name]) == told["updates"]
        best = found.best(name)[0]
        assert best["accuracy"] == told["best_trial_accuracy"]
        assert all(row["key"] in found.trees for row in found.trials[name])
    assert [event["kind"] for event in found.events] == ["begun", "ended"]
    assert found.trainings["base"]["accuracy"] == found.summary["networks"]["base"]["validation"]


def test_a_reader_neither_waits_for_a_writer_nor_sees_half_of_its_work(ended: Path) -> None:
    before = facts.read(ended)
    writer = Database(ended / RECORD)
    try:
        with pytest.raises(KeyError), writer.transaction():
            writer.execute("DELETE FROM meta WHERE key = 'summary'")
            assert facts.read(ended) == before
            raise KeyError  # rolls back
    finally:
        writer.close()
    assert facts.read(ended) == before


def test_a_run_is_running_as_long_as_its_owner_lives(ended: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    files.write(folder / RECORD, (ended / RECORD).read_bytes())
    writer = Database(folder / RECORD)
    with writer.transaction():
        writer.execute("DELETE FROM meta WHERE key = 'summary'")
    writer.close()
    assert facts.read(folder).state == "broken off"
    host = socket.gethostname()
    for owner, state in (
        ({"host": host, "pid": os.getpid()}, "running"),
        ({"host": host, "pid": 2**22 + 1}, "broken off"),  # more than Linux gives out
        ({"host": "another", "pid": 1}, "running"),
        ({"host": host}, "broken off"),
    ):
        (folder / OWNER).write_text(json.dumps(owner))
        assert facts.read(folder).state == state, owner


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="holds no run"):
        facts.read(tmp_path)
