"""Where the seconds of a run go: ``python -m benchmarks.run [experiments/x.yaml] [key=value ...]``.

Does the run in a folder that it removes again, watches the executor from outside, and prints for
each phase its wall time and how the time of the workers is shared: at work, being started, idle at
the end of a batch, and idle because the coordinator has not asked for anything. The coordinator's
CPU time stands beside, that of importing apart; the workers have their own.
"""

# Worker processes import this module again as their main module: the rest is imported where it is
# used, as `pathnas.run` does it.
from __future__ import annotations

import argparse
import importlib
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

if TYPE_CHECKING:
    from benchmarks.table import Row
    from pathnas.config import Config
    from pathnas.executors import Executor, Result

BAR = 0.03
"""Share of the wall time that the coordinator may compute; importing is told apart."""

IMPORTS = (
    *("torch._dynamo", "torch.utils.tensorboard", "matplotlib.figure", "sklearn.datasets"),
    "pathnas.experiment",
)
"""What a run imports when it needs it; here before it begins, so that its cost can be told."""


@dataclass
class Watch:
    """What became of the workers' time: seconds by name, of all workers together.

    Attributes:
        slots: how many workers there are.
        spent: seconds by phase and kind.
        phase: that is counted now.
    """

    slots: int
    spent: dict[str, dict[str, float]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(float))
    )
    phase: str = ""

    def batch(self, begun: float, ended: Sequence[tuple[float, Result]]) -> None:
        """Counts the jobs of one call of the executor.

        Args:
            begun: when it was called.
            ended: when each job ended, with its result, in that order.
        """
        if not ended:
            return
        last = ended[-1][0]
        free = self.slots - len(ended)
        idle = sum(last - when for when, _ in ended[-self.slots :]) + max(0, free) * (last - begun)
        work = sum(result.seconds for _, result in ended)
        spent = self.spent[self.phase]
        spent["jobs"] += len(ended)
        spent["batches"] += self.slots * (last - begun)
        spent["work"] += work
        spent["batch_end"] += idle
        spent["start"] += self.slots * (last - begun) - idle - work


def watched(executor: Executor, watch: Watch) -> Executor:
    """Returns the executor, whose `run` is watched from now on."""
    run = executor.run

    def watching(
        function: object, arguments: Iterable[object], **options: object
    ) -> Iterator[tuple[int, Result]]:
        begun, ended = time.perf_counter(), []
        for index, result in run(function, arguments, **options):  # type: ignore[arg-type]
            ended.append((time.perf_counter(), result))
            yield index, result
        watch.batch(begun, ended)

    executor.run = watching  # type: ignore[method-assign,assignment]
    return executor


def measure(settings: Config) -> dict[str, dict[str, float]]:
    """Does a run and returns, by phase, its seconds by kind; ``"run"`` is the whole of it."""
    from pathnas import executors, experiment
    from pathnas.console import Console
    from pathnas.folder import open_run
    from pathnas.jobs import Jobs
    from pathnas.plan import Plan

    watch = Watch(1 if settings.workers.kind == "inline" else settings.workers.count)
    make, phase = executors.executor, Jobs.phase

    def phased(jobs: Jobs, name: str):  # type: ignore[no-untyped-def]
        watch.phase = name
        return phase(jobs, name)

    wall, cpu = time.perf_counter(), time.process_time()
    with (
        mock.patch.object(executors, "executor", lambda **kw: watched(make(**kw), watch)),
        mock.patch.object(Jobs, "phase", phased),
        open_run(settings) as store,
    ):
        experiment.run(Plan.of(settings), store, Console(quiet=True))
        for name in [*watch.spent]:
            watch.spent[name]["wall"] = store.clock.seconds(name)
    whole = watch.spent["run"]
    for kind in ("jobs", "batches", "work", "batch_end", "start"):
        whole[kind] = sum(spent[kind] for name, spent in watch.spent.items() if name != "run")
    whole["wall"] = time.perf_counter() - wall
    for spent in watch.spent.values():
        spent["unasked"] = watch.slots * spent["wall"] - spent.pop("batches")
    whole["coordinator_cpu"] = time.process_time() - cpu
    whole["imports_cpu"] = cpu
    return {name: dict(spent) for name, spent in watch.spent.items()}


def rows(found: dict[str, dict[str, float]]) -> list[Row]:
    """Returns the rows of the one table from what :func:`measure` found, in parts of a hundred."""
    from benchmarks.table import Row

    whole = found["run"]
    kinds = {"work": "at work", "start": "being started", "batch_end": "waiting for a batch's end"}
    everything = sum(whole[kind] for kind in (*kinds, "unasked"))
    computed = 100 * whole["coordinator_cpu"] / whole["wall"]
    return [
        Row("a run: the coordinator computes", "% of wall", computed, aim=100 * BAR, most=True),
        *(Row(f"a run: workers {kinds[k]}", "%", 100 * whole[k] / everything) for k in kinds),
    ]


def main() -> None:
    """Prints the table and the coordinator's share."""
    parser = argparse.ArgumentParser(description="where the seconds of a run go")
    parser.add_argument("experiment", nargs="?", default="experiments/digits.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--json", action="store_true", help="print it as JSON instead")
    parser.add_argument("--rows", help="file for the rows of the one table (JSON)")
    options = parser.parse_args()
    import torch

    from benchmarks import table
    from benchmarks.machine import facts
    from pathnas import config

    for module in IMPORTS:
        importlib.import_module(module)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(config.load(options.experiment, [*options.overrides, f"runs={folder}"]))
    table.save(Path(options.rows) if options.rows else None, rows(found))
    if options.json:
        print(json.dumps(found))
        return
    print(f"{facts()}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'':<10}{'wall s':>9}{'jobs':>6}  workers: work   start  batch end  unasked")
    for name, spent in found.items():
        everything = sum(spent[kind] for kind in ("work", "start", "batch_end", "unasked"))
        shares = [
            f"{spent[kind] / everything:>9.1%}"
            for kind in ("work", "start", "batch_end", "unasked")
        ]
        print(f"{name:<10}{spent['wall']:>9.1f}{spent['jobs']:>6.0f}{'':>5}{''.join(shares)}")
    whole = found["run"]
    print(
        f"coordinator: {whole['imports_cpu']:.1f} s of CPU to import, "
        f"{whole['coordinator_cpu']:.1f} s in the run: "
        f"{whole['coordinator_cpu'] / whole['wall']:.1%} of its wall time (bar: {BAR:.0%})"
    )


if __name__ == "__main__":
    main()
