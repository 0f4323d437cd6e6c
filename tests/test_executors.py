"""The contract that all executors keep, each test on each of them."""

from __future__ import annotations

import random
import time

import pytest
import torch

from pathnas import executors
from tests import executor_jobs as jobs
from tests.executor_tools import PATIENCE, by_index, eventually, gone, sleepers, statuses

RAY = pytest.param("ray", marks=pytest.mark.slow)
APART = ["processes 1", "processes 2", RAY]


@pytest.fixture
def make(request):
    """Makes an executor from a kind and perhaps a count; all are closed at the end."""
    made = []

    def of(kind, **settings):
        name, _, count = kind.partition(" ")
        if name == "ray":
            request.getfixturevalue("ray_session")
            # No torch before the job: most jobs here need none, and each task is a new process.
            made.append(executors.Ray(2, **{"preload": (), **settings}))
        else:
            made.append(executors.executor(name, int(count or 1), **settings))
        return made[-1]

    yield of
    for executor in made:
        executor.close()


@pytest.fixture(params=["inline", *APART])
def kind(request):
    return request.param


@pytest.fixture(params=APART)
def apart(request):
    """The kinds whose jobs run in processes of their own."""
    return request.param


@pytest.fixture
def executor(make, kind):
    return make(kind)


def test_values_come_with_their_index_and_time(executor):
    results = by_index(executor.run(jobs.square, [3, 1, 4, 1, 5]))
    assert [result.value for result in results] == [9, 1, 16, 1, 25]
    assert all(result.failure is None and result.attempts == 1 for result in results)
    assert all(0.0 <= result.seconds < PATIENCE for result in results)


def test_tensors_travel_both_ways(executor):
    [result] = by_index(executor.run(jobs.tensor_sum, [torch.arange(5)]))
    assert torch.equal(result.value, torch.tensor(10))


def test_no_arguments_no_results(executor):
    assert list(executor.run(jobs.square, [])) == []
    assert list(executor.run(jobs.square, iter([]))) == []


def test_an_executor_runs_again_until_it_is_closed(executor):
    for _ in range(2):
        assert [result.value for result in by_index(executor.run(jobs.square, [2]))] == [4]
    executor.close()
    executor.close()
    with pytest.raises(ValueError, match="closed"):
        executor.run(jobs.square, [1])


def test_an_exception_is_a_failure_and_harms_no_other(executor):
    results = by_index(executor.run(jobs.fail, ["before", "value", "after"]))
    assert [result.value for result in results] == ["before", None, "after"]
    failure = results[1].failure
    assert failure.status == "failed"
    assert failure.reason == "ValueError: two lines"
    assert "in fail" in failure.traceback
    assert failure.traceback.endswith("ValueError: two\nlines\n")
    assert results[0].failure is None and results[2].failure is None


def test_errors_map_to_statuses_and_are_not_tried_again(executor):
    expected = {
        "mute": "failed",
        "system exit": "failed",
        "floating point": "diverged",
        "memory": "out_of_memory",
        "no memory for a map": "out_of_memory",
        "torch memory": "out_of_memory",
        "too large": "out_of_memory",
    }
    results = by_index(executor.run(jobs.fail, list(expected)))
    assert [result.failure.status for result in results] == list(expected.values())
    for result in results:
        assert result.value is None and result.attempts == 1
        assert result.failure.reason and "\n" not in result.failure.reason


def test_a_long_traceback_keeps_its_end(executor):
    [result] = by_index(executor.run(jobs.recurse, [0]))
    assert result.failure.reason.startswith("RecursionError: maximum recursion depth")
    assert 0 < len(result.failure.traceback.encode()) <= 2048
    assert "RecursionError" in result.failure.traceback.splitlines()[-1]


def test_a_job_has_one_thread(executor):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert [r.value for r in by_index(executor.run(jobs.thread_count, range(3)))] == [1] * 3
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deadline_is_a_time(make, deadline):
    for kind in ("inline", "processes"):
        with pytest.raises(ValueError, match="deadline"):
            make(kind).run(jobs.square, [1], deadline=deadline)


def test_training_is_equal_bit_for_bit(make, apart):
    seeds = [1, 2, 1]
    here = [result.value for result in by_index(make("inline").run(jobs.train, seeds))]
    there = [result.value for result in by_index(make(apart).run(jobs.train, seeds))]
    assert here == there
    assert there[0] == there[2] != there[1]


def test_a_job_may_allocate_its_budget_and_no_more(make, kind):
    limited = make(kind, memory=256)
    results = by_index(limited.run(jobs.allocate, [200, 300, 200]))
    assert [result.value for result in results] == [200, None, 200]
    assert (results[1].failure.status, results[1].attempts) == ("out_of_memory", 1)
    if kind == "inline":  # small tensors need a process that has freed none: this one has
        [fresh] = by_index(make("processes").run(jobs.allocate_inline, [[32, 128]]))
        results = fresh.value
    else:
        limited = make(kind, memory=64, **({"preload": ["torch"]} if kind == "ray" else {}))
        results = by_index(limited.run(jobs.allocate_tensors, [32, 128]))
    assert [result.value for result in results] == [32, None]
    assert results[1].failure.status == "out_of_memory"


# Arguments.


class Source:
    """Counts what is taken from it, and what has been handed over by then."""

    def __init__(self, arguments):
        self.arguments = arguments
        self.taken = 0
        self.handed_over = []
        self.seen = []

    def __iter__(self):
        for argument in self.arguments:
            self.taken += 1
            self.seen.append(len(self.handed_over))
            yield argument


def test_arguments_of_a_generator_are_taken_when_a_worker_is_free(make, kind):
    workers = {"inline": 1, "processes 1": 1}.get(kind, 2)
    source = Source([1, 2, 3, 4, 5])
    results = make(kind).run(jobs.square, source)
    assert source.taken == 0
    for index, result in results:
        assert result.value == (index + 1) ** 2
        source.handed_over.append(index)
        assert source.taken <= len(source.handed_over) + workers - 1
    assert sorted(source.handed_over) == [0, 1, 2, 3, 4]
    assert source.seen[:workers] == [0] * workers
    assert all(later >= place - workers + 1 for place, later in enumerate(source.seen))


def test_what_a_generator_gives_may_depend_on_all_results_so_far(executor):
    values = []

    def doubled():
        while sum(values) < 2000:
            yield (values[-1] if values else 2)

    for _, result in executor.run(jobs.square, doubled()):
        values.append(result.value)
    assert values[0] == 4 and max(values) >= 256


def test_a_generator_may_have_nothing_for_now(executor):
    values = []

    def one_at_a_time():
        for number in (2, 3, 4):
            given = len(values)
            yield number
            while len(values) == given:
                yield executors.LATER

    for _, result in executor.run(jobs.square, one_at_a_time()):
        values.append(result.value)
    assert values == [4, 9, 16]


def test_waiting_for_nothing_is_an_error(make):
    for kind in ("inline", "processes"):
        with pytest.raises(ValueError, match="LATER"):
            list(make(kind).run(jobs.square, iter([executors.LATER])))


def test_what_a_generator_raises_passes_through_and_ends_what_runs(make, apart, tmp_path):
    def broken():
        yield tmp_path
        sleepers(tmp_path, 1)
        raise LookupError("no more ideas")

    executor = make(apart.replace("1", "2"))
    with pytest.raises(LookupError, match="no more ideas"):
        list(executor.run(jobs.sleep_known, broken()))
    assert gone([int(path.name) for path in tmp_path.iterdir()])
    assert statuses(executor.run(jobs.square, [1])) == [None]


def test_an_argument_that_cannot_be_sent_is_a_failure(make, apart):
    for wrap in (list, iter):
        results = by_index(make(apart).run(jobs.fail, wrap([lambda: None, "sibling"])))
        assert results[0].failure.status == "failed"
        assert "argument cannot be sent" in results[0].failure.reason
        assert results[1].value == "sibling"


# What can befall a worker.


@pytest.mark.parametrize(
    ("kind", "status", "attempts"),
    [
        ("kill", "crashed", 3),
        ("exit 3", "crashed", 3),
        ("exit 0", "crashed", 3),
        ("interrupt", "crashed", 3),
        ("local value", "failed", 1),
        ("unreadable value", "failed", 1),
    ],
)
def test_a_bad_worker_harms_no_other(make, apart, kind, status, attempts):
    results = by_index(make(apart).run(jobs.misbehave, [kind, "sibling", "next"]))
    assert (results[0].failure.status, results[0].attempts) == (status, attempts)
    assert results[0].failure.reason.endswith("tried 3 times") == (attempts == 3)
    assert [result.value for result in results] == [None, "sibling", "next"]


@pytest.mark.parametrize(("retries", "crashes"), [(0, 0), (0, 1), (1, 1), (1, 2), (3, 3)])
def test_a_lost_worker_is_tried_again_up_to_a_limit(make, apart, tmp_path, retries, crashes):
    executor = make(apart, retries=retries)
    [result] = by_index(executor.run(jobs.crash_at_first, [(tmp_path, crashes)]))
    if crashes <= retries:
        assert (result.value, result.attempts) == (crashes + 1, crashes + 1)
    else:
        assert (result.failure.status, result.attempts) == ("crashed", retries + 1)


def test_a_worker_ignores_an_interrupt(make, apart):
    results = by_index(make(apart).run(jobs.misbehave, ["signal", "sibling"]))
    assert [result.value for result in results] == ["signal", "sibling"]


def test_a_worker_without_memory_still_answers(make, apart):
    [result] = by_index(make(apart).run(jobs.exhaust, [1 << 30]))
    assert result.failure.status == "out_of_memory"


def test_a_job_past_its_deadline_is_killed_and_not_tried_again(make, apart):
    start = time.monotonic()
    results = by_index(make(apart).run(jobs.misbehave, ["hang", "sibling", "next"], deadline=2.0))
    assert time.monotonic() - start < 55.0  # the job would sleep for 60 s
    assert (results[0].failure.status, results[0].attempts) == ("timed_out", 1)
    assert results[0].seconds >= 2.0
    assert [result.value for result in results[1:]] == ["sibling", "next"]


def test_a_deadline_counts_from_the_beginning_of_the_job(make, apart):
    executor = make(apart)
    results = executor.run(jobs.seconds_to_load, [jobs.SlowToLoad(2.0)], deadline=1.0)
    [result] = by_index(results)
    assert result.value == 2.0 and result.seconds < 1.0


def test_a_finished_job_is_no_timeout_however_late_it_is_asked_for(make, apart):
    results = make(apart).run(jobs.square, [1, 2], deadline=2.0)
    first = next(results)
    time.sleep(2.2)
    assert statuses([first, *results]) == [None, None]


@pytest.mark.slow
def test_faults_by_lot_give_the_same_table_twice(make, apart):
    lot = random.Random(7)
    kinds = ["value", "kill", "floating point", "memory", "exit 3", "fine", "fine"]
    arguments = [lot.choice(kinds) for _ in range(12)] + ["hang"]
    expected = {
        "value": "failed",
        "kill": "crashed",
        "floating point": "diverged",
        "memory": "out_of_memory",
        "exit 3": "crashed",
        "fine": None,
        "hang": "timed_out",
    }
    executor = make(apart, retries=1)
    for _ in range(2):
        table = statuses(executor.run(jobs.misbehave, arguments, deadline=5.0))
        assert table == [expected[kind] for kind in arguments]


def test_results_come_as_jobs_end_and_the_next_starts_at_once(make, apart, tmp_path):
    executor = make(apart.replace("1", "2"))
    last = tmp_path / "last"
    arguments = [(None, last), (None, None), (last, None)]
    order = [index for index, _ in executor.run(jobs.signal_and_wait, arguments)]
    assert order[0] == 1 and sorted(order) == [0, 1, 2]


def test_the_next_job_of_a_sequence_starts_before_the_caller_comes_back(make, apart, tmp_path):
    made = [tmp_path / str(number) for number in range(4)]
    results = make(apart).run(jobs.signal_and_wait, [(path, None) for path in made])
    next(results)
    assert eventually(lambda: sum(path.exists() for path in made) >= 2)
    assert len(list(results)) == 3


def test_no_more_than_count_run_at_once(make, apart, tmp_path):
    seen = [result.value for result in by_index(make(apart).run(jobs.crowd, [tmp_path] * 6))]
    assert max(seen) <= (1 if apart == "processes 1" else 2)


def test_executors_live_side_by_side(make, apart):
    first = make(apart).run(jobs.square, [1, 2, 3])
    second = make(apart).run(jobs.square, [4, 5])
    mixed = [next(first), next(second), next(second), *first]
    assert sorted(result.value for _, result in mixed) == [1, 4, 9, 16, 25]


def test_leaving_early_kills_what_runs(make, apart, tmp_path):
    executor = make(apart)
    results = executor.run(jobs.sleep_known, [None, *[tmp_path] * 3])
    assert next(results)[0] == 0
    pids = sleepers(tmp_path, 1 if apart == "processes 1" else 2)
    results.close()
    assert gone(pids)
    assert statuses(executor.run(jobs.square, [1])) == [None]


def test_closing_the_executor_kills_what_runs(make, apart, tmp_path):
    executor = make(apart)
    results = executor.run(jobs.sleep_known, [None, *[tmp_path] * 3])
    assert next(results)[0] == 0
    pids = sleepers(tmp_path, 1 if apart == "processes 1" else 2)
    executor.close()
    assert gone(pids)
    with pytest.raises(ValueError, match="closed"):
        next(results)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'thread'"):
        executors.executor("thread", 1)
    with pytest.raises(ValueError, match="`devices`"):
        executors.executor("ray", 1, devices=["0"])
    for kind in executors.KINDS:
        with pytest.raises(ValueError, match="at least 1, but got 0"):
            executors.executor(kind, 0)
        with pytest.raises(ValueError, match="at least 1 MiB, or None, but got 0"):
            executors.executor(kind, 1, memory=0)
    for name in ("pathnas.no_such_module", "no_such_package.module"):
        for kind in ("processes", "ray"):
            with pytest.raises(ValueError, match=name):
                executors.executor(kind, 1, preload=[name])
    with pytest.raises(ValueError, match="at least 0, but got -1"):
        executors.Processes(1, retries=-1)
    with pytest.raises(ValueError, match="at least one"):
        executors.Processes(1, devices=[])
    with pytest.raises(ValueError, match="negative"):
        executors.Ray(1, gpus=-1.0)


def test_workers_must_be_able_to_import_the_function(make, apart):
    with pytest.raises(ValueError, match="module-level"):
        make(apart).run(lambda value: value, [1])


def test_inline_lets_an_interrupt_through(make):
    with pytest.raises(KeyboardInterrupt):
        list(make("inline").run(jobs.fail, ["interrupt"]))
