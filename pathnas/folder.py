"""Opening the folder of a run: made or continued, by one process at a time, under one config."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

import pathnas
from pathnas import config as configs
from pathnas import files, rounds
from pathnas.config import Config, ConfigError
from pathnas.database import Database, RecordError, look
from pathnas.dotted import flattened
from pathnas.store import OWNER, RECORD, Store
from pathnas.yaml_reader import shown

LOCK = ".lock"

MAY_CHANGE = ("workers.", "runs", "data.root", "data.download", "search.rounds", "base.grown")
"""Settings that change no bit of what a run finds; a resume may have others."""

MAY_GROW = ("search.trials", "search.hours", "search.trial_hours")
"""Budgets, which a resume may enlarge; null is no limit."""


SETTLE = """
UPDATE trials SET state = iif(ended, 'done', 'pending')
FROM (SELECT t.rowid AS place, o.number IS NOT NULL AS ended FROM trials AS t
      LEFT JOIN outcomes AS o ON o.search = t.search AND o.number = t.number)
WHERE trials.rowid = place AND state <> iif(ended, 'done', 'pending')
"""
"""What ran when the process before this one died is run again."""


class FolderInUse(RuntimeError):
    """Another process works on the run."""


def another(config: Config) -> Config:
    """Returns the config of a run beside those that are there, named ``name-2`` and so on."""
    name, number = config.name, 1
    while (Path(config.runs) / config.name).exists():
        number += 1
        config = config.model_copy(update={"name": f"{name}-{number}"})
    return config


def open_run(config: Config) -> Store:
    """Opens the folder of a run, ``runs/name``: made if it is not there, continued if it is.

    Args:
        config: of the run.

    Raises:
        ConfigError: if the run was begun with other settings; names them.
        FolderInUse: if another process works on it.
        RecordError: if its record is damaged, or the folder holds something else.
        OSError: if the folder cannot be made or written.
    """
    path = Path(config.runs) / config.name
    _make(path)
    _check_ours(path)
    lock = _lock(path)
    try:
        if (path / RECORD).exists():
            return _continue(path, lock, config)
        return _begin(path, lock, config)
    except BaseException:
        try:
            (path / OWNER).unlink(missing_ok=True)
        finally:
            lock.release()
        raise


def config_of(path: Path) -> Config:
    """Returns the config under which a run is carried out, from its record.

    Raises:
        RecordError: if there is no sound record.
        OSError: if it cannot be read.
    """
    return look(path / RECORD, _recorded_config)


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
        except (OSError, ValueError, KeyError, TypeError):  # it has only just begun
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
    for name in _parts():
        (path / name).unlink(missing_ok=True)
    with closing(Database(part, create=True)) as database:
        Store(path, database, lock, config).note(
            config=config.model_dump(),
            environment=environment(),
            ancestors=rounds.ancestors(config.base),
        )
    files.install(part, path / RECORD)
    for name in ("data", "weights"):
        (path / name).mkdir(exist_ok=True)
    database = Database(path / RECORD)
    try:
        store = Store(path, database, lock, config)
        store.event("begun")
        files.write(path / "config.yaml", configs.dump(config))
        return store
    except BaseException:
        database.close()
        raise


def _parts() -> set[str]:
    """Names of a record that is being made, and of what SQLite puts beside it."""
    name = files.aside(Path(RECORD)).name
    return {name, *(f"{name}-{kind}" for kind in ("journal", "wal", "shm"))}


def _check_ours(path: Path) -> None:
    """Refuses a folder that holds something else, and leaves no trace in it."""
    names = {entry.name for entry in path.iterdir()}
    strange = names - {LOCK, OWNER, files.aside(Path(OWNER)).name} - _parts()
    if RECORD not in names and strange:
        raise RecordError(
            f"{path} holds {min(strange)!r} but no run ({RECORD} is missing): choose another name, "
            f"or remove it"
        )


def _sweep(path: Path) -> None:
    """Removes what a process that was killed had begun to write."""
    for pattern in (".*.part", "weights/.*", "checkpoints/.*", "data/.*"):
        for leftover in path.glob(pattern):
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()


def _continue(path: Path, lock: FileLock, config: Config) -> Store:
    database = Database(path / RECORD)
    try:
        store = Store(path, database, lock, config)
        store.resumed = True
        old = _recorded_config(database)
        changed = _changes(path, old, config)
        _check_ancestors(store, config)
        for name in ("data", "weights"):
            (path / name).mkdir(exist_ok=True)
        with database.understanding("the environment"):
            store.notes += _differences(dict(store.meta("environment")))
        _sweep(path)
        with database.transaction():
            database.execute(SETTLE)
        if any(key in MAY_GROW for key in changed):
            store.extend()
        if changed:
            store.note(config=config.model_dump())
            store.event("changed", ", ".join(changed))
        files.write(path / "config.yaml", configs.dump(config))
        store.event("resumed")
        return store
    except BaseException:
        database.close()
        raise


def _check_ancestors(store: Store, config: Config) -> None:
    """Refuses a base network that has grown from others than those that the run began with."""
    found, noted = rounds.ancestors(config.base), store.meta("ancestors") or []
    if [one["weights"] for one in noted] != [one["weights"] for one in found]:
        raise RecordError(
            f"{store.path} was begun with another network to grow from: that of "
            f"{config.base.grown} has changed since"
        )


def _recorded_config(database: Database) -> Config:
    for row in database.rows("meta", key="config"):
        with database.understanding("the config"):
            return configs.restore(json.loads(row["value"]))
    raise RecordError(f"{database.path} is damaged: the config is missing")


def _changes(path: Path, old: Config, new: Config) -> list[str]:
    """Returns the keys that differ and may, or raises with those that may not."""
    before, after = flattened(old.model_dump()), flattened(new.model_dump())
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
