"""Transactions, rows that vouch for themselves, and readers beside the writer."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pathnas.database import VERSION, Database, RecordError, look
from pathnas.interrupts import Interrupted, Interrupts


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    found = Database(tmp_path / "record.sqlite", create=True)
    yield found
    found.close()


def put(database: Database, key: str, value: str = "1") -> None:
    with database.transaction():
        database.put("meta", key=key, value=value)


def keys(database: Database) -> list[str]:
    return [row["key"] for row in database.rows("meta")]


def test_rows_come_in_order_and_under_their_conditions(database: Database) -> None:
    for key in ("b", "a", "c"):
        put(database, key, f"of {key}")
    assert keys(database) == ["b", "a", "c"]
    assert [row["key"] for row in database.rows("meta", "key")] == ["a", "b", "c"]
    [row] = database.rows("meta", key="a")
    assert row["value"] == "of a"
    assert database.number("SELECT count(*) FROM meta WHERE key > ?", "a") == 2


def test_a_transaction_is_committed_whole_or_not_at_all(database: Database) -> None:
    with pytest.raises(ZeroDivisionError), database.transaction():
        database.put("meta", key="a", value="1")
        raise ZeroDivisionError
    assert keys(database) == []
    with pytest.raises(RecordError, match="UNIQUE"), database.transaction():
        database.put("meta", key="a", value="1")
        database.put("meta", key="a", value="2")
    assert keys(database) == []


def test_a_signal_waits_for_the_commit(database: Database) -> None:
    with pytest.raises(Interrupted), Interrupts(), database.transaction():
        os.kill(os.getpid(), signal.SIGTERM)
        database.put("meta", key="a", value="1")
    assert keys(database) == ["a"]


def test_what_belongs_to_every_commit_is_within_it(database: Database) -> None:
    def note() -> None:
        database.put("clock", replace=True, phase="search", seconds=1.5)

    database.before_commit = note
    put(database, "a")
    assert [row["seconds"] for row in database.rows("clock")] == [1.5]


@pytest.mark.parametrize("change", ["value = '2'", "digest = 'x'", "key = 'b'"])
def test_a_changed_row_is_noticed(database: Database, change: str) -> None:
    put(database, "a")
    database.connection.execute(f"UPDATE meta SET {change}")
    with pytest.raises(RecordError, match=r"record.sqlite is damaged: meta \(.\) fits not"):
        list(database.rows("meta"))


def test_bytes_are_vouched_for_too(database: Database) -> None:
    with database.transaction():
        database.put("generators", search="search", state=b"abc")
    assert [row["state"] for row in database.rows("generators")] == [b"abc"]
    database.connection.execute("UPDATE generators SET state = x'616264'")
    with pytest.raises(RecordError, match="fits not its SHA-256"):
        list(database.rows("generators"))


def test_a_reader_sees_what_is_committed_and_blocks_nobody(
    database: Database, tmp_path: Path
) -> None:
    put(database, "a")
    reader = Database(tmp_path / "record.sqlite", readonly=True)
    cursor = reader.connection.execute("SELECT key FROM meta")  # an unfinished read
    with database.transaction():
        database.put("meta", key="b", value="2")
        assert keys(reader) == ["a"]
    assert keys(database) == ["a", "b"]
    cursor.close()
    with pytest.raises(OSError, match="readonly"):
        put(reader, "c")
    reader.close()


def test_a_reader_leaves_nothing_beside_a_record_at_rest(tmp_path: Path) -> None:
    path = tmp_path / "record.sqlite"
    writer = Database(path, create=True)
    put(writer, "a")
    writer.close()
    assert look(path, keys) == ["a"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.sqlite"]


@pytest.mark.parametrize("ends", [False, True])
def test_a_reader_looks_again_when_a_writer_came_meanwhile(tmp_path: Path, ends: bool) -> None:
    path = tmp_path / "record.sqlite"
    Database(path, create=True).close()
    writers: list[Database] = []

    def read(reader: Database) -> list[str]:
        if not writers:
            writers.append(Database(path))
            put(writers[0], "a")
            if ends:
                writers[0].close()
        return keys(reader)

    assert look(path, read) == ["a"]
    writers[0].close()
    assert [entry.name for entry in tmp_path.iterdir()] == ["record.sqlite"]


def test_a_record_that_never_rests_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "record.sqlite"
    Database(path, create=True).close()

    def read(reader: Database) -> list[str]:
        writer = Database(path)
        put(writer, str(writer.number("SELECT count(*) FROM meta")))
        writer.close()
        return keys(reader)

    with pytest.raises(OSError, match="changes whenever it is read"):
        look(path, read)


def test_what_a_killed_writer_left_is_read_and_kept(tmp_path: Path) -> None:
    path, copy = tmp_path / "record.sqlite", tmp_path / "copy"
    writer = Database(path, create=True)
    put(writer, "a")
    copy.mkdir()
    for entry in (path, tmp_path / "record.sqlite-wal"):  # as after a kill, on another machine
        (copy / entry.name).write_bytes(entry.read_bytes())
    writer.close()
    assert look(copy / path.name, keys) == ["a"]
    assert (copy / "record.sqlite-wal").stat().st_size > 0


@pytest.mark.parametrize(("version", "what"), [(VERSION + 1, "newer"), (0, "older")])
def test_another_version_is_refused(tmp_path: Path, version: int, what: str) -> None:
    path = tmp_path / "record.sqlite"
    Database(path, create=True).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    with pytest.raises(RecordError, match=f"has a {what} schema"):
        Database(path)


def test_what_is_no_record_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "record.sqlite"
    with pytest.raises(RecordError, match=r"holds no run: record.sqlite is missing"):
        Database(path)
    sqlite3.connect(path).close()
    path.write_bytes(b"")
    with pytest.raises(RecordError, match="no record of pathnas"):
        Database(path)
    path.write_bytes(b"text " * 1000)
    with pytest.raises(RecordError, match="damaged: file is not a database"):
        Database(path)


@pytest.mark.parametrize("name", ["odd ?name#1", "100%", "ünïcode"])
def test_names_of_folders_need_no_care(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "record.sqlite"
    path.parent.mkdir()
    database = Database(path, create=True)
    put(database, "a")
    database.close()
    assert [entry.name for entry in path.parent.iterdir()] == ["record.sqlite"]


def test_senseless_values_are_told_in_one_line(database: Database) -> None:
    with (
        pytest.raises(RecordError, match=r"damaged: the seed makes no sense: .*Expecting value"),
        database.understanding("the seed"),
    ):
        json.loads("\n")
    with pytest.raises(OSError, match="cable"), database.understanding("the seed"):
        raise OSError("cable")
