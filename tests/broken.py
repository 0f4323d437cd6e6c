"""Run folders to break, and tools to break them with."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from pathnas import evaluators, run
from pathnas.database import digest
from tests import stub_run

Break = Callable[[Path], Any]


def command(runs: Path, *more: str) -> int:
    """Begins or continues the stub run by the command line; returns its exit code."""
    return run.main([str(stub_run.SMOKE), *stub_run.TINY, f"runs={runs}", *more])


def snapshots(runs: Path, into: Path) -> int:
    """Does a stub run, and copies its folder, as a crash would leave it, before each training."""
    count = 0

    def train(job: evaluators.Training) -> evaluators.Trained:
        nonlocal count
        shutil.copytree(runs, into / str(count))
        count += 1
        return stub_run.train(job)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluators, "train", train)
        assert command(runs, "--quiet") == 0
    return count


@contextmanager
def opened(folder: Path) -> Iterator[sqlite3.Connection]:
    """The record of a run, to be changed behind its back."""
    with closing(sqlite3.connect(folder / "record.sqlite", isolation_level=None)) as connection:
        yield connection


def sql(*statements: str) -> Break:
    """Executes statements, each of which changes something."""

    def change(folder: Path) -> None:
        with opened(folder) as connection:
            for statement in statements:
                assert connection.execute(statement).rowcount != 0, statement

    return change


def resealed(table: str, where: str, **values: Any) -> Break:
    """Changes a row and its digest with it, as one would who wishes ill."""

    def change(folder: Path) -> None:
        with opened(folder) as connection:
            connection.row_factory = sqlite3.Row
            query = f"SELECT rowid AS place, * FROM {table} WHERE {where}"
            row = dict(connection.execute(query).fetchone())
            place = row.pop("place")
            row |= {k: v(row[k]) if callable(v) else v for k, v in values.items()}
            row["digest"] = digest(table, row)
            names = ", ".join(f"{name} = ?" for name in row)
            statement = f"UPDATE {table} SET {names} WHERE rowid = ?"
            connection.execute(statement, [*row.values(), place])

    return change


def written(name: str, content: bytes | str) -> Break:
    """Puts a content into a file."""

    def change(folder: Path) -> None:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def flipped(name: str) -> Break:
    """Flips a bit in the middle of a file."""

    def change(folder: Path) -> None:
        content = bytearray((folder / name).read_bytes())
        content[len(content) // 2] ^= 16
        (folder / name).write_bytes(content)

    return change


def truncated(name: str, size: float) -> Break:
    """Cuts a file to a share of its size, or takes bytes away if `size` is negative."""

    def change(folder: Path) -> None:
        whole = (folder / name).stat().st_size
        os.truncate(folder / name, whole + int(size) if size < 0 else int(whole * size))

    return change


def removed(name: str) -> Break:
    """Removes a file or a folder."""

    def change(folder: Path) -> None:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


class Malicious:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def marker(folder: Path) -> Path:
    """Where loading a malicious pickle of a run's folder leaves its trace."""
    return folder.parent / "pickle-was-loaded"


def malicious(folder: Path) -> bytes:
    """Bytes that do harm if they are unpickled."""
    return pickle.dumps(Malicious(marker(folder)))


def state_of(folder: Path) -> dict[str, bytes]:
    """The bytes of the files that hold what a run has found, beside its record."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in ("summary.json", "weights", "data", "checkpoints", "best")
        for path in [folder / name, *(folder / name).rglob("*")]
        if path.is_file()
    }


def plain_json(text: str, **values: Any) -> str:
    """A JSON mapping with other values."""
    return json.dumps({**json.loads(text), **values})
