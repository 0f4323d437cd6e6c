"""The machine and the versions beside every number; light, since worker processes import it."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import torch


def facts() -> str:
    """Returns one line on the machine and the versions."""
    return (
        f"{processor()}, {torch.backends.cpu.get_cpu_capability()}, "
        f"{torch.get_num_threads()} thread, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def processor() -> str:
    """Returns the name of the processor, as well as the system knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def rate(side: int = 1024, repetitions: int = 9) -> float:
    """Returns what torch's matrix products of floats reach here, in operations a second.

    Median of CPU time, with the threads that torch is set to. A multiplication and an addition are
    two operations.
    """
    a, b = torch.ones(side, side), torch.ones(side, side)
    torch.mm(a, b)
    found = []
    for _ in range(repetitions):
        start = time.process_time()
        torch.mm(a, b)
        found.append(2 * side**3 / (time.process_time() - start))
    return statistics.median(found)


@dataclass(frozen=True)
class Facts:
    """What a table was measured on.

    Attributes:
        processor: its name.
        capability: the instructions that torch uses.
        cores: of the machine.
        load: average of the last minute, before the first benchmark and after the last.
        torch: its version.
        python: its version.
        commit: of the checkout; a plus sign behind it: with changes; empty: unknown.
        date: when the last benchmark ended, UTC.
    """

    processor: str
    capability: str
    cores: int
    load: tuple[float, float]
    torch: str
    python: str
    commit: str
    date: str

    @classmethod
    def now(cls, load_before: float) -> Facts:
        """Returns those of this moment."""
        return cls(
            processor(),
            torch.backends.cpu.get_cpu_capability(),
            os.cpu_count() or 1,
            (round(load_before, 1), round(os.getloadavg()[0], 1)),
            torch.__version__,
            platform.python_version(),
            commit(),
            time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
        )

    def line(self) -> str:
        """Returns all of them in one line."""
        return (
            f"{self.processor}, {self.capability}, {self.cores} cores, load {self.load[0]} to "
            f"{self.load[1]}, torch {self.torch}, Python {self.python}, commit "
            f"{self.commit or 'unknown'}, {self.date}"
        )


def commit() -> str:
    """Returns the checkout's commit, with a plus sign if files differ; empty outside of one."""
    here = Path(__file__).parent
    try:
        head, changes = (
            subprocess.run(
                ["git", *command], cwd=here, capture_output=True, text=True, check=True
            ).stdout.strip()
            for command in (
                ["rev-parse", "--short", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head + ("+" if changes else "")
