"""What only local processes do: devices, pipes, the fork server, and how a coordinator ends."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time

import pytest

from pathnas import executors
from pathnas.executors import processes as engine
from pathnas.executors import worker
from tests import executor_jobs as jobs
from tests.executor_tools import (
    PATIENCE,
    ROOT,
    Coordinators,
    by_index,
    eventually,
    gone,
    members,
    sleepers,
    statuses,
)


@pytest.fixture
def processes():
    with executors.Processes(2) as made:
        yield made


@pytest.mark.parametrize(
    ("devices", "seen"),
    [(["0", "GPU-8f1"], {"0", "GPU-8f1"}), (["7"], {"7"}), (None, {None})],
)
def test_each_worker_has_a_device_of_its_own(devices, seen, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with executors.Processes(2, devices=devices) as made:
        found = [r.value for r in by_index(made.run(jobs.variable, ["CUDA_VISIBLE_DEVICES"] * 6))]
    assert set(found) == seen
    assert "CUDA_VISIBLE_DEVICES" not in os.environ


def test_what_a_worker_said_before_it_died_is_kept_and_all_is_handed_on(processes, capsys):
    kinds = ["live", "exit", "segfault"]
    found = dict(zip(kinds, by_index(processes.run(jobs.complain, kinds)), strict=True))
    assert found["live"].value == "live"
    assert found["exit"].failure.traceback.endswith("x\nlast words\n")
    assert len(found["exit"].failure.traceback) == 4096
    assert found["segfault"].failure.reason.startswith("killed by SIGSEGV")
    assert "last words" in found["segfault"].failure.traceback
    assert "in complain" in found["segfault"].failure.traceback  # the place in Python
    # Each of the two that died was tried three times.
    assert capsys.readouterr().err.count("complaint from below") == 7


def test_a_worker_is_killed_even_if_nothing_can_be_handed_on(processes, tmp_path, monkeypatch):
    class Closed:
        def write(self, text):
            raise BrokenPipeError

    out = tmp_path / "out"
    out.mkdir()
    running = processes.run(jobs.sleep_known, [tmp_path / "missing", out, out])
    assert next(running)[0] == 0
    pids = sleepers(out)
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", Closed())
        with pytest.raises(BrokenPipeError):
            running.close()
    assert gone(pids)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("send garbage", "unreadable"),
        ("send garbage and end", "unreadable"),
        ("send another type and end", "unreadable"),
    ],
)
def test_garbage_is_no_answer(processes, kind, reason):
    results = by_index(processes.run(jobs.misbehave, [kind, "sibling", "next"]))
    assert results[0].failure.status == "failed"
    assert reason in results[0].failure.reason
    assert [result.value for result in results] == [None, "sibling", "next"]


def test_a_death_is_described():
    with executors.Processes(2, retries=0) as made:
        results = by_index(made.run(jobs.misbehave, ["kill", "exit 3", "exit 0"]))
    reasons = [result.failure.reason for result in results]
    assert reasons[0] == "killed by SIGKILL"
    assert reasons[1] == "ended with exit code 3 and no answer"
    assert reasons[2] == "ended with exit code 0 and no answer"


def test_half_an_answer_is_killed_at_the_deadline(processes):
    results = by_index(
        processes.run(jobs.misbehave, ["send a part and hang", "sibling"], deadline=1.0)
    )
    assert statuses(enumerate(results)) == ["timed_out", None]
    assert multiprocessing.active_children() == []


def test_a_large_answer_arrives_and_an_endless_one_is_refused(processes, monkeypatch):
    monkeypatch.setattr(worker, "ANSWER_BYTES", 1 << 24)
    [result] = by_index(processes.run(jobs.large, [1 << 23]))
    assert len(result.value) == 1 << 23
    results = by_index(processes.run(jobs.misbehave, ["send without end", "sibling"]))
    assert "more than" in results[0].failure.reason
    assert results[1].value == "sibling"


def test_a_value_above_the_limit_is_refused_where_it_arises(monkeypatch):
    monkeypatch.setattr(worker, "ANSWER_BYTES", 1000)
    packed = worker.pack(executors.Result(b"x" * 1000, None, 1.5))
    result = worker.unpack(packed)
    assert result.failure.status == "failed" and "more than 1000 bytes" in result.failure.reason
    assert result.seconds == 1.5 and len(packed) < 1000


def test_a_worker_that_does_not_begin_is_lost(processes, monkeypatch):
    monkeypatch.setattr(engine._Forks, "patience", 1.0)
    with executors.Processes(2, retries=1) as made:
        [late, fine] = by_index(
            made.run(jobs.seconds_to_load, [jobs.SlowToLoad(50.0), jobs.SlowToLoad(0.0)])
        )
    assert (late.failure.status, late.attempts, fine.value) == ("crashed", 2, 0.0)
    assert "did not begin" in late.failure.reason


@pytest.fixture
def interruptible():
    """Ctrl-C as a terminal gives it; a shell's background jobs ignore it, and so would Python."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
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
    coordinators = Coordinators(tmp_path)

    def start(body, preload=()):
        out = str(coordinators.out)
        process = coordinators.start(COORDINATOR.format(preload=preload, out=out, body=body))
        return process, coordinators.out, coordinators.log

    yield start
    coordinators.end()


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
