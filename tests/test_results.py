"""Reading trials from outside."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest

from pathnas import results
from pathnas.database import Database, RecordError
from tests import stub_run

pytestmark = pytest.mark.usefixtures("stubs")


@pytest.fixture(scope="module")
def run(stubs: object, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    runs = tmp_path_factory.mktemp("runs")
    summary = stub_run.run(runs)
    return runs / "smoke", summary


def test_each_trial_is_a_row(run: tuple[Path, dict[str, Any]]) -> None:
    path, summary = run
    rows = results.trials(path)
    assert all(tuple(row) == results.COLUMNS for row in rows)
    of_search = [row for row in rows if row["search"] == "search"]
    assert [row["number"] for row in of_search] == list(range(len(of_search)))
    assert len(of_search) == summary["searches"]["search"]["trials"]
    assert all(row["state"] == "done" for row in rows)
    sound = [row for row in rows if row["status"] == "ok"]
    assert sound and all(0 <= row["accuracy"] <= 1 and row["macs"] > 0 for row in sound)
    assert all(row["error"] for row in rows if row["status"] != "ok")
    of_control = [row for row in rows if row["search"] == "control"]
    known = {row["key"] for row in of_search}
    assert all(row["copied"] == (row["key"] in known) for row in of_control)


def test_the_csv_file_holds_the_same(run: tuple[Path, dict[str, Any]]) -> None:
    path, _ = run
    database = Database(path / "record.sqlite", readonly=True)
    text = results.csv_text(database)
    database.close()
    assert (path / "trials.csv").read_text() == text
    read = list(csv.DictReader(io.StringIO(text)))
    for row, values in zip(read, results.trials(path), strict=True):
        assert row == {k: "" if v is None else str(v) for k, v in values.items()}


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=f"{tmp_path} holds no run"):
        results.trials(tmp_path)
