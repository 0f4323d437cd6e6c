"""The one table of the benchmarks is built rightly from rows, and its JSON says the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks import environment, executors, growth, record, rollout, run, table, trials
from benchmarks.machine import Facts, rate
from benchmarks.table import Row

FACTS = Facts("a processor", "AVX2", 2, (0.5, 1.25), "2.14.1", "3.11.7", "abc1234+", "today")
ROWS = [
    Row("training: x", "images/s", 1234.6, "by hand", 600.0, 2.06, aim=1.4, floor=9000.0),
    Row("growing", "ms", 30.0, "evaluating", 10.0, 3.0, aim=1.5, most=True),
    Row("a checkpoint", "ms", 45.2, "a file", 26.0, aim=50.0, most=True),
    Row("a job", "ms", 0.0412),
]


def test_an_aim_is_met_on_its_side_of_the_ratio_or_else_of_the_figure() -> None:
    assert [row.met for row in ROWS] == [True, False, True, None]
    assert Row("x", "s", 1.0, ratio=1.4, aim=1.4).met
    assert Row("x", "s", 1.4, aim=1.4, most=True).met
    assert not Row("x", "s", 9.0, ratio=1.3, aim=1.4).met


def test_the_text_has_the_machine_and_every_figure_in_its_column() -> None:
    machine, head, *lines = table.lines(ROWS, FACTS)
    assert "load 0.5 to 1.25" in machine and "commit abc1234+" in machine
    assert len(lines) == len(ROWS)
    assert lines[0].split() == [
        *("training:", "x", "1235", "images/s", "600", "9000", "2.06", ">=", "1.4", "met"),
        *("by", "hand"),
    ]
    assert "<= 1.5" in lines[1] and "missed" in lines[1]
    assert lines[3].split() == ["a", "job", "0.0412", "ms"]
    column = head.index("ratio") + len("ratio")
    assert lines[0][:column].endswith("2.06") and lines[1][:column].endswith("3")


def test_rows_survive_their_file_and_the_json_says_what_was_met(tmp_path: Path) -> None:
    table.save(tmp_path / "rows.json", ROWS)
    assert table.load(tmp_path / "rows.json") == ROWS
    table.save(None, ROWS)
    table.write(tmp_path / "bench.json", ROWS, FACTS)
    found = json.loads((tmp_path / "bench.json").read_text())
    assert found["machine"]["commit"] == "abc1234+" and found["machine"]["load"] == [0.5, 1.25]
    assert [row["met"] for row in found["rows"]] == [True, False, True, None]
    assert found["rows"][0]["against"] == "by hand"
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_this_machine_has_facts_and_a_rate() -> None:
    facts = Facts.now(0.25)
    assert facts.load[0] == 0.2 and facts.cores >= 1 and facts.torch in facts.line()
    assert rate(side=64, repetitions=3) > 0


def test_every_benchmark_makes_rows_of_its_figures() -> None:
    case = trials.Case("digits", "base", 1)
    found = {"ours": 0.1, "default": 0.2, "equal": 0.1, "faster": 2.0, "own_cost": 1.0}
    faster, equal = trials.rows(case, found | {"macs": 1e6}, 6e10)
    assert (faster.ours, faster.reference, faster.met) == (pytest.approx(1e4), 5e3, True)
    assert faster.floor == pytest.approx(1e4) and equal.met

    found = {"two processes": 2.0, "inline": 3.0, "ratio": 1.5}
    found |= {"job that does nothing": 0.05, "start of the server": 4.0}
    assert [row.met for row in executors.rows(found)] == [False, None, None]

    found = {"trials": 10, "trial_ms": 1.0, "checkpoint_ms": 60.0, "open_seconds": 0.1}
    found |= {"trial_reference_ms": 1.0, "checkpoint_reference_ms": 30.0}
    assert [row.met for row in record.rows(found)] == [True, False, True]

    spent = {"wall": 100.0, "work": 60.0, "start": 20.0, "batch_end": 10.0, "unasked": 10.0}
    shares = run.rows({"run": spent | {"coordinator_cpu": 2.0}})
    assert [row.ours for row in shares] == [2.0, 60.0, 20.0, 10.0] and shares[0].met

    (row,) = growth.network_rows("x", (10.0, 30.0, 5.0, 15.0, 1.0, 1.0), 2.0)
    assert (row.ours, row.ratio, row.met, row.floor) == (20.0, 2.0, False, 2.0)
    copies = growth.transform_rows([("Widen", 1.5)], growth.COPIES, "a net")
    assert copies == [Row("Widen: a net", "copies", 1.5, aim=2.0, most=True)]
    assert [row.ours for row in rollout.rows(10, 0.1, 0.2)] == [0.1, 0.2]
    assert [row.met for row in environment.rows(49.0, 9_000.0)] == [True, False]


def test_a_benchmark_that_fails_is_told_and_the_others_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "bench.json"
    monkeypatch.setattr("sys.argv", ["bench", "growth", "record", "--json", str(path)])
    monkeypatch.setattr(command, "run", lambda name: ROWS if name == "record" else None)
    assert command.main() == 1
    printed = capsys.readouterr()
    assert "a checkpoint" in printed.out and "failed: growth" in printed.err
    assert len(json.loads(path.read_text())["rows"]) == len(ROWS)
    monkeypatch.setattr("sys.argv", ["bench", "nothing"])
    with pytest.raises(SystemExit):
        command.main()
