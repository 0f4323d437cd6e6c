"""Checkpoints of a training: written whole or not at all, and never believed without their hash.

A file is one line (format, version, SHA-256 of the rest) and then what ``torch.save`` writes. It is
read with ``weights_only=True``.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.serialization import config

from pathnas import files

KEPT = 2
"""Newest checkpoints that are kept: if one is damaged, there is the one before."""

_HEADER = re.compile(rb"pathnas checkpoint (\d{1,9}) ([0-9a-f]{64})\n")
_VERSION = 1
_NAME = re.compile(r"epoch-(\d{5,})\.pt")


class Damaged(ValueError):
    """A checkpoint that is not what was written."""


def save(folder: Path, epoch: int, state: dict[str, Any]) -> Path:
    """Writes the checkpoint of an epoch and removes all but the newest.

    Args:
        folder: of the checkpoints; made if absent.
        epoch: that has ended.
        state: dicts, lists, tuples, numbers, strings and tensors.
    """
    path = folder / f"epoch-{epoch:05d}.pt"
    with packed(state, io.BytesIO()) as content:
        header = f"pathnas checkpoint {_VERSION} {hashlib.sha256(content).hexdigest()}\n"
        files.write(path, header.encode() + content)
    for _, old in _all(folder)[KEPT:]:
        old.unlink()
    return path


@contextmanager
def packed(state: dict[str, Any], memory: io.BytesIO) -> Iterator[memoryview]:
    """Gives what ``torch.save`` writes of a state, for whoever keeps its SHA-256 beside it.

    The CRC-32 of each tensor is left out: it takes longer than copying them, and vouches for less.

    Args:
        state: dicts, lists, tuples, numbers, strings and tensors.
        memory: is overwritten. Megabytes that were just used cost half of what fresh ones do.
    """
    memory.seek(0)
    with config.patch("save.compute_crc32", False):  # type: ignore[attr-defined]
        torch.save(state, memory)
    with memory.getbuffer() as whole, whole[: memory.tell()] as content:
        yield content


def load(path: Path) -> dict[str, Any]:
    """Reads a checkpoint; tensors come on the CPU.

    Raises:
        Damaged: if it is not what was written.
        ValueError: if a later version of pathnas wrote it.
    """
    content = path.read_bytes()
    header = _HEADER.match(content)
    if header is None:
        raise Damaged(f"{path}: expected a checkpoint, got something else")
    version, digest = int(header[1]), header[2].decode()
    payload = memoryview(content)[header.end() :]
    if hashlib.sha256(payload).hexdigest() != digest:
        raise Damaged(f"{path}: its content does not have the hash that was written with it")
    if version != _VERSION:
        raise ValueError(f"{path}: expected version {_VERSION} of a checkpoint, got {version}")
    state: dict[str, Any] = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
    return state


def newest(
    folder: Path, say: Callable[[str], None] = lambda line: None
) -> tuple[int, dict[str, Any]] | None:
    """Returns the epoch and the state of the newest good checkpoint; None if there is none at all.

    Args:
        folder: of the checkpoints.
        say: is told of every checkpoint that is passed over.

    Raises:
        Damaged: if there are checkpoints and none of them is good.
    """
    found = _all(folder)
    for epoch, path in found:
        try:
            return epoch, load(path)
        except Damaged as error:
            say(f"damaged checkpoint passed over: {error}")
    if found:
        raise Damaged(
            f"{folder}: expected a good checkpoint, got {len(found)} damaged ones; "
            "remove the folder to begin again"
        )
    return None


def of_epoch(folder: Path, epoch: int) -> dict[str, Any]:
    """Returns the state that was saved at the end of an epoch; raises as :func:`load` does."""
    return load(folder / f"epoch-{epoch:05d}.pt")


def _all(folder: Path) -> list[tuple[int, Path]]:
    """Epochs and files of all checkpoints, the newest first."""
    matches = ((_NAME.fullmatch(path.name), path) for path in folder.glob("epoch-*.pt"))
    return sorted(((int(m[1]), path) for m, path in matches if m), reverse=True)
