"""Each job as a task of a Ray cluster, in a fresh process there."""

from __future__ import annotations

import atexit
import os
import pickle
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pathnas.executors import cluster, worker
from pathnas.executors import files as shipping
from pathnas.executors.contract import Paths
from pathnas.executors.files import File
from pathnas.executors.results import Result, attempt, failed, refused
from pathnas.executors.scheduling import Scheduler


@dataclass(frozen=True)
class Task:
    """All that a task needs; what is large stands in the object store.

    Attributes:
        function, argument: Pickles.
        preload: Names of modules.
        memory: See :func:`pathnas.executors.worker.memory_limit`.
        folder: The coordinator's working folder.
        home: The coordinator's node; None if there is no other.
        files: With a reference to the content of each.
        outputs: Absolute paths.
    """

    function: bytes
    argument: bytes
    preload: tuple[str, ...]
    memory: int | None
    folder: str
    home: str | None
    files: tuple[tuple[File, Any], ...]
    outputs: tuple[str, ...]


class Ray(Scheduler[Task, "_Attempt"]):
    """Runs each job as a Ray *core* task, in a process of its own, somewhere on a cluster.

    Retries, deadlines and memory limits are this executor's, as everywhere; Ray's own retries are
    off. GPUs are given out by Ray, which sets CUDA_VISIBLE_DEVICES. The nodes of a cluster must
    have the same versions of Python, Ray, torch and pathnas. All executors of a process share one
    connection to Ray; a local cluster ends with the process, however that ends.

    Files: a node that does not see the coordinator's disk gets the `files` of a job under the same
    absolute paths, each once, through Ray's object store, where they are put once; and the
    `outputs` come back with the result. A different file that a node has there already is an
    error, unless it is an earlier copy. Relative paths are relative to the coordinator's working
    folder, which is made on the node if need be.

    Args:
        count: Jobs at a time, at least 1; the cluster's resources may allow fewer.
        preload: Names of modules that a task imports before its job begins.
        address: Of a cluster that runs (``ray start --head`` prints it), or ``auto``; None: start
            one on this machine, which listens on the loopback interface and asks for a token.
        cpus: CPUs that Ray counts for a job. It computes on one thread, whatever this is.
        gpus: GPUs that Ray counts for a job and lets it see; may be a fraction.
        memory: MiB that a job may allocate, as for `Processes`.
        retries: How often a job is run again whose process or node died without an answer.

    Raises:
        RuntimeError: If Ray is not installed.
        ValueError: If a number is below its least, or this process is connected to another
            cluster.
        ConnectionError: If there is no cluster at the address.
    """

    def __init__(
        self,
        count: int,
        preload: Sequence[str] = worker.PRELOAD,
        *,
        address: str | None = None,
        cpus: float = 1.0,
        gpus: float = 0.0,
        memory: int | None = None,
        retries: int = 2,
    ) -> None:
        worker.check_count(count)
        worker.check_modules(preload)
        worker.check_memory(memory)
        if cpus < 0.0 or gpus < 0.0:
            raise ValueError(f"`cpus` and `gpus` must not be negative, but got {cpus=}, {gpus=}")
        super().__init__(_Tasks(count, preload, address, (cpus, gpus), memory), retries)
        atexit.register(self.close)

    def close(self) -> None:
        """See `Executor.close`."""
        atexit.unregister(self.close)
        super().close()


class _Tasks:
    """The engine: Ray core tasks."""

    patience: float | None = None  # a task may wait for resources as long as others use them

    def __init__(
        self,
        count: int,
        preload: Sequence[str],
        address: str | None,
        resources: tuple[float, float],
        memory: int | None,
    ) -> None:
        cpus, gpus = resources
        self.slots = count
        self._preload = tuple(preload)
        self._memory = memory
        self._ray = cluster.connect(address, count * cpus)
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1, "max_retries": 0}
        self._remote = self._ray.remote(**options)(_task)
        self._home = None
        if address is not None:
            self._home = self._ray.get_runtime_context().get_node_id()
        self._shipped: dict[tuple[str, int, int], tuple[File, Any]] = {}
        self._closed = False

    def preparer(
        self,
        function: Callable[[Any], object],
        files: Paths[Any] | None,
        outputs: Paths[Any] | None,
    ) -> Callable[[Any], Task]:
        packed = worker.pack_function(function)

        def prepare(argument: Any) -> Task:
            read = files(argument) if files is not None and self._home else ()
            written = outputs(argument) if outputs is not None and self._home else ()
            return Task(
                packed,
                pickle.dumps(argument),
                self._preload,
                self._memory,
                os.getcwd(),
                self._home,
                tuple(self._ship(path) for path in shipping.expand(read)),
                tuple(os.path.abspath(path) for path in written),
            )

        return prepare

    def _ship(self, path: Path) -> tuple[File, Any]:
        """Puts a file into the object store, once as long as it does not change."""
        found = path.stat()
        key = os.path.abspath(path), found.st_size, found.st_mtime_ns
        if key not in self._shipped:
            content = path.read_bytes()
            self._shipped[key] = File.of(path, content), self._ray.put(content)
        return self._shipped[key]

    def attempt(self, prepared: Task, slot: int) -> _Attempt:
        return _Attempt(self._ray, self._remote, prepared)

    def wait(self, attempts: Sequence[_Attempt], timeout: float | None) -> None:
        ready, _ = self._ray.wait([one.stream for one in attempts], timeout=timeout)
        for one in attempts:
            if any(one.stream is stream for stream in ready):
                one.update()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._shipped.clear()
            cluster.disconnect()


class _Attempt:
    """A task, seen from the coordinator: it says that it has begun, then it answers."""

    def __init__(self, ray: Any, remote: Any, task: Task) -> None:
        self.begun: float | None = None
        self.result: Result | None = None
        self.stream: Any = None
        self._ray = ray
        self._remote = remote
        self._task = task

    def start(self) -> None:
        self.stream = self._remote.remote(self._task)

    def update(self) -> None:
        """Takes what the task has said, which is there."""
        try:
            said = self._ray.get(next(self.stream))
        except StopIteration:
            self.result = failed("crashed", "ended without an answer", self._seconds())
        except self._ray.exceptions.RayTaskError as error:  # around the job: it does not raise
            self.result = failed("failed", f"the task failed: {_last_line(error)}")
        except self._ray.exceptions.RayError as error:
            reason = f"lost: {type(error).__name__}: {_first_sentence(error)}"
            self.result = failed("crashed", reason, self._seconds())
        else:
            if self.begun is None:
                self.begun = time.monotonic()
            else:
                self.result = self._received(*said)

    def _received(self, answer: bytes, outputs: Sequence[tuple[File, bytes]]) -> Result:
        result = worker.unpack(answer)
        if result is None:
            reason = f"the worker's answer of {len(answer)} bytes is unreadable"
            return failed("failed", reason, self._seconds())
        for file, content in outputs:
            written = attempt(shipping.write, file, content)
            if written.failure is not None:
                return refused("an output cannot be written", written)
        return result

    def _seconds(self) -> float:
        return 0.0 if self.begun is None else time.monotonic() - self.begun

    def end(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None and self.result is None:
            self._ray.cancel(stream, force=True)


def _task(task: Task) -> Iterator[Any]:
    """The life of a task: it runs in a process that has run nothing before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    away = task.home is not None and _node() != task.home
    ready = attempt(_prepare, task, away)
    loaded = worker.load(task.function, task.argument, preload=task.preload)
    yield None
    if ready.failure is not None:
        loaded = refused("the node cannot be prepared", ready)
    result = _run(loaded, task.memory)
    taken = attempt(_take, task.outputs) if away and result.failure is None else None
    if taken is not None and taken.failure is not None:
        result = refused("the outputs cannot be read", taken)
    yield worker.pack(result), taken.value or [] if taken is not None else []


def _run(loaded: Result, memory: int | None) -> Result:
    try:
        return worker.run(loaded, memory)
    except KeyboardInterrupt:  # which Ray would take for a cancellation
        os._exit(1)


def _node() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())


def _prepare(task: Task, away: bool) -> None:
    """Makes this node look like the coordinator's, as far as the job is concerned."""
    import ray

    os.makedirs(task.folder, exist_ok=True)
    os.chdir(task.folder)
    if not away:
        return
    for file, reference in task.files:
        shipping.place(file, partial(ray.get, reference))
    for path in task.outputs:
        if not os.path.exists(path):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            shipping.own(Path(path))


def _take(paths: Sequence[str]) -> list[tuple[File, bytes]]:
    found = []
    for path in shipping.expand(map(Path, paths)):
        content = path.read_bytes()
        found.append((File.of(path, content), content))
    return found


def _first_sentence(error: BaseException) -> str:
    return " ".join(str(error).split()).split(". ")[0]


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1] if lines else type(error).__name__
