"""What the benchmark of a run counts."""

from __future__ import annotations

import pytest

from benchmarks.run import Watch
from pathnas.executors import Result


def results(*seconds: float) -> list[Result]:
    return [Result(None, None, one) for one in seconds]


def test_the_time_of_two_workers_is_work_start_or_the_end_of_the_batch() -> None:
    watch = Watch(2, phase="search")
    watch.batch(10.0, list(zip((11.0, 13.0, 14.0), results(0.8, 2.5, 2.8), strict=True)))
    spent = watch.spent["search"]
    assert spent["jobs"] == 3 and spent["batches"] == 8.0
    assert spent["work"] == pytest.approx(6.1)
    assert spent["batch_end"] == 1.0  # one worker waits from 13 to 14
    assert spent["start"] == pytest.approx(0.9)


def test_a_worker_without_a_job_waits_all_the_time() -> None:
    watch = Watch(2, phase="base")
    watch.batch(0.0, [(4.0, *results(3.0))])
    spent = watch.spent["base"]
    assert (spent["work"], spent["batch_end"], spent["start"]) == (3.0, 4.0, 1.0)


def test_a_batch_of_nothing_counts_nothing() -> None:
    watch = Watch(2, phase="control")
    watch.batch(0.0, [])
    assert not watch.spent
