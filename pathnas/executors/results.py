"""What becomes of a job: a value, or a failure with a status that says of which kind."""

from __future__ import annotations

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Any, Literal

Status = Literal["failed", "out_of_memory", "diverged", "timed_out", "crashed"]
Results = Generator[tuple[int, "Result"], None, None]

_TRACEBACK_BYTES = 2048
_REASON_CHARACTERS = 300
# What is said when the allocator of torch, operator new, or the loader of a library got nothing.
_NO_MEMORY = ("DefaultCPUAllocator", "bad_alloc", "Cannot allocate memory")
# The words of the C library; those who write from other languages pass them on without the number.
_NO_SPACE = (os.strerror(errno.ENOSPC), os.strerror(errno.EDQUOT))


@dataclass(frozen=True)
class Failure:
    """Why a job has no value.

    Attributes:
        status: ``failed`` (it raised), ``out_of_memory``, ``diverged`` (it raised
            FloatingPointError), ``timed_out`` or ``crashed`` (its process died).
        reason: One line for a person.
        traceback: The end of the traceback, at most 2 kB; of a worker that died, the end of what it
            wrote to standard error, at most 4 kB; empty if there is none.
    """

    status: Status
    reason: str
    traceback: str = ""

    @property
    def disk_full(self) -> bool:
        """Whether there was no room to write: the fault of the machine, not of the job."""
        return any(sign in self.reason for sign in _NO_SPACE)


@dataclass(frozen=True)
class Result:
    """What became of a job: a value, or a failure and the value None.

    Attributes:
        value: What the function returned.
        failure: Why there is no value.
        seconds: Wall time of the job itself, without the cost of starting it; of the last
            attempt, if there were several.
        attempts: How often the job was tried; more than once only after crashes.
    """

    value: Any | None
    failure: Failure | None
    seconds: float
    attempts: int = 1

    def of_attempt(self, attempt: int) -> Result:
        """Returns the result of a job that was tried so often; a crash says so in its reason."""
        failure = self.failure
        if attempt > 1 and failure is not None and failure.status == "crashed":
            failure = replace(failure, reason=f"{failure.reason}; tried {attempt} times")
        return replace(self, failure=failure, attempts=attempt)

    def check_disk(self, title: str) -> None:
        """Raises OSError if the job, named by its title, failed because a disk is full."""
        if self.failure is not None and self.failure.disk_full:
            raise OSError(
                f"{title}: {self.failure.reason}; make room and start the run again: what was "
                f"done is kept"
            )


def failed(status: Status, reason: str, seconds: float = 0.0) -> Result:
    """Returns the result of a job that failed without an exception."""
    return Result(None, Failure(status, reason[:_REASON_CHARACTERS]), seconds)


def attempt(function: Callable[..., Any], *arguments: Any) -> Result:
    """Calls the function and turns what it raises, Ctrl-C aside, into a failure."""
    start = time.monotonic()
    try:
        value = function(*arguments)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: a job must not end the coordinator
        seconds = time.monotonic() - start
        return Result(None, failure(error), seconds)
    return Result(value, None, time.monotonic() - start)


def refused(what: str, tried: Result) -> Result:
    """Returns a failed attempt as the failure of a job for the reason `what`."""
    assert tried.failure is not None
    reason = f"{what}: {tried.failure.reason}"[:_REASON_CHARACTERS]
    return Result(None, Failure("failed", reason, tried.failure.traceback), tried.seconds)


def failure(error: BaseException) -> Failure:
    """Describes an exception, and lets go of what its frames hold."""
    # The frames hold the tensors that filled the memory; let go of them before formatting.
    traceback.clear_frames(error.__traceback__)
    described = traceback.TracebackException.from_exception(error)
    reason = " ".join(f"{type(error).__name__}: {described}".split())
    reason = reason.rstrip(":")[:_REASON_CHARACTERS]  # an error without a message has no colon
    text = "".join(described.format()).encode(errors="replace")[-_TRACEBACK_BYTES:]
    return Failure(_status(error, str(described)), reason, text.decode(errors="ignore"))


def _status(error: BaseException, message: str) -> Status:
    torch = sys.modules.get("torch")  # whoever raises its error has imported it
    cuda = (torch.OutOfMemoryError,) if torch is not None else ()
    if isinstance(error, (MemoryError, *cuda)):
        return "out_of_memory"
    if isinstance(error, RuntimeError | ImportError) and any(
        sign in message for sign in _NO_MEMORY
    ):
        return "out_of_memory"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "out_of_memory"
    return "diverged" if isinstance(error, FloatingPointError) else "failed"
