"""The folder of a run: what stands where, and writing it so that nothing is ever half there."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pathnas import tree as trees
from pathnas.search import Trial


class RunFolder:
    """One run's folder.

    ``config.yaml``, ``search.jsonl`` and ``control.jsonl`` (one trial a line, added after each
    update), ``data/`` (prepared sets), ``weights/`` (of every full training), ``tensorboard/``,
    ``best/`` and ``summary.json``.

    Args:
        path: of the folder.

    Raises:
        FileExistsError: if it exists.
        OSError: if it cannot be made or written to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True)
        for folder in ("data", "weights"):
            (path / folder).mkdir()

    @classmethod
    def new(cls, root: Path, name: str) -> RunFolder:
        """Makes ``root/name``, or ``root/name-2`` and so on if that is taken."""
        number = 1
        while True:
            path = root / (name if number == 1 else f"{name}-{number}")
            try:
                return cls(path)
            except FileExistsError:
                if not path.is_dir():
                    raise
                number += 1

    def write(self, name: str, text: str) -> Path:
        """Writes a text file aside, then renames it."""
        return write_text(self.path / name, text)

    def append(self, name: str, trial: Trial) -> None:
        """Adds a trial to a file of one JSON object a line."""
        row = {
            "number": trial.number,
            "update": trial.update,
            "key": trial.candidate.key,
            "reward": trial.reward,
            **asdict(trial.outcome),
            "tree": trees.to_dict(trial.candidate.tree),
        }
        with open(self.path / name, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def write_text(path: Path, text: str) -> Path:
    """Writes a text file so that it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    with open(aside, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    return path


def write_json(path: Path, value: Any) -> Path:
    """Writes a value as indented JSON, whole or not at all."""
    return write_text(path, json.dumps(value, indent=2) + "\n")
