"""The folder of a full training: what stands where, and whether it is this training's.

It is a folder as a run's ``best`` (:mod:`pathnas.best`) with ``settings.yaml``, ``result.json``,
``epochs.jsonl`` (one epoch a line), ``checkpoints/``, ``data/`` (prepared sets) and
``tensorboard/``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from pathnas import config as configs
from pathnas import config_faults, files, train_settings
from pathnas import tree as trees
from pathnas.data import Normalization, Splits
from pathnas.evaluators import Setting
from pathnas.folder import LOCK, FolderInUse
from pathnas.plan import Plan
from pathnas.train_settings import Settings
from pathnas.tree import Node


class TrainFolder:
    """The folder of a full training.

    Args:
        path: of the folder; made by :meth:`claim`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.tensorboard = path / "tensorboard"
        self.data = path / "data"
        self.weights = path / "network.safetensors"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps the folder, which is made if absent, from other processes.

        Raises:
            FolderInUse: if another process trains in it.
            OSError: if it cannot be made or written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise FolderInUse(f"{self.path} is in use by another training") from None
        try:
            yield
        finally:
            lock.release()

    def check(self, settings: Settings, tree: Node) -> None:
        """Checks that the folder is new, empty, or of the same training.

        Raises:
            ValueError: if it is not; the message says in what it differs.
        """
        known = self.path / "settings.yaml"
        if not known.is_file():
            strange = [path for path in self._files() if path.name[0] != "."]
            strange = [path for path in strange if path.name != "tree.json"]
            if strange:
                raise ValueError(
                    f"{self.path}: expected a new folder or one of a training, "
                    f"got one that holds {strange[0].name}"
                )
            return
        document = config_faults.read(known, Settings)
        old = config_faults.checked(document, Settings, known)
        differing = train_settings.differences(old, settings)
        kept = trees.from_json((self.path / "tree.json").read_text(encoding="utf-8"))
        if kept != tree:
            differing.append("the tree")
        if differing:
            raise ValueError(
                f"{self.path}: expected the settings of the training that was begun in it, "
                f"got others for {', '.join(differing)}"
            )

    def _files(self) -> Sequence[Path]:
        return sorted(self.path.iterdir()) if self.path.is_dir() else []

    def begin(self, settings: Settings, tree: Node, splits: Splits) -> None:
        """Writes what the training processes read; sound images that are there stay."""
        # The settings before the images: images are never taken for those of other settings.
        files.write(self.path / "tree.json", trees.to_json(tree) + "\n")
        files.write(self.path / "settings.yaml", configs.dump(settings))
        for name, source in (("train", splits.train), ("validation", splits.validation)):
            Plan.prepare_set(source, self.data / name)
        about = {
            "normalization": asdict(splits.normalization),
            "image_shape": splits.image_shape,
            "classes": splits.classes,
        }
        files.write_json(self.data / "about.json", about)

    def setting(self, device: str, loaders: int) -> Setting:
        """Returns what :meth:`begin` wrote, for a process of the training."""
        about = json.loads((self.data / "about.json").read_text(encoding="utf-8"))
        normalization = Normalization(*(tuple(about["normalization"][k]) for k in ("mean", "std")))
        shape = tuple(about["image_shape"])
        return Setting(self.data, normalization, shape, about["classes"], device, loaders)

    def result(self) -> dict[str, Any] | None:
        """Returns the result of a training that has ended; None of one that has not."""
        path = self.path / "result.json"
        if not path.is_file():
            return None
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}") from error
        return found

    def write_epochs(self, rows: Sequence[dict[str, Any]]) -> None:
        """Writes all epochs so far."""
        text = "".join(json.dumps(row) + "\n" for row in rows)
        files.write(self.path / "epochs.jsonl", text)
