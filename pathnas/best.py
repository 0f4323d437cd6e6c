"""The network that a search found: a folder that can be loaded without the run.

``tree.json`` (the architecture of every cell, or of each stage's), ``config.yaml`` (of the run),
``network.safetensors`` (the weights) and ``about.json`` (image shape, classes, normalization,
accuracies, and the networks that it has grown from).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from pathnas import config, files, networks, weight_files
from pathnas import tree as trees
from pathnas.data import Normalization
from pathnas.evaluators import Training
from pathnas.plugins import Plugins
from pathnas.tree import Node

LARGEST = 65_536
"""Channels, sides and classes that :func:`load` takes at most, before it makes any tensor."""


@dataclass(frozen=True)
class Best:
    """A network that was loaded, in eval mode, and what one needs to use it.

    Attributes:
        network: maps normalized images `[B, C, H, W]` to logits `[B, classes]`.
        tree: of its cells, or of each stage (:func:`pathnas.tree.stages`).
        image_shape: channels, height, width.
        classes: number of logits.
        normalization: what the pixels must be normalized by.
        validation: accuracy at the end of its full training, in [0, 1].
        test: accuracy, in [0, 1].
    """

    network: nn.Module
    tree: Node
    image_shape: tuple[int, int, int]
    classes: int
    normalization: Normalization
    validation: float
    test: float


def save(
    folder: Path,
    job: Training,
    *,
    settings: config.Config,
    validation: float,
    test: float,
    ancestors: Sequence[dict[str, Any]] = (),
) -> None:
    """Writes the folder of a trained network.

    Args:
        folder: to be made; what stands there is replaced.
        job: the training; its weights are copied from where it saved them.
        settings: of the run.
        validation: accuracy to record.
        test: accuracy to record.
        ancestors: networks that it has grown from, of :func:`pathnas.rounds.ancestors`.
    """
    if job.save is None:
        raise ValueError("only a training that was saved can be kept, got save=None")
    part = files.aside(folder)
    for leftover in (part, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    part.mkdir(parents=True)
    shutil.copyfile(job.save, part / "network.safetensors")
    files.sync(part / "network.safetensors")
    about = {"validation": validation, "test": test, "ancestors": list(ancestors)}
    about["everything"] = job.everything  # whether the validation images were trained on, too
    describe(part, job, settings=settings, about=about)
    files.install(part, folder)


def describe(
    folder: Path, job: Training, *, settings: config.Config, about: dict[str, Any]
) -> None:
    """Writes all of a network's folder but its weights; as :func:`save`."""
    files.write(folder / "tree.json", trees.to_json(job.tree) + "\n")
    files.write(folder / "config.yaml", config.dump(settings))
    known = {
        "image_shape": job.setting.image_shape,
        "classes": job.setting.classes,
        "normalization": asdict(job.setting.normalization),
        **about,
    }
    files.write_json(folder / "about.json", known)


def load(folder: str | Path) -> Best:
    """Loads the ``best`` folder of a run, and imports the plugins of its config.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if a file is damaged or the weights do not fit the tree.
    """
    folder = Path(folder)
    settings = config.load(folder / "config.yaml")
    Plugins(settings.plugins)
    tree = trees.from_json((folder / "tree.json").read_text(encoding="utf-8"))
    try:
        about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        shape, classes = tuple(about["image_shape"]), int(about["classes"])
        mean, std = (tuple(map(float, about["normalization"][key])) for key in ("mean", "std"))
        validation, test = float(about["validation"]), float(about["test"])
        if len(shape) != 3 or not all(1 <= side <= LARGEST for side in (*shape, classes)):
            raise ValueError(f"expected sizes from 1 to {LARGEST}, got {shape}, {classes} classes")
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{folder / 'about.json'} is damaged: {error!r}") from error
    network = networks.build(
        channels=shape[0],
        classes=classes,
        tree=tree,
        image_shape=shape,
        **settings.base.arguments(),
    )
    weight_files.load_weights(network, folder / "network.safetensors")
    normalization = Normalization(mean, std)
    return Best(network.eval(), tree, shape, classes, normalization, validation, test)
