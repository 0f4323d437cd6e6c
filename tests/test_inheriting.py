"""The benchmark of what inherited weights save."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest

from benchmarks import inheriting
from benchmarks.inheriting import Point
from pathnas import config
from pathnas.plan import Plan
from pathnas.tree import BASE_TREE

TINY = [
    *("data.train=64", "data.validation=50", "data.test=50", "base.training.epochs=2"),
    *("base.network.widths=[3]", "final.training.epochs=4"),
]


def test_the_first_time_that_a_level_is_reached_counts_of_the_faster_schedule() -> None:
    slow = [Point(10, 1.0, 0.5), Point(20, 2.0, 0.8), Point(30, 3.0, 0.7), Point(40, 4.0, 0.9)]
    fast = [Point(10, 5.0, 0.6), Point(20, 6.0, 0.7)]
    assert inheriting.reached([slow, fast], 0.55) == (10, 2.0)
    assert inheriting.reached([slow, fast], 0.8) == (20, 2.0)
    assert inheriting.reached([slow, fast], 0.95) == (math.inf, math.inf)


def test_the_table_has_medians_of_trees_that_the_training_has_improved() -> None:
    def row(base: float, full: float, factor: int) -> dict[str, object]:
        inherited = [Point(10, 1.0, base), Point(20, 2.0, full)]
        scratch = [Point(10 * factor, 4.0, base), Point(20 * factor, 8.0, (base + full) / 2)]
        return {
            **{"tree": "base", "base": base, "full": full},
            "curves": {"inherited": [inherited], "from scratch": [scratch]},
        }

    lines = inheriting.table([row(0.5, 0.7, 3), row(0.6, 0.8, 5), row(0.9, 0.9, 9)]).splitlines()
    assert lines[0].startswith("2 of 3 trees")
    assert lines[4] == "| 25% | 20, 2 | 80, 8 | 4, 4 | 2, 2 |"
    assert lines[-1] == "| 100% | 20, 2 | inf, inf | inf, inf | 2, 0 |"


def test_both_ways_have_the_lengths_that_are_asked_for(tmp_path: Path) -> None:
    plan = Plan.of(config.load(inheriting.EXPERIMENTS / "digits.yaml", TINY))
    base = plan.base_training(plan.prepare(tmp_path / "data"), tmp_path / "base.safetensors")
    found = inheriting.ways(plan, base, BASE_TREE, [1.0, 0.5, 0.25])
    for jobs in found.values():
        rates = [(job.recipe.epochs, job.recipe.learning_rate) for job in jobs]
        assert rates == [(4, 0.1), (4, 0.03), (2, 0.1), (2, 0.03), (1, 0.1), (1, 0.03)]
    assert [job.birth for job in found["from scratch"]] == ["scratch"] * 6
    assert all(job.weights is not None for job in found["inherited"])


@pytest.mark.slow
def test_the_benchmark_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "inheriting.json"
    options = ["--data", "digits", "--trees", "2", "--bases", "2", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["inheriting", *options, "--set", *TINY])
    inheriting.main()
    assert "base networks saw 128 images" in capsys.readouterr().out
    found = json.loads(path.read_text())["data"]["digits"]
    assert len(found["bases"]) == 2 and len(found["rows"]) == 2
    for row in found["rows"]:
        for way in ("inherited", "from scratch"):
            assert [[p["images"] for p in points] for points in row["curves"][way]] == [
                [64, 128, 192, 256],
                [64, 128],
            ]
        assert row["full"] == row["curves"]["inherited"][0][-1]["accuracy"]
