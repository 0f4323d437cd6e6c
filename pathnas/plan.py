"""What a config asks for, worked out and checked before anything is written or trained."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from pathnas import data, datasets, evaluators, latency, networks, rounds, weight_files
from pathnas import tree as trees
from pathnas.cell import by_stage
from pathnas.config import DEEPEST, Config, Recipe, Search
from pathnas.data import Splits
from pathnas.evaluators import InheritAndTrain, Setting, Training, seed_of
from pathnas.latency import Latencies
from pathnas.limits import Limits
from pathnas.outcomes import Reward
from pathnas.plugins import Plugins
from pathnas.tree import BASE_TREE, Node


@dataclass(frozen=True)
class Plan:
    """A run, before it begins.

    Attributes:
        config: of the run.
        device: that it trains on.
        splits: the images; :meth:`prepare` writes none of the test set.
        limits: on candidates.
        base_macs: multiply-adds of the whole base network for one image.
    """

    config: Config
    device: str
    splits: Splits
    limits: Limits
    base_macs: int

    @classmethod
    def of(cls, config: Config) -> Plan:
        """Loads the images and checks that the config can be carried out.

        Raises:
            ValueError: if it asks for what cannot be.
            FileNotFoundError: if the images are absent.
            ImportError: if a library is missing that only these images need.
        """
        Plugins(config.plugins)
        device = evaluators.resolve_device(config.device)
        splits = datasets.load(seed=config.seed, **config.data.model_dump())
        network = {
            "channels": splits.image_shape[0],
            "classes": splits.classes,
            "image_shape": splits.image_shape,
            **config.base.arguments(),
        }
        start, weights = rounds.start(config.base), rounds.weights(config.base)
        if weights is not None:
            _check_optimizer(config, weights)
            with torch.random.fork_rng(devices=[]):
                weight_files.load_weights(networks.build(tree=start, **network), weights)
        deep = max(map(trees.depth, trees.stages(start)))
        if deep >= DEEPEST:
            raise ValueError(
                f"base.grown: its tree is {deep} edges deep, and none may be deeper than {DEEPEST}"
            )
        sketch = networks.sketch(tree=start, **network)
        networks.check(sketch, splits.image_shape, splits.classes)
        base_macs = networks.macs(sketch, splits.image_shape)
        search = config.search
        batches = search.episodes >= 2 and not search.asynchronous
        if search.controller.baseline == "self_critical" and not batches:
            raise ValueError(
                "search.controller.baseline: self_critical needs batches of at least two episodes, "
                "whose last one is greedy: search.episodes >= 2 and search.asynchronous: false"
            )
        sites = networks.sites(sketch, splits.image_shape)
        limits = Limits(
            search.depth if start == BASE_TREE else max(search.depth, deep + 1),
            search.ops,
            sites,
            start=_by_stage(config, start, len(by_stage(sites))),
        )
        limits = _affordable(limits, search, base_macs, networks.parameters(sketch))
        plan = cls(config, str(device), splits, limits, base_macs)
        return plan if search.latencies is None else plan.timed(_shared_table(plan))

    @property
    def untimed(self) -> bool:
        """Whether latencies are limited but are still to be measured."""
        return self.config.search.max_latency is not None and self.limits.latencies is None

    def check_timed(self) -> None:
        """Checks that what several runs, or none, share knows its limit on latencies.

        Raises:
            ValueError: if a run would measure a limit of its own.
        """
        if self.untimed:
            raise ValueError(
                "search.latencies: expected the latencies.json of a run beside search.max_latency, "
                "since every run measures its own, got null"
            )

    def measured(self) -> Latencies:
        """Measures what operations take at the cells of the base network."""
        with torch.random.fork_rng(devices=[]):
            network = networks.build(
                tree=self.limits.start,
                channels=self.splits.image_shape[0],
                classes=self.splits.classes,
                image_shape=self.splits.image_shape,
                **self.config.base.arguments(),
            )
        network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        return latency.measure(network, self.splits.image_shape, self.limits.sites, self.limits.ops)

    def timed(self, latencies: Latencies) -> Plan:
        """Returns the plan whose limits are those of a table of latencies."""
        factor = self.config.search.max_latency
        assert factor is not None
        limits = replace(self.limits, latencies=latencies)
        more = round((factor - 1) * latencies.network)
        least = limits.costs(limits.start).latency
        return replace(self, limits=replace(limits, nanoseconds=least + more))

    def digests(self) -> dict[str, str]:
        """Returns the SHA-256 of each set of images, by name."""
        splits = self.splits
        named = {"train": splits.train, "validation": splits.validation, "test": splits.test}
        return {name: data.digest(source) for name, source in named.items()}

    def prepare(self, folder: Path) -> Setting:
        """Writes the training and validation images for the workers, where they are not yet."""
        splits, workers = self.splits, self.config.workers
        for name, source in (("train", splits.train), ("validation", splits.validation)):
            self.prepare_set(source, folder / name)
        loaders = workers.loaders
        if loaders is None:
            loaders = max(1, (os.cpu_count() or 1) // workers.count)
        return Setting(
            folder,
            splits.normalization,
            splits.image_shape,
            splits.classes,
            self.device,
            loaders,
            Plugins(self.config.plugins),
        )

    @staticmethod
    def prepare_set(source: data.Source, folder: Path) -> None:
        """Writes a set of images, unless it is there; what is damaged is replaced."""
        if not data.is_saved(source, folder):
            if folder.is_symlink() or folder.is_file():
                folder.unlink()
            shutil.rmtree(folder, ignore_errors=True)
            data.save(source, folder)

    def base_training(self, setting: Setting, save: Path) -> Training:
        """Returns the training of the base network; of no epochs if its weights are given."""
        base, weights = self.config.base, rounds.weights(self.config.base)
        recipe = base.training if weights is None else None
        return Training(
            setting,
            base.arguments(),
            recipe or Recipe(epochs=0),
            seed_of(self.config.seed, "base"),
            tree=self.limits.start,
            weights=weights,
            save=save,
            inherit_optimizer=weights is not None and self.config.search.trial.inherit_optimizer,
            start=self.limits.start,
        )

    def inherit(self, base: Training) -> Training:
        """Returns a trial's training, but for its tree and seed."""
        trial = self.config.search.trial
        return replace(
            base,
            recipe=trial,
            weights=base.save,
            save=None,
            birth=trial.birth,
            gate_fraction=trial.gate_fraction,
            noise=trial.noise,
            distill=trial.distill,
            inherit_optimizer=trial.inherit_optimizer,
        )

    def evaluator(self, base: Training) -> InheritAndTrain:
        """Returns what evaluates candidates, from the training of the base network."""
        return InheritAndTrain(self.inherit(base), self.config.seed, self.limits, self.base_macs)

    def reward(self) -> Reward:
        """Returns how outcomes are shaped."""
        settings = self.config.search.reward
        return Reward(
            settings.shape,
            Reward.ceiling_for(self.config.data.validation),
            settings.cost_weight,
            settings.cost_target * self.base_macs,
            settings.failure,
            settings.metric,
            self.config.final.training.epochs,
        )


def _affordable(limits: Limits, search: Search, macs: int, parameters: int) -> Limits:
    """Returns limits with what a candidate may cost.

    Args:
        limits: without.
        search: says how many times as much as the base network.
        macs: multiply-adds of that.
        parameters: of that.
    """
    least = limits.costs(limits.start)
    if search.max_macs is not None:
        limits = replace(limits, macs=int((search.max_macs - 1) * macs) + least.macs)
    if search.max_parameters is not None:
        more = int((search.max_parameters - 1) * parameters)
        limits = replace(limits, parameters=more + least.parameters)
    return limits


def _shared_table(plan: Plan) -> Latencies:
    """Returns the table of latencies that the config names, or the run's own if that is gone.

    Raises:
        ValueError: if it cannot be read, or is not of this base network on this device.
    """
    config, search = plan.config, plan.config.search
    if search.max_latency is None:
        raise ValueError("search.latencies: must be null without search.max_latency")
    if search.rounds > 1 or config.base.grown is not None:
        raise ValueError(
            "search.latencies: must be null with search.rounds > 1 or base.grown: the table knows "
            "another base network"
        )
    path, own = Path(str(search.latencies)), Path(config.runs) / config.name / latency.NAME
    if own.exists() and not path.exists():
        path = own
    try:
        found = Latencies.read(path, plan.limits.sites, search.ops)
    except (OSError, ValueError) as error:
        raise ValueError(f"search.latencies: {error}") from error
    if found.device != plan.device:
        raise ValueError(
            f"search.latencies: {path}: expected times of device {plan.device}, got those of "
            f"{found.device}"
        )
    return found


def _by_stage(config: Config, start: Node, stages: int) -> Node:
    """Returns what the trees grow from, for each stage if each is to have its own.

    Raises:
        ValueError: if the base network's stages differ and are to have one tree.
    """
    if config.search.stages:
        return trees.staged(trees.stages(start, stages))
    if start.merge == "stages":
        raise ValueError(
            f"search.stages: must be true, since each stage of base.grown has a tree of its own: "
            f"{start}"
        )
    return start


def _check_optimizer(config: Config, weights: Path) -> None:
    if config.search.trial.inherit_optimizer and config.base.grown is not None:
        raise ValueError(
            "search.trial.inherit_optimizer: must be false with base.grown, whose folder has no "
            "optimizer's state"
        )
    path = weight_files.optimizer_file(weights)
    if config.search.trial.inherit_optimizer and not path.is_file():
        raise ValueError(
            f"search.trial.inherit_optimizer: expected the optimizer's state beside base.weights, "
            f"got no file {path}"
        )
