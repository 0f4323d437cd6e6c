"""Files that travel with a job to a machine that does not see the coordinator's disk.

A file is named by its absolute path, which is the same everywhere, and known by its content. On one
machine, and on a shared disk, everything is there already and nothing is copied.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class File:
    """A file as the coordinator has it.

    Attributes:
        path: Absolute.
        size: In bytes.
        modified: In nanoseconds, as `os.stat` has it.
        digest: SHA-256 of the content, in hex.
    """

    path: str
    size: int
    modified: int
    digest: str

    @staticmethod
    def of(path: Path, content: bytes) -> File:
        """Describes a file whose content is known."""
        found = path.stat()
        digest = hashlib.sha256(content).hexdigest()
        return File(os.path.abspath(path), len(content), found.st_mtime_ns, digest)

    def is_at(self, path: Path) -> bool:
        """Returns whether a file is the same: by size and time, or else by content."""
        found = path.stat()
        if found.st_size != self.size:
            return False
        if found.st_mtime_ns == self.modified:
            return True
        return hashlib.sha256(path.read_bytes()).hexdigest() == self.digest


def expand(paths: Iterable[Path]) -> Iterator[Path]:
    """Yields files as they are, and for a folder all files below it, in order."""
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.is_file())
        else:
            yield path


def place(file: File, content: Callable[[], Any]) -> None:
    """Makes sure that a file is on this machine.

    Args:
        file: The coordinator's.
        content: Fetches its bytes; called only if the file is absent.

    Raises:
        FileExistsError: If another file is in its place that this module has not put there.
        OSError: If it cannot be written.
    """
    path = Path(file.path)
    if path.exists():
        if file.is_at(path):
            return
        if not _mark(path).exists():
            raise FileExistsError(
                f"{path}: expected the coordinator's file, got another one on {os.uname().nodename}"
            )
    own(path)
    write(file, content())


def write(file: File, content: bytes) -> None:
    """Writes a file aside and renames it, with its time, unless it is there already.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(file.path)
    if path.exists() and file.is_at(path):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, aside = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(aside, 0o644)
        os.utime(aside, ns=(file.modified, file.modified))
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


def own(path: Path) -> None:
    """Notes on this machine that a file is a copy, or a job's product, and may be replaced."""
    mark = _mark(path)
    mark.parent.mkdir(mode=0o700, exist_ok=True)
    mark.touch()


def _mark(path: Path) -> Path:
    name = hashlib.sha256(os.path.abspath(path).encode()).hexdigest()
    return Path(tempfile.gettempdir()) / f"pathnas-copies-{os.getuid()}" / name
