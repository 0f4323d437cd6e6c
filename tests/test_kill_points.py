"""Killed at a durable step and continued, a run ends as one that nobody killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "last", "every", "overrides"),
    [
        (1, 12, 1, ()),
        (12, 10_000, 9, ()),
        (12, 10_000, 31, ("name=ppo",)),
        (12, 10_000, 31, ("name=evolution", "population=3", "tournament=2")),
        (12, 10_000, 31, ("baseline=self_critical", "entropy_end=0.5")),
    ],
    ids=["beginning", "rest", "ppo", "evolution", "self_critical"],
)
def test_a_run_killed_at_a_durable_step_ends_the_same(
    tmp_path: Path, first: int, last: int, every: int, overrides: tuple[str, ...]
) -> None:
    words = [sys.executable, "-m", "tests.stub_run", tmp_path, first, last, every]
    words += [f"search.controller.{override}" for override in overrides]
    done = subprocess.run(
        list(map(str, words)), cwd=ROOT, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(points) >= 3
    wrong = [point for point in points if point["code"] != 0 or point["differs"]]
    assert wrong == []
