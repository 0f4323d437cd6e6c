"""What the tests of executors share: reading results, waiting, watching processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 120.0  # seconds; only a broken executor waits that long, even on a busy machine


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


class Coordinators:
    """Starts scripts in sessions of their own and ends what is left of these."""

    def __init__(self, folder):
        self.folder = folder
        self.out = folder / "out"
        self.log = folder / "log"
        self.started = []
        self.out.mkdir()

    def start(self, text):
        script = self.folder / "coordinator.py"
        script.write_text(text)
        with self.log.open("w") as log:  # a pipe would wait for orphans
            process = subprocess.Popen(
                [sys.executable, str(script)],
                cwd=self.folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.started.append(process)
        return process

    def end(self):
        for process in self.started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
