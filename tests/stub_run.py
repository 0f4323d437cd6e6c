"""A whole run in half a second: real store, search and controller, trainings replaced by a hash.

Run as a script, it forks one process a run and kills it with SIGKILL at a durable step: before or
after every commit, every fsync, every rename. ``python -m tests.stub_run FOLDER FIRST LAST EVERY
[key=value ...]`` prints one JSON line a kill point: the step, and what differs from the run that
was not killed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import sqlite3
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pathnas import config, evaluators
from pathnas.evaluators import Scoring, Trained, Training
from tests import whole_run

DURABLE = ("BEGIN", "COMMIT")
SMOKE = Path(__file__).parent.parent / "experiments" / "smoke.yaml"
TINY = (
    *("data.train=8", "data.validation=4", "data.test=4", "search.trials=5", "search.episodes=2"),
    *("search.controller.hidden=4", "search.controller.head=4", "search.controller.embedding=2"),
    *("workers.kind=inline", "final.top=1", "final.wider=false", "search.depth=2"),
)


def train(job: Training) -> Trained:
    """Stands in for a training: its result and its file follow from the description."""
    digest = hashlib.sha256(f"{job.seed} {job.tree}".encode()).digest()
    if job.save is not None:
        for path in evaluators.outputs(job):
            path.write_bytes(digest)
    if digest[0] < 20:
        raise FloatingPointError("the loss became nan")
    curve = (1 + digest[4] / 255, digest[5] / 255)
    return Trained(digest[1] / 255, digest[2], digest[3], 0.0, curve)


def score(job: Scoring) -> float:
    """Stands in for a test."""
    return train(job.training).accuracy


def use_stubs() -> None:
    """Replaces the trainings, in this process."""
    evaluators.train = train
    evaluators.score = score


def run(runs: Path, *overrides: str) -> dict[str, Any]:
    """Begins or continues the stub run."""
    return whole_run.run(config.load(SMOKE, [f"runs={runs}", *TINY, *overrides]))


def contents(record: Path) -> dict[str, Any]:
    """All that a record holds, wall time and numbers of attempts aside."""
    left_out = {"time", "seconds", "attempt"}
    learners = {}
    for path in (record.parent / "checkpoints").iterdir():
        learners[path.name] = plain(torch.load(path, weights_only=True))
    found: dict[str, Any] = {"checkpoints": learners}
    connection = sqlite3.connect(record)
    for (table,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'"):
        if table in ("clock", "events", "errors", "learners"):
            continue
        cursor = connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
        names = [column[0] for column in cursor.description]
        rows = [dict(zip(names, values, strict=True)) for values in cursor]
        found[table] = [
            timeless({k: v for k, v in row.items() if k not in left_out}) for row in rows
        ]
    connection.close()
    return found


def timeless(row: dict[str, Any]) -> dict[str, Any]:
    """A row without the seconds that its JSON tells."""
    if row.get("key") == "summary":
        summary = json.loads(row["value"])
        for name in ("seconds", "wall_seconds", "folder"):
            del summary[name]
        for search in summary["searches"].values():
            del search["trial_seconds"]
        return summary
    changed = dict(row)
    for column, name in (("outcome", "seconds"), ("result", "seconds")):
        if column in row:
            values = json.loads(row[column])
            values.pop(name, None)
            if isinstance(values.get("value"), dict):
                values["value"].pop("seconds", None)
            changed[column] = values
            changed.pop("digest", None)
    if row.get("key") == "config":
        changed = {**json.loads(row["value"]), "runs": None}
    return changed


def plain(value: Any) -> Any:
    """A nested state with tensors as their type, shape and bytes."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), list(value.shape), value.numpy().tobytes()
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    return [plain(part) for part in value] if isinstance(value, (list, tuple)) else value


def kill_at(step: int) -> None:
    """Lets this process kill itself just before its durable step of that number."""
    count = 0

    def tick() -> None:
        nonlocal count
        count += 1
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            tick()
            return function(*arguments, **options)

        return call

    def connect(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = original(*arguments, **options)
        connection.set_trace_callback(lambda text: tick() if text.startswith(DURABLE) else None)
        return connection

    original = sqlite3.connect
    sqlite3.connect = connect  # type: ignore[assignment]
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)


def forked(body: Callable[[], None]) -> int:
    """Runs a body in a process of its own; returns its exit code, or minus its signal."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            body()
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(root: Path, first: int, last: int, every: int, *overrides: str) -> None:
    """Prints what each kill point changed."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    use_stubs()
    # In this process: what its children inherit has been imported and is warm.
    run(root / "whole", *overrides)
    whole = contents(root / "whole" / "smoke" / "record.sqlite")

    def killed(runs: Path, step: int) -> None:
        kill_at(step)
        run(runs, *overrides)

    for step in range(first, last, every):
        runs = root / f"killed-{step}"
        code = forked(lambda runs=runs, step=step: killed(runs, step))  # type: ignore[misc]
        ended = code == 0
        code = forked(lambda runs=runs: void(run(runs, *overrides)))  # type: ignore[misc]
        found = contents(runs / "smoke" / "record.sqlite") if code == 0 else {}
        differs = [table for table in whole if found.get(table) != whole[table]]
        print(
            json.dumps({"step": step, "ended": ended, "code": code, "differs": differs}), flush=True
        )
        shutil.rmtree(runs, ignore_errors=True)
        if ended:
            return


def void(value: object) -> None:
    """Takes a value and returns none."""


if __name__ == "__main__":
    main(Path(sys.argv[1]), *map(int, sys.argv[2:5]), *sys.argv[5:])
