"""What the record of a run costs: milliseconds a trial and a checkpoint, seconds to open.

``python -m benchmarks.record`` writes the trials of a long search with the controller of the paper
and prints, as JSON: a trial (proposed, started, finished, each in a transaction of its own), an
update (with the state of controller and optimizer), both after the given number of trials, and
opening the record then. The reference for each is a plain file of the same bytes, written and
synced.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks import table
from benchmarks.table import Row
from pathnas import controllers
from pathnas.controllers.rollout import rollout
from pathnas.database import Database
from pathnas.ledger import Ledger
from pathnas.limits import Limits
from pathnas.outcomes import Outcome
from pathnas.search import Progress, Trial, Update


def seconds(action: Callable[[], Any]) -> float:
    """Returns the wall time of a call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def synced(path: Path, size: int) -> None:
    """Writes a file of so many bytes and waits for the disk."""
    with open(path, "wb") as file:
        file.write(b"x" * size)
        file.flush()
        os.fsync(file.fileno())


def measure(folder: Path, trials: int, episodes: int) -> dict[str, float]:
    """Returns what a search of so many trials costs, by name."""
    limits = Limits(depth=3)
    learner = controllers.make("reinforce", limits.actions, seed=0)
    generator = torch.Generator().manual_seed(0)
    database = Database(folder / "record.sqlite", create=True)
    ledger, progress = Ledger(database, "search", limits), Progress()
    of_trial: list[float] = []
    of_update: list[float] = []
    first = rollout(learner.controller, limits, episodes, generator)
    learner.update(first, [0.5] * episodes)  # the optimizer has its moments from now on
    while len(progress.record.trials) < trials:
        rolled = rollout(learner.controller, limits, episodes, generator)
        known = progress.record.trials.__contains__
        proposal = progress.propose(rolled, known)
        spent = seconds(lambda p=proposal: ledger.propose(p, generator))  # type: ignore[misc]
        new = []
        for number, candidate in enumerate(proposal.fresh, start=proposal.trial):
            outcome = Outcome("ok", 0.9, 10**6, 10**4, 1.0, 1000, 7)

            def finish(number: int = number, outcome: Outcome = outcome) -> None:
                ledger.finish(number, ledger.start(number), outcome, 0.9)

            of_trial.append(seconds(finish) + spent / max(1, len(proposal.fresh)))
            new.append(Trial(number, proposal.update, candidate, outcome, 0.9))
        progress.record.trials.update({trial.candidate.key: trial for trial in new})
        numbers = list(range(proposal.number, proposal.number + episodes))
        update = Update(progress.updates, numbers, [0.9] * episodes, new, {"loss": 1.0})
        of_update.append(seconds(lambda u=update: ledger.learned(u, learner, 1.0)))  # type: ignore[misc]
        progress.learned(update)
    size = max(path.stat().st_size for path in folder.glob("checkpoints/*"))
    database.close()

    def reopen() -> None:
        opened = Database(folder / "record.sqlite")
        fresh = controllers.make("reinforce", limits.actions, seed=0)
        found = Ledger(opened, "search", limits).resume(fresh, torch.Generator())
        assert len(found.progress.record.trials) == len(progress.record.trials)
        opened.close()

    last = max(10, len(of_update) // 10)
    plain = [seconds(lambda: synced(folder / "plain", size)) for _ in range(10)]
    small = [seconds(lambda: synced(folder / "plain", 2048)) for _ in range(10)]
    return {
        "trials": len(progress.record.trials),
        "trial_ms": 1e3 * statistics.median(of_trial[-10 * last :]),
        "trial_reference_ms": 3e3 * statistics.median(small),
        "checkpoint_ms": 1e3 * statistics.median(of_update[-last:]),
        "checkpoint_reference_ms": 1e3 * statistics.median(plain),
        "checkpoint_megabytes": size / 1e6,
        "open_seconds": min(seconds(reopen) for _ in range(3)),
    }


def rows(found: dict[str, float]) -> list[Row]:
    """Returns the rows of the one table from what :func:`measure` found; the aims are absolute."""
    after, file = f"after {found['trials']:.0f}", "a plain file, synced"
    trial, update, opening = found["trial_ms"], found["checkpoint_ms"], found["open_seconds"]
    files = found["trial_reference_ms"], found["checkpoint_reference_ms"]
    return [
        Row(f"recording a trial, {after}", "ms", trial, file, files[0], aim=10.0, most=True),
        Row(f"a checkpoint, {after}", "ms", update, file, files[1], aim=50.0, most=True),
        Row(f"opening a record, {after}", "s", opening, aim=1.0, most=True),
    ]


def main() -> None:
    """Prints the costs at two lengths of a search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--episodes", type=int, default=10)
    table.add_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = []
    for trials in options.trials:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            found = measure(Path(folder), trials, options.episodes)
        print(json.dumps({name: round(value, 3) for name, value in found.items()}), flush=True)
        every += rows(found)
    table.save(options.rows, every)


if __name__ == "__main__":
    main()
