"""Opening the folder of a run: made or continued, by one process at a time, under one config."""

from __future__ import annotations

import json
import os
import platform
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import pathnas
from pathnas import config as configs
from pathnas import files
from pathnas.config import Config, ConfigError
from pathnas.database import Database, RecordError
from pathnas.store import OWNER, RECORD, Store
from pathnas.yaml_reader import shown

LOCK = ".lock"

MAY_CHANGE = ("workers.", "runs", "data.root", "data.download")
"""Settings that change no bit of what a run finds; a resume may have others."""

MAY_GROW = ("search.trials", "search.hours", "search.trial_hours")
"""Budgets, which a resume may enlarge; null is no limit."""


class FolderInUse(RuntimeError):
    """Another process works on the run."""


def open_run(config: Config, *, new: bool = False) -> Store:
    """Opens the folder of a run, ``runs/name``: made if it is not there, continued if it is.

    Args:
        config: of the run.
        new: begin another run beside those that are there, named ``name-2`` and so on.

    Raises:
        ConfigError: if the run was begun with other settings; names them.
        FolderInUse: if another process works on it.
        RecordError: if its record is damaged, or the folder holds something else.
        OSError: if the folder cannot be made or written.
    """
    runs, name, number = Path(config.runs), config.name, 1
    while new and (runs / config.name).exists():
        number += 1
        config = config.model_copy(update={"name": f"{name}-{number}"})
    path = runs / config.name
    _make(path)
    lock = _lock(path)
    try:
        if (path / RECORD).exists():
            return _continue(path, lock, config)
        return _begin(path, lock, config)
    except BaseException:
        lock.release()
        raise


def config_of(path: Path) -> Config:
    """Returns the config under which a run is carried out, from its record.

    Raises:
        RecordError: if there is no sound record.
        OSError: if it cannot be read.
    """
    database = Database(path / RECORD, readonly=True)
    try:
        return _recorded_config(database)
    finally:
        database.close()


def resumed(path: Path, overrides: Sequence[str] = (), extend: int = 0) -> Config:
    """Returns the config to continue a run with, for :func:`open_run`.

    Args:
        path: folder of the run; it may have been moved.
        overrides: ``a.b.c=value``.
        extend: trials to add to the budget.

    Raises:
        ConfigError: if an override is at fault.
        RecordError: if there is no sound record.
        OSError: if it cannot be read.
    """
    path = path.resolve()
    config = configs.override(config_of(path), overrides)
    if path.name != config.name:
        raise RecordError(
            f"{path} holds the run {config.name!r}: give the folder that name back to continue it"
        )
    search = config.search.model_copy(update={"trials": config.search.trials + extend})
    return config.model_copy(update={"runs": str(path.parent), "search": search})


def _make(path: Path) -> None:
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise FileExistsError(f"{path} is there already, and is no folder")
    path.mkdir(parents=True, exist_ok=True)


def _lock(path: Path) -> FileLock:
    lock = FileLock(path / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            owner = json.loads((path / OWNER).read_text())
            who = f"process {owner['pid']} on {owner['host']}"
        except (OSError, ValueError, KeyError):  # it has only just begun
            who = "another process"
        raise FolderInUse(f"{path} is in use by {who}") from None
    try:
        owner = {"host": socket.gethostname(), "pid": os.getpid()}
        files.write(path / OWNER, json.dumps(owner))
    except BaseException:
        lock.release()
        raise
    return lock


def _begin(path: Path, lock: FileLock, config: Config) -> Store:
    """Makes the record, aside, so that it is there with all it needs or not at all."""
    part = files.aside(path / RECORD)
    begun = list(path.glob(f"{part.name}*"))  # and SQLite's own files beside it
    ours = {LOCK, OWNER, *(entry.name for entry in begun)}
    strange = sorted(entry.name for entry in path.iterdir() if entry.name not in ours)
    if strange:
        raise RecordError(
            f"{path} holds {strange[0]!r} but no run ({RECORD} is missing): choose another name, "
            f"or remove it"
        )
    for leftover in begun:
        leftover.unlink()
    store = Store(path, Database(part, create=True), lock, config)
    store.note(config=config.model_dump(), environment=environment())
    store.database.close()
    files.install(part, path / RECORD)
    for name in ("data", "weights"):
        (path / name).mkdir(exist_ok=True)
    store = Store(path, Database(path / RECORD), lock, config)
    store.event("begun")
    files.write(path / "config.yaml", configs.dump(config))
    return store


def _continue(path: Path, lock: FileLock, config: Config) -> Store:
    database = Database(path / RECORD)
    try:
        store = Store(path, database, lock, config)
        store.resumed = True
        old = _recorded_config(database)
        changed = _changes(path, old, config)
        for name in ("data", "weights"):
            (path / name).mkdir(exist_ok=True)
        with database.transaction():
            database.execute("UPDATE trials SET state = 'pending' WHERE state = 'running'")
        if store.meta("summary") is not None and any(key in MAY_GROW for key in changed):
            store.extend()
        store.notes += _differences(store.meta("environment"))
        if changed:
            store.note(config=config.model_dump())
            store.event("changed", ", ".join(changed))
        files.write(path / "config.yaml", configs.dump(config))
        store.event("resumed")
        return store
    except BaseException:
        database.close()
        raise


def _recorded_config(database: Database) -> Config:
    for row in database.rows("meta", key="config"):
        return configs.restore(json.loads(row["value"]))
    raise RecordError(f"{database.path} is damaged: the config is missing")


def _changes(path: Path, old: Config, new: Config) -> list[str]:
    """Returns the keys that differ and may, or raises with those that may not."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    keys = [key for key in {**before, **after} if before.get(key, ...) != after.get(key, ...)]
    faults = []
    for key in keys:
        values = before.get(key), after.get(key)
        if key in MAY_GROW and _grows(*values):
            continue
        if not key.startswith(MAY_CHANGE):
            smaller = " (a budget can only grow)" if key in MAY_GROW else ""
            faults.append(
                f"{path} was begun with {key}={shown(values[0])}, not {shown(values[1])}{smaller}"
            )
    if faults:
        advice = "continue it as it was begun, or choose another name=..., or begin anew by --new"
        raise ConfigError([*faults, advice])
    return keys


def _grows(old: Any, new: Any) -> bool:
    return new is None or (old is not None and new > old)


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found.update(_flat(value, f"{prefix}{key}."))
        else:
            found[prefix + key] = value
    return found


def environment() -> dict[str, Any]:
    """Returns what decides the bits of a run, beside its config."""
    return {
        "pathnas": pathnas.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _differences(before: dict[str, Any]) -> list[str]:
    now = environment()
    return [
        f"the run was begun with {name} {before.get(name)}, and goes on with {now[name]}: what it "
        f"finds may differ from an uninterrupted run"
        for name in ("pathnas", "torch", "cpu", "threads")
        if before.get(name) != now[name]
    ]
