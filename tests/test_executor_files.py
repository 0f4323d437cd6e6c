"""Files that travel with a job: once, by content, and never over a stranger's file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pathnas.executors import files
from pathnas.executors.files import File


@pytest.fixture(autouse=True)
def marks(tmp_path_factory, monkeypatch):
    """Marks of copies in a folder of the test's own."""
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path_factory.mktemp("tmp")))


@pytest.fixture
def sent(tmp_path):
    """A file of the coordinator's that this machine does not have."""
    path = tmp_path / "deep" / "weights"
    path.parent.mkdir()
    path.write_bytes(b"weights")
    os.utime(path, ns=(10**18, 10**18))
    file = File.of(path, b"weights")
    path.unlink()
    path.parent.rmdir()
    return file


def never():
    raise AssertionError("fetched though it was there")


def test_an_absent_file_is_fetched_once_with_its_time(sent):
    files.place(sent, lambda: b"weights")
    assert Path(sent.path).read_bytes() == b"weights"
    assert Path(sent.path).stat().st_mtime_ns == 10**18
    files.place(sent, never)
    assert [path.name for path in Path(sent.path).parent.iterdir()] == ["weights"]


def test_an_equal_file_is_left_alone_whatever_its_time(sent):
    path = Path(sent.path)
    path.parent.mkdir()
    path.write_bytes(b"weights")
    before = path.stat()
    files.place(sent, never)
    files.write(sent, b"weights")
    assert path.stat() == before


@pytest.mark.parametrize("found", [b"WEIGHTS", b"of a different length"])
def test_a_strangers_file_is_an_error_and_stays(sent, found):
    path = Path(sent.path)
    path.parent.mkdir()
    path.write_bytes(found)
    with pytest.raises(FileExistsError, match=r"weights: expected the coordinator's file"):
        files.place(sent, never)
    assert path.read_bytes() == found


def test_an_earlier_copy_is_replaced(sent):
    files.place(sent, lambda: b"weights")
    path = Path(sent.path)
    path.write_bytes(b"WEIGHTS of another day")
    files.place(sent, lambda: b"weights")
    assert path.read_bytes() == b"weights"


def test_what_a_lost_job_left_behind_is_replaced(sent):
    path = Path(sent.path)
    path.parent.mkdir()
    files.own(path)
    path.write_bytes(b"half")
    files.place(sent, lambda: b"weights")
    assert path.read_bytes() == b"weights"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(sent, monkeypatch):
    path = Path(sent.path)
    path.parent.mkdir()
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(sent, b"weights")
    assert path.read_bytes() == b"old" and len(list(path.parent.iterdir())) == 1


def test_a_folder_stands_for_all_files_below_it(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/2", "a/b/1", "x"):
        (tmp_path / name).touch()
    found = list(files.expand([tmp_path / "a", tmp_path / "x"]))
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/2", "a/b/1", "x"]
    with pytest.raises(FileNotFoundError):
        File.of(tmp_path / "absent", b"")
