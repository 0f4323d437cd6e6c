"""A run that is killed at a durable step and continued ends as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent


def killed(
    folder: Path, first: int, last: int, every: int, *overrides: str
) -> list[dict[str, Any]]:
    """What the kill points of a range changed, under settings of the search."""
    words = [sys.executable, "-m", "tests.stub_run", *map(str, (folder, first, last, every))]
    words += [f"search.{override}" for override in overrides]
    with open(folder / "output", "w") as output, open(folder / "errors", "w") as errors:
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=output, stderr=errors, start_new_session=True
        )
        try:
            code = process.wait(1800)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    assert code == 0, (folder / "errors").read_text()[-2000:]
    return [json.loads(line) for line in (folder / "output").read_text().splitlines()]


def test_runs_killed_while_their_record_is_made_end_the_same(tmp_path: Path) -> None:
    points = killed(tmp_path, 3, 7, 1)
    assert [point["step"] for point in points] == [3, 4, 5, 6]
    assert all(point["code"] == 0 and not point["differs"] for point in points), points


@pytest.mark.slow
@pytest.mark.parametrize(
    ("every", "overrides"),
    [
        (1, ()),
        (31, ("controller.name=ppo",)),
        (
            31,
            ("controller.name=evolution", "controller.population=3", "controller.tournament=2"),
        ),
        (31, ("controller.baseline=self_critical", "controller.entropy_end=0.5")),
        (13, ("halving={factor: 2, rungs: 2}", "trial.epochs=2")),
        (61, ("stages=true",)),
    ],
    ids=["any", "ppo", "evolution", "self_critical", "halving", "stages"],
)
def test_runs_killed_at_a_durable_step_end_the_same(
    tmp_path: Path, every: int, overrides: tuple[str, ...]
) -> None:
    points = killed(tmp_path, 1, 100_000, every, *overrides)
    assert len(points) >= 100 / every and points[-1]["ended"]
    assert [p for p in points if p["code"] != 0 or p["differs"]] == []
