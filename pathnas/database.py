"""The SQLite file of a run: its schema, its transactions, and rows that vouch for themselves.

SQLite does not notice a flipped bit, so every row carries the SHA-256 of its values. One process
writes; readers never block it (write-ahead log), and what a transaction has committed survives a
power failure (``synchronous=FULL``).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pathnas import interrupts

Found = TypeVar("Found")

VERSION = 1
"""Of the schema; a file of another version is refused."""

APPLICATION = 0x504E4153
"""``PRAGMA application_id``: tells our files from other people's."""

SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, digest TEXT NOT NULL);
CREATE TABLE clock (phase TEXT PRIMARY KEY, seconds REAL NOT NULL);
CREATE TABLE events (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, kind TEXT NOT NULL, text TEXT NOT NULL
);
CREATE TABLE errors (
    number INTEGER PRIMARY KEY, time REAL NOT NULL, job TEXT NOT NULL, status TEXT NOT NULL,
    reason TEXT NOT NULL, traceback TEXT NOT NULL
);
CREATE TABLE episodes (
    search TEXT NOT NULL, number INTEGER NOT NULL, batch INTEGER NOT NULL,
    proposed INTEGER NOT NULL, actions TEXT NOT NULL, key TEXT NOT NULL, fresh INTEGER NOT NULL,
    digest TEXT NOT NULL,
    PRIMARY KEY (search, number)
);
CREATE TABLE trials (
    search TEXT NOT NULL, number INTEGER NOT NULL, proposed INTEGER NOT NULL,
    key TEXT NOT NULL, tree TEXT NOT NULL, digest TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'pending', attempt INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (search, number), UNIQUE (search, key)
);
CREATE TABLE outcomes (
    search TEXT NOT NULL, number INTEGER NOT NULL, status TEXT NOT NULL, outcome TEXT NOT NULL,
    reward REAL NOT NULL, copied INTEGER NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (search, number)
);
CREATE TABLE updates (
    search TEXT NOT NULL, number INTEGER NOT NULL, episodes TEXT NOT NULL,
    rewards TEXT NOT NULL, metrics TEXT NOT NULL, digest TEXT NOT NULL,
    time REAL NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (search, number)
);
CREATE TABLE learners (
    search TEXT NOT NULL, number INTEGER NOT NULL, sha256 TEXT NOT NULL, digest TEXT NOT NULL,
    PRIMARY KEY (search, number)
);
CREATE TABLE generators (search TEXT PRIMARY KEY, state BLOB NOT NULL, digest TEXT NOT NULL);
CREATE TABLE trainings (
    name TEXT PRIMARY KEY, job TEXT NOT NULL, result TEXT NOT NULL, outputs TEXT NOT NULL,
    digest TEXT NOT NULL
);
"""

UNSIGNED = {"digest", "state", "attempt", "time", "seconds"}
"""Columns that no digest covers: what changes after a row is written, and wall time. The `state` of
`generators`, bytes, is covered."""


class RecordError(RuntimeError):
    """The record of a run cannot be used: damaged, of another version, or no record at all."""


class Database:
    """A connection to the file of a run.

    Args:
        path: of the file.
        create: make it; otherwise it must exist.
        readonly: only look, and never wait for the writer. Where no writer is seen, what one that
            comes meanwhile does is not noticed: use :func:`look`.

    Attributes:
        before_commit: called at the end of each transaction, within it.
        alone: whether the file is read as one that nobody writes.

    Raises:
        RecordError: if the file is no record, is damaged, or is of another version.
        OSError: if it cannot be read, or be made.
    """

    def __init__(self, path: Path, *, create: bool = False, readonly: bool = False) -> None:
        self.path = path
        self.before_commit: Callable[[], None] = lambda: None
        if not create and not path.is_file():
            raise RecordError(f"{path.parent} holds no run: {path.name} is missing")
        # SQLite would make files beside a record at rest, and a reader cannot remove them.
        self.alone = readonly and not _log(path).exists()
        mode = "?mode=ro" if readonly else ""
        self.connection = _connect(path, f"{mode}&immutable=1" if self.alone else mode)
        try:
            with self.reading():
                if create:
                    self._create()
                else:
                    self._check()
                if not readonly:
                    self.connection.execute("PRAGMA journal_mode=WAL")
                    self.connection.execute("PRAGMA synchronous=FULL")
        except BaseException:
            self.connection.close()
            raise

    def _create(self) -> None:
        self.connection.executescript(
            f"BEGIN IMMEDIATE; PRAGMA application_id={APPLICATION}; PRAGMA user_version={VERSION};"
            f"{SCHEMA} COMMIT;"
        )

    def _check(self) -> None:
        found = self._pragma("application_id")
        version = self._pragma("user_version")
        if found != APPLICATION:
            raise RecordError(f"{self.path} is no record of pathnas: application_id is {found}")
        if version != VERSION:
            what = "newer" if version > VERSION else "older"
            raise RecordError(
                f"{self.path} has a {what} schema ({version}) than this pathnas reads ({VERSION}); "
                f"continue it with the version of pathnas that wrote it"
            )
        # quick_check would not compare the indices, by which rows are found, with the tables.
        if (sound := self._pragma("integrity_check")) != "ok":
            raise RecordError(f"{self.path} is damaged: {sound}")

    def _pragma(self, name: str) -> Any:
        return self.connection.execute(f"PRAGMA {name}").fetchone()[0]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Turns what SQLite raises into one line that names the file."""
        try:
            yield
        except sqlite3.DatabaseError as error:
            if any(word in str(error) for word in OUTSIDE):
                raise OSError(f"{self.path}: {error}") from error
            raise RecordError(f"{self.path} is damaged: {error}") from error
        except UnicodeDecodeError as error:  # what is damaged may stand in a message of SQLite
            raise RecordError(f"{self.path} is damaged: a text is not UTF-8") from error

    @contextmanager
    def understanding(self, what: str) -> Iterator[None]:
        """Turns what senseless rows make Python raise into one line that names the file.

        Args:
            what: the rows tell, in words.

        Raises:
            RecordError: if the block raises anything that is not the world's fault.
        """
        try:
            yield
        except RecordError:
            raise
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            why = " ".join(repr(error).split())
            raise RecordError(
                f"{self.path} is damaged: {what} makes no sense: {why:.300}"
            ) from error

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is written in the block is committed together, or nothing of it.

        Ctrl-C and SIGTERM wait until the block has ended.

        Raises:
            OSError: if the disk is full or the file cannot be written; nothing has changed.
        """
        with interrupts.deferred(), self.reading():
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self.before_commit()
                self.connection.execute("COMMIT")
            except BaseException:
                if self.connection.in_transaction:  # a full disk has rolled back already
                    self.connection.execute("ROLLBACK")
                raise

    def put(self, table: str, *, replace: bool = False, **values: Any) -> None:
        """Adds a row with its digest, where the table has one."""
        if table not in UNVOUCHED:
            values["digest"] = digest(table, values)
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        self.connection.execute(
            f"{verb} INTO {table} ({names}) VALUES ({marks})", list(values.values())
        )

    def rows(self, table: str, order: str = "rowid", **where: Any) -> Iterator[dict[str, Any]]:
        """Yields the rows of a table whose columns equal what is given, each checked.

        Raises:
            RecordError: if a row does not fit its digest.
        """
        condition = " AND ".join(f"{name} = ?" for name in where) or "1"
        with self.reading():
            cursor = self.connection.execute(
                f"SELECT * FROM {table} WHERE {condition} ORDER BY {order}", list(where.values())
            )
            names = [column[0] for column in cursor.description]
            found = cursor.fetchall()
        for values in found:
            row = dict(zip(names, values, strict=True))
            if table not in UNVOUCHED and row["digest"] != digest(table, row):
                place = ", ".join(str(row[name]) for name in names[:2] if name in KEYS)
                raise RecordError(f"{self.path} is damaged: {table} ({place}) fits not its SHA-256")
            yield row

    def number(self, query: str, *values: Any) -> float:
        """Returns the single number that a query finds.

        Raises:
            RecordError: if the file is damaged.
        """
        with self.reading():
            return float(self.connection.execute(query, values).fetchone()[0])

    def execute(self, statement: str, *values: Any) -> int:
        """Executes a statement and returns how many rows it changed."""
        return self.connection.execute(statement, values).rowcount

    def close(self) -> None:
        """Closes the file, so that all of it stands in one."""
        self.connection.close()


OUTSIDE = ("locked", "full", "unable to open", "readonly", "I/O", "interrupted")
"""Words of what SQLite raises when the file is sound and the world around it is not."""

UNVOUCHED = {"clock", "events", "errors"}
"""Tables for people, on which no decision rests."""

KEYS = {"search", "number", "name", "key"}


def digest(table: str, row: Mapping[str, Any]) -> str:
    """Returns the SHA-256 of a row's signed values, in hexadecimal digits."""
    signed = [table.encode()]
    for name in sorted(row):
        value = row[name]
        if isinstance(value, bytes):
            signed.append(value)
        elif name not in UNSIGNED:
            text = _JSON.get(type(value), json.dumps)(value)
            signed.append(f"\n{name}={text}".encode())
    return hashlib.sha256(b"".join(signed)).hexdigest()


# What json.dumps gives for these, without its detours: opening a long record spends its time here.
_JSON: dict[type, Callable[[Any], str]] = {int: str, str: json.encoder.encode_basestring_ascii}


def look(path: Path, reader: Callable[[Database], Found]) -> Found:
    """Returns what a function reads in the file, of one moment, and leaves nothing beside it.

    Args:
        path: of the file.
        reader: takes the open file; it is called again if a writer came while it read.

    Raises:
        RecordError: if the file is no record, is damaged, or is of another version.
        OSError: if it cannot be read.
    """
    for _ in range(LOOKS):
        before = _state(path)
        try:
            database = Database(path, readonly=True)
            try:
                with database.reading():
                    database.connection.execute("BEGIN")
                found = reader(database)
            finally:
                database.close()
        except (RecordError, OSError):
            if _state(path) == before:
                raise
        else:
            if not database.alone or _state(path) == before:
                return found
    raise OSError(f"{path} changes whenever it is read: look again in a moment")


LOOKS = 5
"""Writers that may come and go while a record is read once."""


def _log(path: Path) -> Path:
    """Returns the log of a file; SQLite keeps it while somebody writes, and after a kill."""
    return path.with_name(f"{path.name}-wal")


def _state(path: Path) -> tuple[bool, int, int]:
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False, 0, 0
    return _log(path).exists(), found.st_mtime_ns, found.st_size


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    uri = f"file:{path.absolute().as_posix().replace('?', '%3f').replace('#', '%23')}{mode}"
    try:
        return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=10.0)
    except sqlite3.Error as error:
        raise OSError(f"{path}: {error}") from error
