"""The benchmark that compares births."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import birth

TINY = [
    *("data.train=64", "data.validation=50", "data.test=50", "base.training.epochs=2"),
    "base.network.widths=[3]",
]


def test_the_tables_compare_tree_by_tree() -> None:
    gated = [[0.5, 0.6, 0.6, 0.6, 0.7], [0.7, 0.8, 0.8, 0.8, 0.9]]
    hard = [[0.4, 0.6, 0.6, 0.6, 0.8], [0.6, 0.8, 0.8, 0.8, 1.0]]
    lines = birth.tables({"gated": gated, "hard": hard}).splitlines()
    assert "| gated | 60.0 ± 10.0 | 70.0 ± 10.0 " in lines[2]
    assert lines[-1].startswith("| hard | -10.0 ± 0.0 | 0.0 ± 0.0 ")
    assert lines[-1].endswith(" | 10.0 ± 0.0 |")


def test_watched_batches_measure_before_the_epochs_of_the_table() -> None:
    pair = torch.zeros(1), torch.zeros(1)
    watched = birth.Watched([pair, pair], lambda: float(watched.epoch))
    assert len(watched) == 2
    for _ in range(10):
        assert len(list(watched)) == 2
    assert tuple(watched.accuracies) == birth.EPOCHS[:-1]


@pytest.mark.slow
def test_the_benchmark_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "birth.json"
    options = ["--data", "digits", "--trees", "3", "--bases", "2", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["birth", *options, "--set", *TINY])
    birth.main()
    assert "digits: base networks 0." in capsys.readouterr().out
    found = json.loads(path.read_text())["data"]["digits"]
    assert len(found["bases"]) == 2 and len(set(found["trees"])) == 3
    rows = found["accuracy"]
    assert set(rows) == {*birth.BIRTHS, birth.SCRATCH, birth.NOT_GROWN}
    assert {len(row) for table in rows.values() for row in table} == {len(birth.EPOCHS)}
    born = {name: [row[0] for row in table] for name, table in rows.items()}
    assert born["gated"] == born["gated, momentum"]  # the optimizer changes no weight at birth
    assert born["hard"] == born["distilled"]
    assert rows["gated"] != rows["gated, momentum"]
