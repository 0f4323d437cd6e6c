"""The durable record of a run: one folder, one writer, and all that a resume needs.

``record.sqlite`` is the record: trials, outcomes, updates, full trainings,
events and errors. Beside it stand ``checkpoints/`` (states of the learners), ``config.yaml`` (for
people), ``data/`` (prepared sets), ``weights/`` (of full trainings), ``tensorboard/``,
``trials.csv``, ``best/`` and ``summary.json``. The record vouches for checkpoints and weights; the
rest is made again from it at any time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import BaseModel

from pathnas import files
from pathnas.clock import Clock
from pathnas.config import Config
from pathnas.config_recipes import LATER
from pathnas.database import Database
from pathnas.tree import Node

RECORD = "record.sqlite"
OWNER = ".owner.json"


class Store:
    """The open record of a run; a context manager, which gives the folder free again.

    :func:`pathnas.folder.open_run` opens one.

    Attributes:
        path: of the folder.
        config: of the run, as it is carried out now.
        clock: seconds by phase.
        resumed: whether the run was begun earlier.
        notes: what a person should know of how the record was opened.
    """

    def __init__(self, path: Path, database: Database, lock: FileLock, config: Config) -> None:
        self.path = path
        self.database = database
        self.config = config
        self.clock = Clock(database)
        self.resumed = False
        self.notes: list[str] = []
        self._lock = lock

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.database.close()
            (self.path / OWNER).unlink(missing_ok=True)
        finally:
            self._lock.release()

    def meta(self, key: str) -> Any:
        """Returns what was noted under a key, or None."""
        for row in self.database.rows("meta", key=key):
            with self.database.understanding(f"the {key}"):
                return json.loads(row["value"])
        return None

    def note(self, **values: Any) -> None:
        """Commits values that JSON can hold under their keys."""
        with self.database.transaction():
            for key, value in values.items():
                self.database.put("meta", replace=True, key=key, value=json.dumps(value))

    def event(self, kind: str, text: str = "") -> None:
        """Commits what happened to the run."""
        with self.database.transaction():
            self.database.put("events", time=time.time(), kind=kind, text=text)

    def trained(self, name: str, job: str, outputs: Sequence[Path]) -> dict[str, Any] | None:
        """Returns the result of a training that was done, or None if it has to be done.

        Args:
            name: of the training.
            job: its fingerprint; the result of another job is no result.
            outputs: files that it wrote; where one is missing or damaged, that is noted, and there
                is no result.
        """
        for row in self.database.rows("trainings", name=name):
            if row["job"] != job:
                return None
            with self.database.understanding(f"the training {name}"):
                digests = list(zip(outputs, json.loads(row["outputs"]), strict=True))
                result: dict[str, Any] = dict(json.loads(row["result"]))
            for path, digest in digests:
                if not path.is_file() or files.digest(path) != digest:
                    state = "damaged" if path.is_file() else "missing"
                    self.notes.append(f"{path} is {state}: {name} is done again")
                    return None
            return result
        return None

    def put_training(
        self, name: str, job: str, result: Mapping[str, Any], outputs: Sequence[Path]
    ) -> None:
        """Commits the result of a training, after its files are on the disk."""
        digests = [files.digest(path) for path in outputs]
        with self.database.transaction():
            self.database.put(
                "trainings",
                replace=True,
                name=name,
                job=job,
                result=json.dumps(result),
                outputs=json.dumps(digests),
            )

    def extend(self) -> None:
        """Forgets what follows from the budget: the control, and that the run has ended."""
        with self.database.transaction():
            for table in ("episodes", "trials", "outcomes", "updates", "learners", "generators"):
                self.database.execute(f"DELETE FROM {table} WHERE search = 'control'")
            self.database.execute("DELETE FROM meta WHERE key = 'summary'")
            self.database.execute("DELETE FROM trainings WHERE name LIKE 'test of %'")
            self.database.execute("DELETE FROM trainings WHERE name LIKE 'control %, % epochs'")


def fingerprint(job: Any) -> str:
    """Returns a digest of a dataclass that describes a job, by what decides its result.

    Where its files stand does not, nor do fields with the metadata ``{"decides": False}``. Those
    with ``{"later": True}``, and settings with :data:`pathnas.config_recipes.LATER`, came later, so
    that by their defaults a job is what it was before.
    """

    def decides(field: dataclasses.Field[Any], value: Any) -> bool:
        before = field.metadata.get("later", False) and getattr(value, field.name) == field.default
        return field.metadata.get("decides", True) and not before

    def plain(value: Any) -> Any:
        if isinstance(value, Path):
            return value.name
        if isinstance(value, Node):
            return str(value)
        if isinstance(value, BaseModel):
            return value.model_dump(exclude=_unused(value))
        if dataclasses.is_dataclass(value):
            return {
                f.name: getattr(value, f.name)
                for f in dataclasses.fields(value)
                if decides(f, value)
            }
        return repr(value)

    return hashlib.sha256(json.dumps(job, default=plain, sort_keys=True).encode()).hexdigest()


def _unused(settings: BaseModel) -> set[str]:
    """Returns the names of settings that came later and have their defaults."""
    fields = type(settings).model_fields
    return {
        name
        for name, field in fields.items()
        if field.json_schema_extra == LATER and getattr(settings, name) == field.default
    }
