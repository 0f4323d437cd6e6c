"""The process that worker processes are forked from: it has loaded torch and has one thread."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker

from pathnas.executors.worker import THREADS

CONTEXT = multiprocessing.get_context("forkserver")
# Otherwise a module that asks whether CUDA is there, while it is preloaded, spoils it for all that
# is forked after it.
_NO_CUDA = {"PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def ensure(preload: Sequence[str]) -> None:
    """Starts the fork server, unless it runs, with threads and import path as they must be.

    The server swallows an ImportError while it preloads, and it starts from the default import
    path instead of the coordinator's, hence PYTHONPATH.

    Args:
        preload: Modules for a new server to import.
    """
    CONTEXT.set_forkserver_preload(list(preload))
    resource_tracker.ensure_running()  # first, because starting it unblocks SIGINT
    # The server inherits the mask, and so do the workers: Ctrl-C neither kills it while it
    # imports nor them before they can ignore the signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with environment({**THREADS, **_NO_CUDA, "PYTHONPATH": import_path()}):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def import_path() -> str:
    """Returns this process's import path as a value of PYTHONPATH."""
    return os.pathsep.join(os.path.abspath(entry) for entry in sys.path)


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables in a block, and restores them after it."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
