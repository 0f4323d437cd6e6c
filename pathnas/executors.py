"""Where jobs run: one after another here, or each in a local worker process of its own.

An executor knows nothing about trees or training. It is handed a function and the arguments to
call it with, and hands back ``(index, result)`` in order of completion, each index exactly once.
A job that fails becomes a `Result` with a `Failure`; it never raises out of ``run`` and never
harms another job. The outcome of a job depends on its argument alone: every job computes on one
thread, so that the executor, the number of workers and the order of completion change no bit.
"""

from __future__ import annotations

import atexit
import contextlib
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.context import ForkServerProcess
from typing import Any, Literal, Protocol, TypeVar

A = TypeVar("A")
E = TypeVar("E", bound="Executor")
Status = Literal["failed", "out_of_memory", "diverged", "timed_out", "crashed"]
Results = Generator[tuple[int, "Result"], None, None]

_CONTEXT = multiprocessing.get_context("forkserver")
# libgomp reads these once, when torch is loaded. Its threads spin while they wait, which on a
# machine with more workers than cores costs a factor, not a share.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
_TRACEBACK_BYTES = 2048
_REASON_CHARACTERS = 300
_CHUNK_BYTES = 1 << 16
_STARTS = 3  # times that a worker is started before its job counts as crashed
_ANSWER_BYTES = 1 << 28  # a longer answer is refused: no sound job sends a quarter of a gigabyte


@dataclass(frozen=True)
class Failure:
    """Why a job has no value.

    Attributes:
        status: ``failed`` (it raised), ``out_of_memory``, ``diverged`` (it raised
            FloatingPointError), ``timed_out`` or ``crashed`` (its process died).
        reason: One line for a person.
        traceback: The end of the traceback, at most 2 kB; empty if there is none.
    """

    status: Status
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Result:
    """What became of a job: a value, or a failure and the value None.

    ``seconds`` is the wall time of the job itself, without the cost of starting it.
    """

    value: Any | None
    failure: Failure | None
    seconds: float


class Executor(Protocol):
    """The contract of all executors; a context manager that closes itself."""

    def run(
        self,
        function: Callable[[A], Any],
        arguments: Iterable[A],
        *,
        deadline: float | None = None,
    ) -> Results:
        """Calls the function on each argument and yields ``(index, result)`` as jobs end.

        The first job starts with the first ``next``. Closing the generator early kills the jobs
        that are running; so does whatever exception passes through it.

        Args:
            function: A module-level function, which workers import by its name.
            arguments: One for each job; jobs start in this order. Each is taken when a worker is
                free.
            deadline: Seconds after which a running job is killed; None for no limit. Deadlines
                are watched while the caller waits in ``next``.

        Raises:
            ValueError: If the deadline is not positive and finite.
        """
        ...

    def close(self) -> None:
        """Kills what still runs. Closing twice is harmless."""
        ...

    def __enter__(self: E) -> E:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Inline(Executor):
    """Runs jobs one after another in this process, for tests and for debugging.

    While a job runs torch has one thread; the caller's number is restored after it. Nothing can
    stop a job here, so the deadline is not enforced, and a job that kills its process kills all.
    """

    def run(
        self,
        function: Callable[[A], Any],
        arguments: Iterable[A],
        *,
        deadline: float | None = None,
    ) -> Results:
        """See `Executor.run`; the deadline is checked but not enforced."""
        _check_deadline(deadline)
        return self._iterate(function, arguments)

    def _iterate(self, function: Callable[[A], Any], arguments: Iterable[A]) -> Results:
        for index, argument in enumerate(arguments):
            with _one_thread():
                result = _attempt(function, argument)
            yield index, result

    def close(self) -> None:
        """Does nothing: between two results nothing runs."""


class Processes(Executor):
    """Runs each job in a fresh process, at most ``count`` at once for each ``run``.

    The processes are forked from a server that has loaded torch already and stays on one thread,
    which makes a job cost tens of milliseconds instead of two seconds. Python keeps one such
    server for a process: the first ``Processes`` decides what is preloaded, jobs of a later one
    import for themselves what is missing. ``__main__`` is imported again in every job, so guard
    it and keep it light. A worker ends at once when its coordinator dies, however it dies.

    Args:
        count: Number of worker processes, at least 1.
        preload: Names of further modules for the server to import. They must not compute
            anything with torch on import: threads do not survive a fork.

    Raises:
        ValueError: If count is below 1 or a module to preload does not exist.
    """

    def __init__(self, count: int, preload: Sequence[str] = ()) -> None:
        _check_count(count)
        for name in preload:
            _check_module(name)
        self._count = count
        self._preload = ["torch", "torch._dynamo", __name__, *preload]
        self._jobs: set[_Job] = set()
        self._closed = False
        _ensure_server(self._preload)
        # Before multiprocessing's own exit handler, which would wait for jobs without end.
        atexit.register(self.close)

    def run(
        self,
        function: Callable[[A], Any],
        arguments: Iterable[A],
        *,
        deadline: float | None = None,
    ) -> Results:
        """See `Executor.run`.

        Raises:
            ValueError: If the deadline is not positive and finite, the function is not
                importable by name, or the executor is closed.
        """
        _check_deadline(deadline)
        self._check_open()
        try:
            packed = pickle.dumps(function)
        except Exception as error:
            raise ValueError(
                f"function must be a module-level function, but got {function!r}"
            ) from error
        return self._iterate(packed, enumerate(arguments), deadline)

    def close(self) -> None:
        """Kills what still runs; the executor cannot be used afterwards."""
        self._closed = True
        atexit.unregister(self.close)
        self._kill(list(self._jobs))

    def _iterate(
        self, function: bytes, waiting: Iterator[tuple[int, Any]], deadline: float | None
    ) -> Results:
        running: list[_Job] = []
        ended: list[tuple[int, Result]] = []
        more = True
        try:
            while more or running or ended:
                self._check_open()
                while more and len(running) < self._count:
                    item = next(waiting, None)
                    if item is None:
                        more = False
                        break
                    index, argument = item
                    refusal = self._start(running, index, function, argument)
                    if refusal is not None:
                        ended.append((index, refusal))
                yield from ended
                self._check_open()
                ended = self._wait(running, deadline)
        finally:
            self._kill(running)

    def _start(
        self, running: list[_Job], index: int, function: bytes, argument: object
    ) -> Result | None:
        """Starts a job and adds it to those running, or returns why that is impossible."""
        packed = _attempt(pickle.dumps, argument)
        if packed.failure is not None:
            return _refused("the argument cannot be sent", packed)
        receiver, sender = _CONTEXT.Pipe(duplex=False)
        # Reading must never block: half a message from a hanging worker would stop the run.
        os.set_blocking(receiver.fileno(), False)
        process = _CONTEXT.Process(target=_work, args=(sender, function, packed.value))
        job = _Job(index, process, receiver)
        running.append(job)  # before it lives, so that no interrupt can lose sight of it
        self._jobs.add(job)
        try:
            self._fork(process)
        except (OSError, EOFError) as error:
            running.remove(job)
            self._kill([job])
            reason = f"no worker could be started: {type(error).__name__}: {error}"
            return Result(None, Failure("crashed", reason), 0.0)
        finally:
            sender.close()
        job.started = time.monotonic()
        return None

    def _fork(self, process: ForkServerProcess) -> None:
        """Starts a process; a server that dies at this moment is replaced by a new one.

        Raises:
            OSError, EOFError: If no server answers.
        """
        for left in reversed(range(_STARTS)):
            try:
                _ensure_server(self._preload)
                process.start()
                return
            except (OSError, EOFError):
                if not left:
                    raise
                time.sleep(0.1)  # until the kernel has taken a dead server's socket away

    def _wait(self, running: list[_Job], deadline: float | None) -> list[tuple[int, Result]]:
        """Sleeps until a worker writes, ends or is due; removes and returns what has ended."""
        if not running:
            return []
        timeout = None
        if deadline is not None:
            timeout = max(0.0, min(job.started for job in running) + deadline - time.monotonic())
        ready = connection.wait([handle for job in running for handle in job.handles()], timeout)
        ended = []
        for job in list(running):
            if job.receiver in ready or job.process.sentinel in ready:
                job.read()
            result = job.result(job.process.sentinel in ready, deadline)
            if result is not None:
                ended.append((job.index, result))
                self._kill([job])
                running.remove(job)
        return ended

    def _kill(self, jobs: list[_Job]) -> None:
        alive = [job for job in jobs if job in self._jobs]
        for job in alive:
            if job.process.is_alive():
                job.process.kill()
        for job in alive:
            self._jobs.remove(job)
            job.release()

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("the executor is closed, make a new one")


def executor(kind: str, count: int, preload: Sequence[str] = ()) -> Executor:
    """Makes the executor of a name: ``inline`` (which ignores the rest) or ``processes``.

    Raises:
        ValueError: If the kind is unknown or count is below 1.
    """
    _check_count(count)
    if kind == "inline":
        return Inline()
    if kind == "processes":
        return Processes(count, preload)
    raise ValueError(f"kind must be 'inline' or 'processes', but got {kind!r}")


@dataclass(eq=False)
class _Job:
    """A worker process at work, seen from the coordinator."""

    index: int
    process: ForkServerProcess
    receiver: connection.Connection
    started: float = field(default_factory=time.monotonic)
    answer: bytearray = field(default_factory=bytearray)

    def handles(self) -> list[connection.Connection | int]:
        """What `connection.wait` watches; a pipe at its end would be ready for ever."""
        handles: list[connection.Connection | int] = [self.process.sentinel]
        return handles if self.receiver.closed else [self.receiver, *handles]

    def read(self) -> None:
        """Takes what is in the pipe, a megabyte at most, so that no worker holds up the rest."""
        for _ in range(16):
            if self.receiver.closed:
                return
            try:
                chunk = os.read(self.receiver.fileno(), _CHUNK_BYTES)
            except BlockingIOError:
                return
            self.answer += chunk
            if not chunk:
                self.receiver.close()

    def result(self, dead: bool, deadline: float | None) -> Result | None:
        """The job's result, or None while it may run on."""
        seconds = time.monotonic() - self.started
        if len(self.answer) > _ANSWER_BYTES:
            reason = f"the worker sent more than {_ANSWER_BYTES} bytes"
            return Result(None, Failure("failed", reason), seconds)
        if dead:
            return self._parsed() or Result(None, self._death(), seconds)
        if deadline is not None and seconds >= deadline:
            reason = f"killed at its deadline of {deadline:g} s"
            return Result(None, Failure("timed_out", reason), seconds)
        return None

    def _parsed(self) -> Result | None:
        """The answer, if it is one. The pickle is our own worker's: nobody else has the pipe."""
        try:
            answer = pickle.loads(self.answer)
        except Exception:  # whatever bytes and classes can raise; _death tells what was wrong
            return None
        return answer if isinstance(answer, Result) else None

    def _death(self) -> Failure:
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            names = {number.value: number.name for number in signal.Signals}
            return Failure("crashed", f"killed by {names.get(-code, f'signal {-code}')}")
        if code > 0 or not self.answer:
            return Failure("crashed", f"ended with exit code {code} and no answer")
        return Failure("failed", f"the worker's answer of {len(self.answer)} bytes is unreadable")

    def release(self) -> None:
        """Reaps a worker that has ended and gives its file descriptors back."""
        self.receiver.close()
        if self.process.pid is not None:  # else it was never started
            self.process.join(timeout=5.0)  # a process stuck in the kernel must not stop the run
        if not self.process.is_alive():
            self.process.close()


def _work(sender: connection.Connection, function: bytes, argument: bytes) -> None:
    """The life of a worker: guard, load, run, answer, end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whether to stop is the coordinator's decision
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.update(THREADS)  # for a server that somebody else had started
    result = _attempt(_load, function, argument)
    if result.failure is None:
        assert result.value is not None
        result = _attempt(*result.value)
    packed = _attempt(pickle.dumps, result)
    if packed.failure is not None:
        refused = replace(_refused("the value cannot be sent", packed), seconds=result.seconds)
        packed = _attempt(pickle.dumps, refused)
    with os.fdopen(sender.fileno(), "wb", closefd=False) as stream:
        stream.write(packed.value or b"")
    for output in (sys.stdout, sys.stderr):
        output.flush()
    os._exit(0)  # what the job left behind (threads, exit handlers) must not delay its end


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _load(function: bytes, argument: bytes) -> tuple[Callable[[Any], Any], Any]:
    import torch

    torch.set_num_threads(1)
    return pickle.loads(function), pickle.loads(argument)  # the coordinator's, through its pipe


def _attempt(function: Callable[..., Any], *arguments: Any) -> Result:
    """Calls the function and turns what it raises, Ctrl-C aside, into a failure."""
    start = time.monotonic()
    try:
        value = function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a job must not end the coordinator
        seconds = time.monotonic() - start
        return Result(None, _failure(error), seconds)
    return Result(value, None, time.monotonic() - start)


def _failure(error: BaseException) -> Failure:
    # The frames hold the tensors that filled the memory; let go of them before formatting.
    traceback.clear_frames(error.__traceback__)
    described = traceback.TracebackException.from_exception(error)
    reason = " ".join(f"{type(error).__name__}: {described}".split())
    reason = reason.rstrip(":")[:_REASON_CHARACTERS]  # an error without a message has no colon
    text = "".join(described.format()).encode(errors="replace")[-_TRACEBACK_BYTES:]
    return Failure(_status(error, str(described)), reason, text.decode(errors="ignore"))


def _status(error: BaseException, message: str) -> Status:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out_of_memory"
    if isinstance(error, RuntimeError) and "DefaultCPUAllocator" in message:
        return "out_of_memory"
    return "diverged" if isinstance(error, FloatingPointError) else "failed"


def _refused(what: str, attempt: Result) -> Result:
    assert attempt.failure is not None
    reason = f"{what}: {attempt.failure.reason}"[:_REASON_CHARACTERS]
    return Result(None, Failure("failed", reason, attempt.failure.traceback), attempt.seconds)


def _ensure_server(preload: list[str]) -> None:
    """Starts the fork server, unless it runs, with threads and import path as they must be.

    The server swallows an ImportError while it preloads, and it starts from the default import
    path instead of the coordinator's, hence PYTHONPATH.
    """
    _CONTEXT.set_forkserver_preload(preload)
    path = os.pathsep.join(os.path.abspath(entry) for entry in sys.path)
    resource_tracker.ensure_running()  # first, because starting it unblocks SIGINT
    # The server inherits the mask, and so do the workers: Ctrl-C neither kills it while it
    # imports nor them before they can ignore the signal.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with _environment({**THREADS, "PYTHONPATH": path}):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _check_count(count: int) -> None:
    if count < 1:
        raise ValueError(f"`count` must be at least 1, but got {count}")


def _check_module(name: str) -> None:
    try:
        known = find_spec(name) is not None
    except ModuleNotFoundError:
        known = False
    if not known:
        raise ValueError(f"`preload` must name importable modules, but got {name!r}")


def _check_deadline(deadline: float | None) -> None:
    if deadline is not None and not (0.0 < deadline < math.inf):
        raise ValueError(f"`deadline` must be positive finite seconds, but got {deadline}")
