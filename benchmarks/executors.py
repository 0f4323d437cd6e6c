"""What it costs to run jobs apart: ``python -m benchmarks.executors``.

Equal trainings of a small network run inline, on one thread, and in two processes, in turns; then
jobs that do nothing. The ratio is of times measured in the same run, and says something only on a
machine that has two cores to spare: its load is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import table
from benchmarks.machine import facts
from benchmarks.table import Row
from pathnas import executors
from pathnas.executors import Executor

BAR = 1.8
"""Times as fast as inline that two processes must be on two idle cores."""


def train(steps: int) -> float:
    """Trains a small convolutional network for so many steps and returns the last loss."""
    random = torch.Generator().manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3, padding=1, bias=False),
        torch.nn.ReLU(),
        torch.nn.Conv2d(16, 16, 3, padding=1, bias=False),
        torch.nn.Flatten(),
        torch.nn.Linear(16 * 16 * 16, 10),
    )
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05, generator=random)
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    images = torch.randn(64, 3, 16, 16, generator=random)
    labels = torch.randint(10, (64,), generator=random)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(loss.detach())


def nothing(_: int) -> None:
    """Does nothing."""


def seconds(executor: Executor, function: Callable[[Any], Any], arguments: Sequence[Any]) -> float:
    """Returns the wall time of a batch; every job must succeed."""
    start = time.perf_counter()
    for _, result in executor.run(function, arguments):
        if result.failure is not None:
            raise RuntimeError(result.failure.reason)
    return time.perf_counter() - start


def measure(jobs: int, steps: int, rounds: int) -> dict[str, float]:
    """Returns the medians over rounds, in seconds but for the ratio.

    Args:
        jobs: Of a batch.
        steps: Of each training.
        rounds: Of which each does a batch on every executor.
    """
    inline = executors.Inline()
    start = time.perf_counter()
    with executors.Processes(2, preload=[__name__]) as two, executors.Processes(1) as one:
        seconds(two, nothing, [0])
        found: dict[str, list[float]] = {"start of the server": [time.perf_counter() - start]}
        seconds(inline, train, [1])
        for _ in range(rounds):
            batch = [steps] * jobs
            alone, shared = seconds(inline, train, batch), seconds(two, train, batch)
            found.setdefault("inline", []).append(alone)
            found.setdefault("two processes", []).append(shared)
            found.setdefault("ratio", []).append(alone / shared)
            found.setdefault("job that does nothing", []).append(
                seconds(one, nothing, range(10)) / 10
            )
    return {name: statistics.median(values) for name, values in found.items()}


def rows(found: dict[str, float]) -> list[Row]:
    """Returns the rows of the one table from what :func:`measure` found."""
    two, inline = found["two processes"], found["inline"]
    start, nothing = found["start of the server"], 1e3 * found["job that does nothing"]
    return [
        Row("a batch in two processes", "s", two, "inline", inline, found["ratio"], BAR),
        Row("a job that does nothing", "ms", nothing),
        Row("start of the workers' server", "s", start),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="what it costs to run jobs apart")
    parser.add_argument("--jobs", type=int, default=8, help="of a batch (default: 8)")
    parser.add_argument("--steps", type=int, default=200, help="of each (default: 200)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    table.add_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{facts()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    found = measure(arguments.jobs, arguments.steps, arguments.rounds)
    table.save(arguments.rows, rows(found))
    ratio = found.pop("ratio")
    for name, value in found.items():
        print(f"{name:<24}{1e3 * value:>10.1f} ms")
    print(f"{'two processes are':<24}{ratio:>10.2f} times as fast as inline (bar: {BAR})")


if __name__ == "__main__":
    main()
