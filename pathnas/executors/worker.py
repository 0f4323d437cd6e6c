"""What happens in the process of a job, whoever started it: threads, memory, load, run, answer."""

from __future__ import annotations

import contextlib
import os
import pickle
import re
import resource
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pathnas.executors.results import Result, attempt, failed, refused

# libgomp reads these once, when torch is loaded. Its threads spin while they wait, which on a
# machine with more workers than cores costs a factor, not a share.
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}

PRELOAD = ("torch", "torch._dynamo")
"""What takes longest to import; the second comes with the first optimizer."""

ANSWER_BYTES = 1 << 28
"""A longer answer is refused: no sound job sends a quarter of a gigabyte."""


def load(
    function: bytes,
    argument: bytes,
    *,
    environment: Mapping[str, str] | None = None,
    preload: Sequence[str] = (),
) -> Result:
    """Returns the pair of function and argument, or the failure to load it, with one thread set.

    The pickles are the coordinator's own and come through its own pipe.

    Args:
        function: A pickle.
        argument: A pickle.
        environment: Further variables to set, before anything is imported.
        preload: Names of modules to import, so that this is no part of the job.
    """
    os.environ.update({**THREADS, **(environment or {})})
    return attempt(_load, function, argument, preload)


def _load(
    function: bytes, argument: bytes, preload: Sequence[str]
) -> tuple[Callable[[Any], Any], Any]:
    for name in preload:
        import_module(name)
    loaded = pickle.loads(function), pickle.loads(argument)
    torch = sys.modules.get("torch")
    if torch is not None:  # if it is imported later it reads THREADS
        torch.set_num_threads(1)
    return loaded


def run(loaded: Result, memory: int | None) -> Result:
    """Runs a loaded job.

    Args:
        loaded: By :func:`load`.
        memory: See :func:`memory_limit`.
    """
    if loaded.value is None:
        return loaded
    with memory_limit(memory):
        return attempt(*loaded.value)


def pack(result: Result) -> bytes:
    """Returns a result as the bytes of an answer; a value that cannot be sent is a failure."""
    packed = attempt(pickle.dumps, result)
    if packed.failure is not None:
        why = refused("the value cannot be sent", packed)
        return pickle.dumps(Result(None, why.failure, result.seconds))
    assert isinstance(packed.value, bytes)
    if len(packed.value) > ANSWER_BYTES:
        reason = f"the value has more than {ANSWER_BYTES} bytes"
        return pickle.dumps(failed("failed", reason, result.seconds))
    return packed.value


def unpack(answer: bytes | bytearray) -> Result | None:
    """Returns the result in an answer; None if it is none.

    The pickle is our own worker's: nobody else has the pipe.
    """
    try:
        result = pickle.loads(answer)
    except Exception:  # whatever bytes and classes can raise; the caller tells what was wrong
        return None
    return result if isinstance(result, Result) else None


@contextlib.contextmanager
def memory_limit(mebibytes: int | None) -> Iterator[None]:
    """Limits what this process may allocate in a block, beyond what it has at its start.

    The limit is that on private writable memory (RLIMIT_DATA), which counts what is asked for, not
    what is touched. Files that are mapped copy-on-write, as prepared images are, count; memory of a
    GPU does not. An allocation beyond it fails with MemoryError in Python and with RuntimeError in
    torch.

    Args:
        mebibytes: The budget; None for no limit.
    """
    if mebibytes is None:
        yield
        return
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _data_bytes() + (mebibytes << 20)
    known = [one for one in (limit, before, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min(known), hard))
    try:
        yield
    finally:  # the answer must find room, whatever the job left behind
        resource.setrlimit(resource.RLIMIT_DATA, (before, hard))


def _data_bytes() -> int:
    """What the kernel compares with RLIMIT_DATA."""
    found = re.search(r"^VmData:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) << 10


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Computes on one thread in a block, and restores the number after it."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def pack_function(function: Callable[[Any], object]) -> bytes:
    """Returns a function as bytes that a worker can load.

    Raises:
        ValueError: If workers cannot import it by its name.
    """
    try:
        return pickle.dumps(function)
    except Exception as error:
        raise ValueError(
            f"function must be a module-level function, but got {function!r}"
        ) from error


def check_count(count: int) -> None:
    """Raises a ValueError unless there is at least one worker."""
    if count < 1:
        raise ValueError(f"`count` must be at least 1, but got {count}")


def check_modules(names: Sequence[str]) -> None:
    """Raises a ValueError unless there are modules of these names."""
    for name in names:
        try:
            known = find_spec(name) is not None
        except ModuleNotFoundError:
            known = False
        if not known:
            raise ValueError(f"`preload` must name importable modules, but got {name!r}")


def check_memory(mebibytes: int | None) -> None:
    """Raises a ValueError unless a memory limit is None or positive."""
    if mebibytes is not None and mebibytes < 1:
        raise ValueError(f"`memory` must be at least 1 MiB, or None, but got {mebibytes}")
