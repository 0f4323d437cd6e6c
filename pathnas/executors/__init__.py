"""Where jobs run: one after another here, in local processes, or on a Ray cluster.

An executor knows nothing about trees or training. It is handed a function and the arguments to
call it with, and hands back ``(index, result)`` in order of completion, each index exactly once.
A job that fails becomes a `Result` with a `Failure`; it never raises out of ``run`` and never
harms another job. The outcome of a job depends on its argument alone: every job computes on one
thread, so that the executor, the number of workers and the order of completion change no bit.
"""

from __future__ import annotations

from collections.abc import Sequence

from pathnas.executors.contract import LATER, Executor, Paths
from pathnas.executors.inline import Inline
from pathnas.executors.processes import Processes
from pathnas.executors.ray import Ray
from pathnas.executors.results import Failure, Result, Results, Status
from pathnas.executors.worker import PRELOAD, THREADS, check_count

__all__ = [
    "KINDS",
    "LATER",
    "THREADS",
    "Executor",
    "Failure",
    "Inline",
    "Paths",
    "Processes",
    "Ray",
    "Result",
    "Results",
    "Status",
    "executor",
]

KINDS = ("inline", "processes", "ray")
"""The names that :func:`executor` knows."""


def executor(
    kind: str,
    count: int,
    preload: Sequence[str] = (),
    *,
    memory: int | None = None,
    retries: int = 2,
    devices: Sequence[str] | None = None,
    address: str | None = None,
    cpus: float = 1.0,
    gpus: float = 0.0,
) -> Executor:
    """Makes the executor of a name.

    Args:
        kind: One of :data:`KINDS`.
        count: Of jobs at a time; see the classes for this and all that follows.
        preload: Modules that the jobs need.
        memory: For all kinds.
        retries: For ``processes`` and ``ray``.
        devices: For ``processes``.
        address: For ``ray``, as all that follows.
        cpus: For a job.
        gpus: For a job.

    Raises:
        ValueError: If the kind is unknown or an argument is out of range.
        RuntimeError: If the kind is ``ray`` and Ray is not installed.
        ConnectionError: If there is no cluster at the address.
    """
    check_count(count)
    if kind == "inline":
        return Inline(memory=memory)
    if kind == "processes":
        return Processes(count, preload, memory=memory, retries=retries, devices=devices)
    if kind == "ray" and devices is not None:
        raise ValueError(f"Ray gives out GPUs itself: set `gpus`, not `devices`, got {devices!r}")
    if kind == "ray":
        return Ray(
            count,
            (*PRELOAD, *preload),
            address=address,
            cpus=cpus,
            gpus=gpus,
            memory=memory,
            retries=retries,
        )
    raise ValueError(f"kind must be one of {', '.join(map(repr, KINDS))}, but got {kind!r}")
