"""Real runs with two worker processes, killed again and again: they end as if they had not been."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pathnas import results
from tests.stub_run import contents

ROOT = Path(__file__).parent.parent
SMALL = (
    *("data.train=128", "data.validation=64", "data.test=64", "search.trials=6", "final.top=1"),
    *("search.controller.hidden=8", "search.controller.head=8", "final.wider=false"),
)
KILLS = 20
PATIENCE = 240.0


def start(runs: Path) -> subprocess.Popen[bytes]:
    """Begins or continues the run, in a session of its own."""
    words = [sys.executable, "-m", "pathnas.run", "experiments/smoke.yaml", f"runs={runs}", *SMALL]
    with open(runs.parent / "output", "a") as output:
        return subprocess.Popen(
            words, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )


def ended(runs: Path) -> int:
    """How many trials of a run have ended."""
    if not (runs / "smoke" / "record.sqlite").exists():
        return 0
    return sum(row["status"] is not None for row in results.trials(runs / "smoke"))


def finish(process: subprocess.Popen[bytes], runs: Path) -> None:
    assert process.wait(PATIENCE) == 0, (runs.parent / "output").read_text()[-2000:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, float]:
    """What a run that nobody kills records, and how many seconds it takes."""
    runs = tmp_path_factory.mktemp("whole") / "runs"
    begin = time.monotonic()
    finish(start(runs), runs)
    return contents(runs / "smoke" / "record.sqlite"), time.monotonic() - begin


@pytest.mark.slow
def test_killed_at_random_moments_runs_end_the_same(
    whole: tuple[dict, float], tmp_path: Path
) -> None:
    expected, seconds = whole
    moments, kills, number = random.Random(0), 0, 0
    while kills < KILLS:
        runs = tmp_path / str(number) / "runs"
        runs.mkdir(parents=True)
        for attempt in range(6):  # up to five kills in a row, the later ones during a resume
            process = start(runs)
            if attempt == 5 or kills == KILLS:
                break
            try:
                process.wait(moments.uniform(0.1, 0.9) * seconds)
                break
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
        finish(process, runs)
        assert contents(runs / "smoke" / "record.sqlite") == expected
        number += 1


@pytest.mark.slow
def test_killed_every_start_plus_two_trials_a_run_still_ends(
    whole: tuple[dict, float], tmp_path: Path
) -> None:
    expected, _ = whole
    runs, kills = tmp_path / "runs", 0
    runs.mkdir()
    process, before = start(runs), 0
    while process.poll() is None:
        if ended(runs) >= before + 2:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
            process, before = start(runs), ended(runs)
        time.sleep(0.02)
    finish(process, runs)
    assert kills >= 3
    assert contents(runs / "smoke" / "record.sqlite") == expected
