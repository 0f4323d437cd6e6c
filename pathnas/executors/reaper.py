"""A process that ends a local Ray cluster if its coordinator dies.

Ray's own processes notice the death of a driver at different times, up to half a minute after it.
This one is run with the coordinator's process id and the cluster's folder, and waits for the end of
its standard input. If nothing came before that, the coordinator has died: every process that has a
file of the folder open is killed. In any case the folder is removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

_ROUNDS = 20


def main(coordinator: int, folder: str) -> None:
    """Waits for the end of the standard input, then cleans up."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if not sys.stdin.buffer.read():
        _end_all(folder, {coordinator, os.getpid()})
    shutil.rmtree(folder, ignore_errors=True)


def _end_all(folder: str, spared: set[int]) -> None:
    for _ in range(_ROUNDS):  # those that are killed may have started others in between
        numbers = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
        found = [pid for pid in numbers if pid not in spared and _uses(pid, folder)]
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not found:
            return
        time.sleep(0.05)


def _uses(pid: int, folder: str) -> bool:
    """Whether a process has a file of the folder open; one of another user's cannot be asked."""
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(link).startswith(f"{folder}/"):
                    return True
    return False


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
