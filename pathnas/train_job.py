"""A full training before it begins: what it is, whether it can be done, and its batches.

What an epoch does depends on the seed, its number and the state before it alone: order,
augmentation and noise are drawn anew from (seed, epoch). So the state at an epoch's end is all that
is needed to go on as if nothing had happened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pathnas import data, datasets, networks
from pathnas.data import Splits
from pathnas.evaluators import EVALUATION_BATCH, Setting, seed_of
from pathnas.parallel import Group
from pathnas.train_folder import TrainFolder
from pathnas.train_settings import Settings
from pathnas.tree import Node


@dataclass(frozen=True)
class Job:
    """A full training, as each of its processes knows it.

    Attributes:
        settings: of the training.
        tree: of every cell, or of each stage.
        folder: where everything is written.
        group: the processes.
    """

    settings: Settings
    tree: Node
    folder: TrainFolder
    group: Group

    @property
    def loaders(self) -> int:
        """Processes that decode image files for this process."""
        if self.settings.loaders is not None:
            return self.settings.loaders
        local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, (os.cpu_count() or 1) // local)

    def setting(self) -> Setting:
        """Returns what was prepared, for this process."""
        return self.folder.setting(str(self.group.device), self.loaders)

    def network(self, setting: Setting) -> nn.Module:
        """Returns the network with fresh weights, on the CPU: the same in every process.

        A network of one's own has the weights that its function gives, those in cells aside.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(self.settings.seed, "weights"))
            return networks.build(
                channels=setting.image_shape[0],
                classes=setting.classes,
                tree=self.tree,
                image_shape=setting.image_shape,
                **self.settings.network.model_dump(),
            )

    def share(self) -> tuple[int, int]:
        """Returns this process's part of every batch."""
        return self.group.rank, self.group.size


def checked_splits(job: Job) -> Splits:
    """Loads the images and checks that the training can be done; for the first process alone.

    Raises:
        ValueError: if it cannot.
        FileNotFoundError: if the images are absent.
        ImportError: if a library is missing that only these images need.
    """
    settings, group = job.settings, job.group
    splits = datasets.load(seed=settings.split_seed, **settings.data.model_dump())
    sketch = networks.sketch(
        channels=splits.image_shape[0],
        classes=splits.classes,
        tree=job.tree,
        image_shape=splits.image_shape,
        **settings.network.model_dump(),
    )
    networks.check(sketch, splits.image_shape, splits.classes)
    smallest = min(len(splits.train), settings.recipe.batch_size) // 2
    if smallest < group.size:
        raise ValueError(
            "recipe.batch_size and the training images must be at least twice the processes, "
            f"got {settings.recipe.batch_size} and {len(splits.train)} for {group.size}"
        )
    if min(len(splits.validation), len(splits.test)) < group.size:
        raise ValueError(f"validation and test must have an image for each of {group.size}")
    return splits


def evaluation_batches(job: Job, setting: Setting, name: str) -> data.Batches:
    """Returns this process's part of a prepared set, in order."""
    return data.batches(
        setting.source(name),
        batch_size=EVALUATION_BATCH * job.group.size,
        normalization=setting.normalization,
        device=setting.device,
        workers=setting.loaders,
        share=job.share(),
    )


class EpochBatches:
    """This process's part of the training batches; every epoch a function of seed and number.

    Args:
        job: the training.
        setting: of this process.
        advance: called after every batch.

    Attributes:
        epoch: the last one that was begun.
    """

    def __init__(self, job: Job, setting: Setting, advance: Callable[[], None]) -> None:
        settings = job.settings
        images = setting.source("train")
        if settings.everything:
            images = data.join(images, setting.source("validation"))
        self.epoch = 0
        self._job = job
        self._advance = advance
        self._generator = torch.Generator()
        self.batches = data.batches(
            images,
            batch_size=settings.recipe.batch_size,
            normalization=setting.normalization,
            device=setting.device,
            augment=data.Augment(**settings.recipe.augment.model_dump()),
            generator=self._generator,
            shuffle=True,
            workers=setting.loaders,
            share=job.share(),
        )

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self.epoch += 1
        seed, group = self._job.settings.seed, self._job.group
        self._generator.manual_seed(seed_of(seed, "images", self.epoch))
        # Dropout and the like draw from the global generator, each process on its own.
        torch.manual_seed(seed_of(seed, f"noise {group.rank}", self.epoch))
        for part, batch in zip(self.batches.parts(), self.batches, strict=True):
            group.weight = (part.stop - part.start) * group.size / part.batch
            yield batch
            self._advance()
