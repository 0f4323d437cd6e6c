"""Each job in a local process of its own."""

from __future__ import annotations

import atexit
import faulthandler
import multiprocessing
import os
import pickle
import signal
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import connection, reduction
from typing import Any

from pathnas.executors import server, worker
from pathnas.executors.contract import Paths
from pathnas.executors.results import Failure, Result, failed
from pathnas.executors.scheduling import Scheduler

_CHUNK_BYTES = 1 << 16
_SAID_BYTES = 1 << 12  # of what a worker said before it died, for its failure
_STARTS = 3  # times that a worker is started before its job counts as crashed
_PATIENCE = 300.0  # seconds that a worker may take to import what its job needs
_BEGUN = struct.Struct("d")  # before the answer: when the job began, on the machine's clock

Packed = tuple[bytes, bytes]
"""A function and its argument."""


class Processes(Scheduler[Packed, "_Attempt"]):
    """Runs each job in a fresh process, at most ``count`` at once for each ``run``.

    The processes are forked from a server that has loaded torch already and stays on one thread,
    which makes a job cost tens of milliseconds instead of two seconds. Python keeps one such
    server for a process: the first ``Processes`` decides what is preloaded, jobs of a later one
    import for themselves what is missing. ``__main__`` is imported again in every job, so guard
    it and keep it light. A worker ends at once when its coordinator dies, however it dies. What it
    writes to standard error, the last 64 KiB of it, is handed on when it has ended; if it dies
    without an answer, the end of that is the traceback of its failure.

    Args:
        count: Number of worker processes, at least 1.
        preload: Names of further modules for the server to import. They must not compute
            anything with torch on import: threads do not survive a fork.
        memory: MiB that a job may allocate beyond what its process has when it begins, see
            :func:`pathnas.executors.worker.memory_limit`; None for no limit.
        retries: How often a job is run again whose process died without an answer.
        devices: GPUs by round robin: each of the `count` workers at a time sees one of these
            alone, as ``cuda``. An item is a value of CUDA_VISIBLE_DEVICES: a number as
            ``nvidia-smi`` has it, an identifier, or several with commas. None: all GPUs, for all.

    Raises:
        ValueError: If a number is below its least, a module to preload does not exist, or
            there are no devices in `devices`.
    """

    def __init__(
        self,
        count: int,
        preload: Sequence[str] = (),
        *,
        memory: int | None = None,
        retries: int = 2,
        devices: Sequence[str] | None = None,
    ) -> None:
        worker.check_count(count)
        worker.check_modules(preload)
        if devices is not None and not devices:
            raise ValueError("`devices` must name at least one, or be None, but got none")
        every = [*worker.PRELOAD, __name__, *preload]
        super().__init__(_Forks(count, every, memory, devices), retries)
        # Before multiprocessing's own exit handler, which would wait for jobs without end.
        atexit.register(self.close)

    def close(self) -> None:
        """See `Executor.close`."""
        atexit.unregister(self.close)
        super().close()


class _Forks:
    """The engine: processes forked from the server."""

    patience: float | None = _PATIENCE

    def __init__(
        self, count: int, preload: list[str], memory: int | None, devices: Sequence[str] | None
    ) -> None:
        worker.check_memory(memory)
        self.slots = count
        self._preload = preload
        self._memory = memory
        self._devices = devices
        server.ensure(preload)

    def preparer(
        self,
        function: Callable[[Any], object],
        files: Paths[Any] | None,
        outputs: Paths[Any] | None,
    ) -> Callable[[Any], Packed]:
        packed = worker.pack_function(function)
        return lambda argument: (packed, pickle.dumps(argument))

    def attempt(self, prepared: Packed, slot: int) -> _Attempt:
        environment = {}
        if self._devices is not None:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[slot % len(self._devices)]
            environment["CUDA_DEVICE_ORDER"] = "PCI_BUS_ID"
        return _Attempt(self._preload, prepared, environment, self._memory)

    def wait(self, attempts: Sequence[_Attempt], timeout: float | None) -> None:
        handles = [handle for one in attempts for handle in one.handles()]
        ready = connection.wait(handles, timeout)
        for one in attempts:
            if any(handle in ready for handle in one.handles()):
                one.update()

    def close(self) -> None:
        pass


class _Attempt:
    """A worker process, seen from the coordinator."""

    def __init__(
        self,
        preload: list[str],
        packed: Packed,
        environment: Mapping[str, str],
        memory: int | None,
    ) -> None:
        self.begun: float | None = None
        self.result: Result | None = None
        self._preload = preload
        self._received = bytearray()
        self._receiver, self._sender = server.CONTEXT.Pipe(duplex=False)
        # Reading must never block: half a message from a hanging worker would stop the run.
        os.set_blocking(self._receiver.fileno(), False)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - `end` closes it
        inherited = _Inherited(self._errors.fileno())
        self._process = server.CONTEXT.Process(
            target=_work, args=(self._sender, inherited, packed, environment, memory)
        )
        self._released = False

    def start(self) -> None:
        try:
            self._fork()
        except (OSError, EOFError) as error:
            reason = f"no worker could be started: {type(error).__name__}: {error}"
            self.result = failed("crashed", reason)
        finally:
            self._sender.close()

    def _fork(self) -> None:
        """Starts the process; a server that dies at this moment is replaced by a new one.

        Raises:
            OSError, EOFError: If no server answers.
        """
        for left in reversed(range(_STARTS)):
            try:
                server.ensure(self._preload)
                self._process.start()
                return
            except (OSError, EOFError):
                if not left:
                    raise
                time.sleep(0.1)  # until the kernel has taken a dead server's socket away

    def handles(self) -> list[connection.Connection | int]:
        """What `connection.wait` watches; a pipe at its end would be ready for ever."""
        handles: list[connection.Connection | int] = [self._process.sentinel]
        return handles if self._receiver.closed else [self._receiver, *handles]

    def update(self) -> None:
        """Reads what there is, and sets `begun` and `result` by it."""
        self._read()
        if self.begun is None and len(self._received) >= _BEGUN.size:
            [self.begun] = _BEGUN.unpack_from(self._received)
            del self._received[: _BEGUN.size]
        seconds = 0.0 if self.begun is None else time.monotonic() - self.begun
        if len(self._received) > worker.ANSWER_BYTES:
            reason = f"the worker sent more than {worker.ANSWER_BYTES} bytes"
            self.result = failed("failed", reason, seconds)
        elif connection.wait([self._process.sentinel], 0):
            self._read()  # what it wrote since
            answer = worker.unpack(self._received) if self.begun is not None else None
            self.result = answer or Result(None, self._death(), seconds)

    def _read(self) -> None:
        """Takes what is in the pipe, a megabyte at most, so that no worker holds up the rest."""
        for _ in range(16):
            if self._receiver.closed:
                return
            try:
                chunk = os.read(self._receiver.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                return
            self._received += chunk
            if not chunk:
                self._receiver.close()

    def _death(self) -> Failure:
        self._process.join()
        code = self._process.exitcode or 0
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            killer = names.get(-code, f"signal {-code}")
            return Failure("crashed", f"killed by {killer}", self._said(_SAID_BYTES))
        if code > 0 or not self._received:
            reason = f"ended with exit code {code} and no answer"
            return Failure("crashed", reason, self._said(_SAID_BYTES))
        size = len(self._received)
        return Failure("failed", f"the worker's answer of {size} bytes is unreadable")

    def _said(self, size: int) -> str:
        """The end of what the worker wrote to standard error."""
        end = self._errors.seek(0, os.SEEK_END)
        self._errors.seek(max(0, end - size))
        return self._errors.read().decode(errors="replace")

    def end(self) -> None:
        if self._released:
            return
        # First of all: whatever fails or interrupts the rest, no worker is left behind.
        if self._process.pid is not None:  # else it was never started
            self._process.kill()
            self._process.join(timeout=5.0)  # one stuck in the kernel must not stop the run
        self._released = True
        self._sender.close()
        self._receiver.close()
        if not self._process.is_alive():
            self._process.close()
        with self._errors:
            if sys.stderr is not None:  # it was closed when this process was started
                sys.stderr.write(self._said(_CHUNK_BYTES))


class _Inherited:
    """A file descriptor that a worker gets with its arguments, under a number of its own."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _inherit, (reduction.DupFd(self.number),)


def _inherit(duplicate: Any) -> _Inherited:
    return _Inherited(duplicate.detach())


def _work(
    sender: connection.Connection,
    errors: _Inherited,
    packed: Packed,
    environment: Mapping[str, str],
    memory: int | None,
) -> None:
    """The life of a worker: guard, load, run, answer, end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whether to stop is the coordinator's decision
    os.dup2(errors.number, 2)
    os.close(errors.number)
    faulthandler.enable(2)  # a fault of native code tells its place
    threading.Thread(target=_end_with_parent, daemon=True).start()
    loaded = worker.load(*packed, environment=environment)
    with os.fdopen(sender.fileno(), "wb", buffering=0, closefd=False) as stream:
        stream.write(_BEGUN.pack(time.monotonic()))
    answer = worker.pack(worker.run(loaded, memory))
    with os.fdopen(sender.fileno(), "wb", closefd=False) as stream:
        stream.write(answer)
    for output in (sys.stdout, sys.stderr):
        output.flush()
    os._exit(0)  # what the job left behind (threads, exit handlers) must not delay its end


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
