"""What the record of a run says at one moment, for whoever wants to look at it.

A reader: the record is opened read-only and read in one transaction, so that the writer of a live
run is neither blocked nor seen halfway through a change, and nothing is left beside it.
"""

from __future__ import annotations

import json
import os
import socket
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pathnas import results
from pathnas.database import Database, RecordError, look
from pathnas.search import place
from pathnas.store import OWNER, RECORD

SEARCHES = ("search", "control")
PHASES = ("base", "search", "control", "full", "test")
"""Of a run, in order; their seconds are in :attr:`Facts.seconds`."""


@dataclass(frozen=True)
class Facts:
    """A run, as its record had it.

    Attributes:
        path: of its folder.
        config: as nested dictionaries, defaults included.
        summary: as in ``summary.json``; None while the run has not ended.
        environment: what the run was begun with.
        ancestors: networks that its base has grown from, of :func:`pathnas.rounds.ancestors`.
        trials: rows as of :func:`pathnas.results.trials`, by search, in order of proposal.
        trees: of these trials, as JSON text, by key.
        curves: mean training losses of the trials' epochs, by search and number, where known.
        updates: by search, in order, each with `number`, `episodes`, `rewards`, `metrics`,
            `time` and `seconds`.
        trainings: of the full trainings done, by name: `accuracy`, `seconds` and `curve`, the mean
            training losses of the epochs, empty where they are not known.
        events: what happened to the run, each with `time` (POSIX seconds), `kind` and `text`.
        errors: each with `time`, `job`, `status`, `reason` and `traceback`.
        seconds: by phase, at the last commit; ``"run"`` is all of them.
        owner: who works on the run, as far as one can see: `host` and `pid`; None: nobody.
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any] | None
    environment: dict[str, Any]
    ancestors: list[dict[str, Any]]
    trials: dict[str, list[dict[str, Any]]]
    trees: dict[str, str]
    curves: dict[tuple[str, int], tuple[float, ...]]
    updates: dict[str, list[dict[str, Any]]]
    trainings: dict[str, dict[str, Any]]
    events: list[dict[str, Any]]
    errors: list[dict[str, Any]]
    seconds: dict[str, float]
    owner: dict[str, Any] | None

    @property
    def name(self) -> str:
        """Of the run."""
        return str(self.config["name"])

    @property
    def state(self) -> str:
        """``"ended"``, ``"running"`` or ``"broken off"``."""
        if self.summary is not None:
            return "ended"
        return "running" if self.owner is not None else "broken off"

    @property
    def phase(self) -> str:
        """The latest phase that has begun; ``"data"`` before all of them."""
        return next((name for name in reversed(PHASES) if name in self.seconds), "data")

    def sound(self, search: str) -> list[dict[str, Any]]:
        """Returns the trials of a search that ended well, in order of proposal."""
        return [row for row in self.trials.get(search, []) if row["status"] == "ok"]

    def best(self, search: str = "search", count: int = 1) -> list[dict[str, Any]]:
        """Returns the trials that ended well, best first; see :func:`pathnas.search.place`."""
        rows = self.sound(search)
        found = sorted(rows, key=lambda row: place(row["stopped"], row["reward"], row["number"]))
        return found[:count]

    def failures(self, search: str) -> Counter[str]:
        """Returns how many trials of a search failed, by status."""
        rows = self.trials.get(search, [])
        return Counter(row["status"] for row in rows if row["status"] not in (None, "ok"))

    def states(self, search: str) -> Counter[str]:
        """Returns how many trials of a search are ``pending``, ``running``, ``ok`` or failed."""
        rows = self.trials.get(search, [])
        return Counter(row["status"] or row["state"] for row in rows)


def read(run: str | Path) -> Facts:
    """Reads the record of a run, finished or not.

    Args:
        run: folder of the run.

    Raises:
        RecordError: if there is no sound record.
        OSError: if it cannot be read.
    """
    path = Path(run)

    def reader(database: Database) -> Facts:
        with database.understanding("the run"):
            return _read(path, database)

    return look(path / RECORD, reader)


def _read(path: Path, database: Database) -> Facts:
    meta = {row["key"]: json.loads(row["value"]) for row in database.rows("meta")}
    if "config" not in meta:
        raise RecordError(f"{database.path} is damaged: the config is missing")
    rows = results.rows(database)
    trees = {row["key"]: row["tree"] for row in database.rows("trials")}
    curves = {}
    for row in database.rows("outcomes"):
        losses = json.loads(row["outcome"]).get("curve", ())  # older records have none
        curves[row["search"], row["number"]] = tuple(float(loss) for loss in losses)
    updates: dict[str, list[dict[str, Any]]] = {name: [] for name in SEARCHES}
    for row in database.rows("updates", "search, number"):
        decoded = {name: json.loads(row[name]) for name in ("episodes", "rewards", "metrics")}
        updates.setdefault(row["search"], []).append({**row, **decoded})
    trainings = {}
    for row in database.rows("trainings"):
        result = json.loads(row["result"])
        if "value" not in result:
            continue  # of a rung of halving: no training of the run, but a part of a trial
        value = result["value"]
        known = value if isinstance(value, dict) else {"accuracy": value}  # a number: of a test
        trainings[row["name"]] = {
            "accuracy": known["accuracy"],
            "seconds": result["seconds"],
            "curve": tuple(float(loss) for loss in known.get("curve", ())),
        }
    return Facts(
        path=path,
        config=meta["config"],
        summary=meta.get("summary"),
        environment=meta.get("environment", {}),
        ancestors=meta.get("ancestors") or [],
        trials={name: [row for row in rows if row["search"] == name] for name in SEARCHES},
        trees=trees,
        curves={place: curve for place, curve in curves.items() if curve},
        updates=updates,
        trainings=trainings,
        events=list(database.rows("events", "number")),
        errors=list(database.rows("errors", "number")),
        seconds={row["phase"]: row["seconds"] for row in database.rows("clock")},
        owner=_owner(path),
    )


def _owner(path: Path) -> dict[str, Any] | None:
    """Returns who says that they work on a run, unless that process is known to have gone.

    The lock is not tried: for that moment, its owner could not take it.
    """
    try:
        owner = json.loads((path / OWNER).read_text())
        pid, here = int(owner["pid"]), owner["host"] == socket.gethostname()
    except (OSError, ValueError, KeyError, TypeError):  # nobody, or just going
        return None
    if here:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:  # there, and another user's
            pass
    return {"host": owner["host"], "pid": pid}
