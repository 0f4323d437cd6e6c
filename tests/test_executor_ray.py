"""What only Ray does: clusters of this machine and of others, files, and how they end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from pathnas import executors
from tests import executor_jobs as jobs
from tests.executor_tools import PATIENCE, ROOT, Coordinators, by_index, eventually, gone, sleepers

pytestmark = pytest.mark.slow


@pytest.fixture
def ray(ray_session):
    with executors.Ray(2, preload=()) as made:
        yield made


def killed_once(executor, folder, whose):
    """The result of a job that waits to be killed, and is: it, or its parent."""

    def kill():
        assert eventually(lambda: list(folder.iterdir()), 120.0)
        [name] = [path.name for path in folder.iterdir()]
        os.kill(int(name.split("-")[whose]), signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    results = by_index(executor.run(jobs.wait_unless_tried, [folder]))
    thread.join()
    return results[0]


def test_a_task_that_is_killed_from_outside_is_tried_again(ray, tmp_path):
    result = killed_once(ray, tmp_path, 0)
    assert result.failure is None and result.attempts == 2
    assert str(result.value) not in [path.name.split("-")[0] for path in tmp_path.iterdir()]


def test_one_process_has_one_cluster(ray):
    with pytest.raises(ValueError, match=r"`address` must be that of the cluster"):
        executors.Ray(1, address="127.0.0.1:1")


def test_a_lost_worker_is_described_in_one_line(ray_session):
    with executors.Ray(1, preload=(), retries=0) as made:
        [result] = by_index(made.run(jobs.misbehave, ["exit 3"]))
    assert result.failure.status == "crashed"
    assert result.failure.reason.startswith("lost: WorkerCrashedError: The worker died")
    assert "\n" not in result.failure.reason


# A coordinator of its own, with a cluster of its own.

COORDINATOR = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}]
import json, os, signal
from pathlib import Path
from pathnas import executors

if __name__ == "__main__":
    handler = signal.getsignal(signal.SIGTERM)
    made = executors.Ray(2, preload=(), address={{address!r}})
    assert signal.getsignal(signal.SIGTERM) is handler
    import ray
    from tests import executor_jobs as jobs
    out = Path({{out!r}})
    {{body}}
"""


@pytest.fixture
def coordinator(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'pathnas[ray]'")
    coordinators = Coordinators(tmp_path)

    def start(body, address=None):
        out = str(coordinators.out)
        process = coordinators.start(COORDINATOR.format(address=address, out=out, body=body))
        return process, coordinators.out, coordinators.log

    yield start
    coordinators.end()


FOLDER = "(out / 'folder').write_text(ray._private.worker._global_node.get_temp_dir_path())"


def users(folder):
    """The processes that have a file of a folder open."""
    found = []
    for descriptor in Path("/proc").glob("[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            if os.readlink(descriptor).startswith(str(folder)):
                found.append(int(descriptor.parts[2]))
    return set(found)


def test_a_local_cluster_is_closed_to_others_quiet_and_gone_after_it(coordinator):
    body = f"""
    {FOLDER}
    found = [result.failure.status for _, result in made.run(jobs.misbehave, ["kill"])]
    addresses = [node["NodeManagerAddress"] for node in ray.nodes()]
    found = dict(found=found, addresses=addresses, mode=os.environ["RAY_AUTH_MODE"])
    (out / "found").write_text(json.dumps(found))
    """
    process, out, log = coordinator(body)
    assert process.wait(4 * PATIENCE) == 0, log.read_text()
    found = json.loads((out / "found").read_text())
    assert found == {"found": ["crashed"], "addresses": ["127.0.0.1"], "mode": "token"}
    folder = Path((out / "folder").read_text())
    assert not folder.exists() and not users(folder)
    assert log.read_text() == ""


def test_a_killed_coordinator_leaves_no_local_cluster(coordinator):
    body = f"(out / 'jobs').mkdir(); {FOLDER}; list(made.run(jobs.sleep_known, [out / 'jobs'] * 2))"
    process, out, log = coordinator(body)
    assert eventually((out / "jobs").exists, 4 * PATIENCE), log.read_text()
    pids = sleepers(out / "jobs")
    folder = Path((out / "folder").read_text())
    assert users(folder) > set(pids)
    process.kill()
    assert gone(pids)
    process.wait()
    assert eventually(lambda: not folder.exists())
    assert not users(folder)


# Two nodes, one of which sees another disk where the test's folder is.


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Starts nodes; hands out the address, and a folder that the second node sees empty."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'pathnas[ray]'")
    folder, apart = tempfile.mkdtemp(prefix="pn-", dir="/tmp"), tmp_path / "apart"
    apart.mkdir()
    with socket.socket() as free:
        free.bind(("", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    port = address.rpartition(":")[2]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    ray = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--num-cpus"]
    started = []

    def start(*words):
        with (tmp_path / f"node-{len(started)}").open("w") as log:
            process = subprocess.Popen(
                words, env=environment, stdout=log, stderr=log, start_new_session=True, cwd=tmp_path
            )
        started.append(process)
        return process

    def node(number, *before):
        own = ["--node-ip-address", f"127.0.0.{number}", "--object-store-memory", str(80 << 20)]
        return start(*before, *ray, "1", "--address", address, *own)

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    head = ["--head", "--port", port, "--temp-dir", folder, "--include-dashboard=false"]
    start(*ray, "0", *head, "--object-store-memory", str(80 << 20))
    yield address, node, apart
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for pid in users(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    subprocess.run(["rm", "-r", folder], check=True)


def unshared(folder):
    """Words that run a command where an empty disk is mounted on a folder."""
    mount = 'mount -t tmpfs none "$0" && exec "$@"'
    words = ["unshare", "--mount", "sh", "-c", mount, str(folder)]
    if subprocess.run([*words, "true"], capture_output=True).returncode:
        pytest.skip("mounting a disk for the second node needs root")
    return words


SHIPPING = """
    apart = Path({apart!r})
    os.chdir(apart)
    (apart / "read").write_text("first")
    (apart / "full").mkdir()
    (apart / "full" / "data").write_text("inner")
    plans = [("read", "written"), ("full/data", "deep/written"), ("written", "again")]
    plans = [tuple(map(Path, plan)) for plan in plans]
    ship = dict(files=lambda plan: [plan[0]], outputs=lambda plan: [plan[1]])

    def done(function, *arguments):
        return [result for _, result in made.run(function, list(arguments), **ship)]

    found = {{}}
    results = [result for plan in plans for result in done(jobs.copy_file, plan)]
    found["copies"] = [result.value for result in results]
    found["texts"] = [plan[1].read_text() for plan in plans]
    (apart / "read").write_text("second")
    done(jobs.copy_file, plans[0])
    found["changed"] = plans[0][1].read_text()
    [_] = made.run(jobs.occupy, [apart / "other"])
    found["elsewhere"] = not (apart / "other").exists()
    (apart / "other").write_text("mine")
    [result] = done(jobs.copy_file, (apart / "other", apart / "copy"))
    found["refused"] = [result.failure.status, result.failure.reason]
    [result] = done(jobs.copy_file, (apart / "absent", apart / "copy"))
    found["absent"] = [result.failure.status, result.failure.reason]
    (out / "found").write_text(json.dumps(found))
"""


def test_files_travel_to_a_node_with_another_disk_and_back(cluster, coordinator):
    address, node, apart = cluster
    node(2, *unshared(apart))
    process, out, log = coordinator(SHIPPING.format(apart=str(apart)), address)
    assert process.wait(8 * PATIENCE) == 0, log.read_text()
    found = json.loads((out / "found").read_text())
    assert found["copies"] == [str(apart)] * 3
    assert found["texts"] == ["first copied", "inner copied", "first copied copied"]
    assert found["changed"] == "second copied"
    assert found["elsewhere"]
    assert found["refused"][0] == "failed"
    assert "expected the coordinator's file, got another one" in found["refused"][1]
    assert found["absent"][0] == "failed" and "FileNotFoundError" in found["absent"][1]


def test_a_node_that_is_lost_costs_an_attempt(cluster, coordinator, tmp_path):
    address, node, _ = cluster
    node(2)
    waiting = tmp_path / "waiting"
    waiting.mkdir()
    body = f"""
    [(_, result)] = made.run(jobs.wait_unless_tried, [Path({str(waiting)!r})])
    (out / "found").write_text(json.dumps([result.failure is None, result.attempts]))
    """
    process, out, log = coordinator(body, address)
    assert eventually(lambda: list(waiting.iterdir()), 8 * PATIENCE), log.read_text()
    [name] = [path.name for path in waiting.iterdir()]
    os.kill(int(name.partition("-")[2]), signal.SIGKILL)  # the parent of a task is its node
    node(3)
    assert process.wait(8 * PATIENCE) == 0, log.read_text()
    assert json.loads((out / "found").read_text()) == [True, 2]
