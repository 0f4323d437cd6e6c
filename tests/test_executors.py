from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from pathnas import executors
from tests import executor_jobs as jobs

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 30.0  # seconds; only a broken executor waits that long


@pytest.fixture(params=["inline", "processes"])
def executor(request):
    with executors.executor(request.param, 2) as made:
        yield made


@pytest.fixture
def processes():
    with executors.Processes(2) as made:
        yield made


def by_index(results):
    """The results as a list in order of their index; each index must come exactly once."""
    results = list(results)
    assert sorted(index for index, _ in results) == list(range(len(results)))
    return [result for _, result in sorted(results, key=lambda item: item[0])]


def statuses(results):
    return [result.failure and result.failure.status for result in by_index(results)]


def eventually(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


# The contract of every executor.


def test_values_come_with_their_index_and_time(executor):
    results = by_index(executor.run(jobs.square, [3, 1, 4, 1, 5]))
    assert [result.value for result in results] == [9, 1, 16, 1, 25]
    assert all(result.failure is None for result in results)
    assert all(0.0 <= result.seconds < PATIENCE for result in results)


def test_tensors_travel_both_ways(executor):
    [result] = by_index(executor.run(jobs.tensor_sum, [torch.arange(5)]))
    assert torch.equal(result.value, torch.tensor(10))


def test_no_arguments_no_results(executor):
    assert list(executor.run(jobs.square, [])) == []


def test_an_executor_runs_again(executor):
    for _ in range(2):
        assert [result.value for result in by_index(executor.run(jobs.square, [2]))] == [4]


def test_an_exception_is_a_failure_and_harms_no_other(executor):
    results = by_index(executor.run(jobs.fail, ["before", "value", "after"]))
    assert [result.value for result in results] == ["before", None, "after"]
    failure = results[1].failure
    assert failure.status == "failed"
    assert failure.reason == "ValueError: two lines"
    assert "in fail" in failure.traceback
    assert failure.traceback.endswith("ValueError: two\nlines\n")
    assert results[0].failure is None and results[2].failure is None


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("mute", "failed"),
        ("system exit", "failed"),
        ("floating point", "diverged"),
        ("memory", "out_of_memory"),
        ("torch memory", "out_of_memory"),
        ("too large", "out_of_memory"),
    ],
)
def test_errors_map_to_statuses(executor, kind, status):
    [result] = by_index(executor.run(jobs.fail, [kind]))
    assert result.value is None
    assert result.failure.status == status
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
def test_a_deadline_is_a_time(executor, deadline):
    with pytest.raises(ValueError, match="deadline"):
        executor.run(jobs.square, [1], deadline=deadline)


def test_training_is_equal_bit_for_bit_everywhere():
    made = [executors.Inline(), executors.Processes(1), executors.Processes(2)]
    seeds = [1, 2, 1]
    tables = []
    for executor in made:
        with executor:
            tables.append([result.value for result in by_index(executor.run(jobs.train, seeds))])
    assert tables[0] == tables[1] == tables[2]
    assert tables[0][0] == tables[0][2] != tables[0][1]


# What only one of them does.


def test_inline_lets_an_interrupt_through():
    with pytest.raises(KeyboardInterrupt):
        list(executors.Inline().run(jobs.fail, ["interrupt"]))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="'thread'"):
        executors.executor("thread", 1)
    for kind in ("inline", "processes"):
        with pytest.raises(ValueError, match="at least 1, but got 0"):
            executors.executor(kind, 0)
    for name in ("pathnas.no_such_module", "no_such_package.module"):
        with pytest.raises(ValueError, match=name):
            executors.Processes(1, preload=[name])
    with executors.Processes(1) as made, pytest.raises(ValueError, match="module-level"):
        made.run(lambda value: value, [1])
    with pytest.raises(ValueError, match="closed"):
        made.run(jobs.square, [1])


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("kill", "crashed", "SIGKILL"),
        ("exit 3", "crashed", "exit code 3"),
        ("exit 0", "crashed", "exit code 0"),
        ("interrupt", "crashed", "exit code 1"),
        ("local value", "failed", "cannot be sent"),
        ("unreadable value", "failed", "unreadable"),
        ("send garbage", "failed", "unreadable"),
        ("send garbage and end", "failed", "unreadable"),
        ("send another type and end", "failed", "unreadable"),
    ],
)
def test_a_bad_worker_harms_no_other(processes, kind, status, reason):
    results = by_index(processes.run(jobs.misbehave, [kind, "sibling", "next"]))
    assert results[0].failure.status == status
    assert reason in results[0].failure.reason
    assert [result.value for result in results] == [None, "sibling", "next"]


def test_a_worker_ignores_an_interrupt(processes):
    results = by_index(processes.run(jobs.misbehave, ["signal", "sibling"]))
    assert [result.value for result in results] == ["signal", "sibling"]


def test_an_argument_that_cannot_be_sent_is_a_failure(processes):
    results = by_index(processes.run(jobs.fail, [lambda: None, "sibling"]))
    assert results[0].failure.status == "failed"
    assert "argument cannot be sent" in results[0].failure.reason
    assert results[1].value == "sibling"


def test_a_worker_without_memory_still_answers(processes):
    [result] = by_index(processes.run(jobs.exhaust, [1 << 30]))
    assert result.failure.status == "out_of_memory"


def test_a_large_answer_arrives_and_an_endless_one_is_refused(processes, monkeypatch):
    monkeypatch.setattr(executors, "_ANSWER_BYTES", 1 << 24)
    [result] = by_index(processes.run(jobs.large, [1 << 23]))
    assert len(result.value) == 1 << 23
    results = by_index(processes.run(jobs.misbehave, ["send without end", "sibling"]))
    assert "more than" in results[0].failure.reason
    assert results[1].value == "sibling"


@pytest.mark.parametrize("kind", ["hang", "send a part and hang"])
def test_a_job_past_its_deadline_is_killed(processes, kind):
    start = time.monotonic()
    results = by_index(processes.run(jobs.misbehave, [kind, "sibling", "next"], deadline=1.0))
    assert time.monotonic() - start < 10.0
    assert results[0].failure.status == "timed_out"
    assert results[0].seconds >= 1.0
    assert [result.value for result in results[1:]] == ["sibling", "next"]
    assert multiprocessing.active_children() == []


def test_a_finished_job_is_no_timeout_however_late_it_is_asked_for(processes):
    results = processes.run(jobs.square, [1, 2], deadline=1.0)
    first = next(results)
    time.sleep(1.2)
    assert statuses([first, *results]) == [None, None]


@pytest.mark.slow
def test_faults_by_lot_give_the_same_table_twice(processes):
    lot = random.Random(7)
    kinds = ["value", "kill", "floating point", "memory", "exit 3", "fine", "fine"]
    arguments = [lot.choice(kinds) for _ in range(16)] + ["hang"]
    expected = {
        "value": "failed",
        "kill": "crashed",
        "floating point": "diverged",
        "memory": "out_of_memory",
        "exit 3": "crashed",
        "fine": None,
        "hang": "timed_out",
    }
    assert statuses(processes.run(jobs.square, [1])) == [None]  # the server has started
    for _ in range(2):
        table = statuses(processes.run(jobs.misbehave, arguments, deadline=5.0))
        assert table == [expected[kind] for kind in arguments]


def test_results_come_as_jobs_end_and_the_next_starts_at_once(processes, tmp_path):
    last = tmp_path / "last"
    arguments = [(None, last), (None, None), (last, None)]
    order = [index for index, _ in processes.run(jobs.signal_and_wait, arguments)]
    assert order[0] == 1 and sorted(order) == [0, 1, 2]


def test_the_next_job_starts_before_the_caller_comes_back(tmp_path):
    with executors.Processes(1) as made:
        results = made.run(jobs.signal_and_wait, [(None, None), (tmp_path / "second", None)])
        assert next(results)[0] == 0
        assert eventually((tmp_path / "second").exists)
        assert [index for index, _ in results] == [1]


def test_no_more_than_count_run_at_once(processes, tmp_path):
    seen = [result.value for result in by_index(processes.run(jobs.crowd, [tmp_path] * 6))]
    assert max(seen) <= 2


def test_executors_live_side_by_side(processes):
    with executors.Processes(1) as other:
        first = processes.run(jobs.square, [1, 2, 3])
        second = other.run(jobs.square, [4, 5])
        mixed = [next(first), next(second), next(second), *first]
    assert sorted(result.value for _, result in mixed) == [1, 4, 9, 16, 25]


# Nothing stays behind.


def sleepers(folder, count=2):
    """The process ids of that many sleeping jobs, once they have all started."""
    assert eventually(lambda: len(list(folder.iterdir())) == count)
    pids = [int(path.name) for path in folder.iterdir()]
    assert all(alive(pid) for pid in pids)
    return pids


def members(session):
    """The living processes of a session: fields 3 and 6 of stat are the state and the session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            if fields[0] != "Z" and int(fields[3]) == session:
                found.append(int(path.parent.name))
    return found


def gone(pids):
    return eventually(lambda: not any(alive(pid) for pid in pids), 2.0)


def test_leaving_early_kills_what_runs(processes, tmp_path):
    results = processes.run(jobs.sleep_known, [None, tmp_path, tmp_path, tmp_path])
    assert next(results)[0] == 0
    pids = sleepers(tmp_path)
    results.close()
    assert multiprocessing.active_children() == []
    assert gone(pids)
    assert statuses(processes.run(jobs.square, [1])) == [None]


def test_closing_the_executor_kills_what_runs(tmp_path):
    with executors.Processes(2) as made:
        results = made.run(jobs.sleep_known, [None, tmp_path, tmp_path])
        assert next(results)[0] == 0
        pids = sleepers(tmp_path)
    made.close()
    assert multiprocessing.active_children() == []
    assert gone(pids)
    with pytest.raises(ValueError, match="closed"):
        next(results)


def test_an_interrupt_kills_what_runs(processes, tmp_path):
    pids = []

    def interrupt():
        pids.extend(sleepers(tmp_path))
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        list(processes.run(jobs.sleep_known, [tmp_path, tmp_path]))
    thread.join()
    assert multiprocessing.active_children() == []
    assert len(pids) == 2 and gone(pids)


# What needs a coordinator of its own: a fresh process in a folder that is not on its path.

COORDINATOR = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import json, os
from pathlib import Path
from pathnas import executors

if __name__ == "__main__":
    before = dict(os.environ)
    made = executors.Processes(2, preload={{preload!r}})
    assert dict(os.environ) == before and "torch" not in sys.modules
    from tests import executor_jobs as jobs
    out = Path({{out!r}})
    {{body}}
"""


@pytest.fixture
def coordinator(tmp_path):
    """Starts coordinators in sessions of their own and ends what is left of these."""
    started = []
    (tmp_path / "out").mkdir()

    def start(body, preload=()):
        script = tmp_path / "coordinator.py"
        out = str(tmp_path / "out")
        script.write_text(COORDINATOR.format(preload=preload, out=out, body=body))
        with (tmp_path / "log").open("w") as log:  # a pipe would wait for orphans
            process = subprocess.Popen(
                [sys.executable, str(script)],
                cwd=tmp_path,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        started.append(process)
        return process, tmp_path / "out", tmp_path / "log"

    yield start
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_the_server_has_loaded_torch_on_one_thread(coordinator):
    names = ["torch", "torch._dynamo", "pathnas.executors", "wave", "executor_jobs", "sqlite3"]
    body = f"""
    [(_, result)] = made.run(jobs.surroundings, [{names}])
    status = Path(f"/proc/{{result.value['server']}}/status").read_text()
    result.value["threads"] = int(status.split("Threads:")[1].split()[0])
    (out / "found").write_text(json.dumps(result.value))
    """
    process, out, log = coordinator(body, preload=["wave", "executor_jobs"])
    assert process.wait(PATIENCE) == 0, log.read_text()
    found = json.loads((out / "found").read_text())
    assert found["modules"] == names[:-1]
    assert found["threads"] == 1
    wanted = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    assert wanted.items() <= found["environment"].items()
    assert log.read_text() == ""


def test_no_worker_outlives_a_killed_coordinator(coordinator):
    process, out, _ = coordinator("list(made.run(jobs.sleep_known, [out, out]))")
    pids = sleepers(out)
    process.kill()
    assert gone(pids)


@pytest.mark.slow
def test_a_coordinator_may_end_without_closing(coordinator):
    body = """
    results = made.run(jobs.sleep_known, [None, out, out])
    next(results)
    while len(list(out.iterdir())) < 2: pass
    """
    process, out, log = coordinator(body)
    assert process.wait(PATIENCE) == 0, log.read_text()
    pids = [int(path.name) for path in out.iterdir()]
    assert len(pids) == 2 and gone(pids)


@pytest.mark.slow
@pytest.mark.parametrize("while_loading", [True, False])
def test_ctrl_c_ends_a_coordinator_and_its_workers(coordinator, while_loading):
    body = "list(made.run(jobs.sleep_known, [out, out]))"
    if while_loading:
        body = f"(out / 'ready').touch(); {body}"
    process, out, log = coordinator(body)
    if while_loading:
        assert eventually((out / "ready").exists)
        time.sleep(0.7)  # into the server's import of torch
    pids = [] if while_loading else sleepers(out)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE) == -signal.SIGINT
    assert gone(pids)
    assert eventually(lambda: members(process.pid) == [])
    assert log.read_text().count("KeyboardInterrupt") == 1


@pytest.mark.slow
def test_a_server_that_cannot_start_is_a_crash_of_each_job(coordinator, tmp_path):
    body = """
    results = list(made.run(jobs.square, [1, 2]))
    (out / "found").write_text(json.dumps([result.failure.reason for _, result in results]))
    """
    (tmp_path / "broken.py").write_text("raise RuntimeError('broken for this test')")
    process, out, log = coordinator(body, preload=["broken"])
    assert process.wait(PATIENCE) == 0, log.read_text()
    found = json.loads((out / "found").read_text())
    assert all(reason.startswith("no worker could be started") for reason in found)
    assert len(found) == 2 and "broken for this test" in log.read_text()


@pytest.mark.slow
def test_a_killed_server_costs_its_jobs_and_no_more(coordinator):
    body = """
    lost = list(made.run(jobs.kill_server, [1]))
    kept = list(made.run(jobs.square, [3]))
    (out / "found").write_text(json.dumps([lost[0][1].failure.status, kept[0][1].value]))
    """
    process, out, log = coordinator(body)
    assert process.wait(PATIENCE) == 0, log.read_text()
    assert json.loads((out / "found").read_text()) == ["crashed", 9]
