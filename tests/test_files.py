"""Files that are there whole or not at all."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from pathnas import files
from pathnas.interrupts import Interrupted, Interrupts


def test_writing_makes_folders_and_replaces_what_stood_there(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.txt"
    assert files.write(path, "old") == path
    files.write(path, b"new \xff")
    assert path.read_bytes() == b"new \xff"
    assert [entry.name for entry in path.parent.iterdir()] == ["b.txt"]


def test_json_is_indented_and_ends_with_a_line(tmp_path: Path) -> None:
    assert files.write_json(tmp_path / "x.json", {"a": [1]}).read_text() == (
        '{\n  "a": [\n    1\n  ]\n}\n'
    )


@pytest.mark.parametrize("old", ["longer than new", "short"])
def test_a_spare_file_is_written_over(tmp_path: Path, old: str) -> None:
    spare = files.write(tmp_path / "spare", old)
    place = spare.stat().st_ino
    path = files.write(tmp_path / "x", "new text", spare=spare)
    assert path.read_text() == "new text" and path.stat().st_ino == place
    assert list(tmp_path.iterdir()) == [path]


def test_a_spare_file_may_be_missing(tmp_path: Path) -> None:
    path = files.write(tmp_path / "x", "new", spare=tmp_path / "spare")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_stood_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = files.write(tmp_path / "x", "old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(OSError, match="No space"):
            files.write(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_bytes_are_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def fsync(handle: int) -> None:
        steps.append(os.readlink(f"/proc/self/fd/{handle}"))

    replace = os.replace
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", lambda a, b: (steps.append("replace"), replace(a, b)))
    files.write(tmp_path / "x", "text")
    assert steps == [str(tmp_path / ".x.part"), "replace", str(tmp_path)]


def test_a_signal_while_the_name_is_given_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace = os.replace

    def interrupted(a: Path, b: Path) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        replace(a, b)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(Interrupted), Interrupts():
        files.write(tmp_path / "x", "text")
    assert (tmp_path / "x").read_text() == "text"


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1])
def test_the_digest_is_that_of_all_bytes(tmp_path: Path, size: int) -> None:
    path = files.write(tmp_path / "x", b"a" * size)
    assert files.digest(path) == hashlib.sha256(b"a" * size).hexdigest()
