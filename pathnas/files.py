"""Files that are there whole or not at all, and digests that vouch for them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pathnas import interrupts


def aside(path: Path) -> Path:
    """Returns where a file is written before :func:`install` gives it its name."""
    return path.with_name(f".{path.name}.part")


def install(written: Path, path: Path) -> None:
    """Renames a file that was written aside, once its bytes and its name are on the disk.

    Raises:
        OSError: if that is impossible, as on a full disk; `path` is as it was.
    """
    sync(written)
    with interrupts.deferred():
        written.replace(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, content: str | bytes | memoryview, *, spare: Path | None = None) -> Path:
    """Writes a file so that it is there whole or not at all; makes its folder.

    Args:
        path: of the file.
        content: of it.
        spare: a file in the same folder that is needed no more; its place on the disk is written
            over, which costs half of giving it back and asking for as much. It may be missing.

    Raises:
        OSError: if that is impossible; what stood there before is left, the spare file aside.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = aside(path)
    try:
        if spare is not None and spare.exists():
            spare.replace(part)
        with open(part, "r+b" if part.exists() else "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.truncate()
        install(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return path


def write_json(path: Path, value: Any) -> Path:
    """Writes a value as indented JSON, whole or not at all."""
    return write(path, json.dumps(value, indent=2) + "\n")


def digest(path: Path) -> str:
    """Returns the SHA-256 of a file in hexadecimal digits."""
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
        return found.hexdigest()
