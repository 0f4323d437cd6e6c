"""A run from its config to its summary, phase by phase.

Data, base network, search, control, full trainings, test. The search is handed a training set and a
validation set; the test set is written for the workers only after every choice has been made.
"""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import pathnas
from pathnas import (
    best,
    controllers,
    data,
    datasets,
    evaluators,
    executors,
    networks,
    store,
)
from pathnas import config as configs
from pathnas import tree as trees
from pathnas.board import Board
from pathnas.config import Config, Recipe
from pathnas.console import Console
from pathnas.data import Splits
from pathnas.decisions import Limits
from pathnas.evaluators import InheritAndTrain, Setting, Training, seed_of
from pathnas.finals import Finals, test_once
from pathnas.jobs import Finished, JobFailed, Jobs
from pathnas.outcomes import Reward
from pathnas.search import Record, search
from pathnas.store import RunFolder
from pathnas.tree import BASE_TREE

PRELOAD = ("pathnas.evaluators",)
"""What worker processes need, imported once for all of them."""


@dataclass(frozen=True)
class Plan:
    """All that a run needs to know before anything is written or trained.

    Attributes:
        config: of the run.
        device: that it trains on.
        splits: the images; of the test set, nothing is written before all choices are made.
        space: what is searched.
    """

    config: Config
    device: str
    splits: Splits
    space: Space


def plan(config: Config) -> Plan:
    """Loads the images and checks that the config can be carried out.

    Raises:
        ValueError: if it asks for what cannot be.
        FileNotFoundError: if the images are absent.
        ImportError: if a library is missing that only these images need.
    """
    device = evaluators.resolve_device(config.device)
    splits = datasets.load(seed=config.seed, **config.data.model_dump())
    return Plan(config, str(device), splits, Space.of(config, splits))


def run(planned: Plan, console: Console) -> dict[str, Any]:
    """Does a run and returns its summary, which also stands in its folder.

    Raises:
        OSError: if the folder cannot be made or written.
        JobFailed: if the base network cannot be trained, or no tree of a search in full.
        SearchError: if trials fail throughout.
    """
    start = time.perf_counter()
    config, splits = planned.config, planned.splits
    folder = RunFolder.new(Path(config.runs), config.name)
    console.line(f"run folder {folder.path}")
    folder.write("config.yaml", configs.dump(config))
    workers, prepared = config.workers, folder.path / "data"
    data.save(splits.train, prepared / "train")
    data.save(splits.validation, prepared / "validation")
    loaders = workers.loaders
    if loaders is None:
        loaders = max(1, (os.cpu_count() or 1) // workers.count)
    setting = Setting(
        prepared,
        splits.normalization,
        splits.image_shape,
        splits.classes,
        planned.device,
        loaders,
    )
    with (
        executors.executor(workers.kind, workers.count, PRELOAD) as executor,
        Board(folder.path / "tensorboard") as board,
    ):
        board.text("env", "config", configs.dump(config))
        jobs = Jobs(executor, console, workers.deadline)
        experiment = Experiment(config, setting, planned.space, folder, jobs, board)
        base = experiment.train_base()
        searched = {"search": experiment.search("search", base)}
        if config.search.control:
            searched["control"] = experiment.search("control", base, searched["search"].record)
        picks = experiment.train_in_full(base, searched)
        data.save(splits.test, prepared / "test")
        with jobs.phase("test"):
            tests = test_once(jobs, picks)
        summary = {
            **experiment.summary(base, searched, picks, tests),
            "test_images": len(splits.test),
            "wall_seconds": round(time.perf_counter() - start, 3),
        }
    store.write_json(folder.path / "summary.json", summary)
    return summary


@dataclass(frozen=True)
class Space:
    """What is searched: the base network's cells, its cost, and the limits.

    Attributes:
        limits: on candidates.
        base_macs: multiply-adds of the whole base network for one image.
    """

    limits: Limits
    base_macs: int

    @classmethod
    def of(cls, config: Config, splits: Splits) -> Space:
        """Returns the space of a config, having checked that the base network can be made.

        Raises:
            ValueError: if operations are unknown or the saved weights are of another network.
        """
        options = config.base.network.model_dump()
        shape, classes = splits.image_shape, splits.classes
        if config.base.weights is not None:
            with torch.random.fork_rng(devices=[]):
                network = networks.build(channels=shape[0], classes=classes, **options)
            evaluators.load_weights(network, Path(config.base.weights))
        network = networks.sketch(channels=shape[0], classes=classes, **options)
        base_macs, search = networks.macs(network, shape), config.search
        limits = Limits(search.depth, search.ops, networks.sites(network, shape))
        if search.max_macs is not None:
            allowance = int((search.max_macs - 1) * base_macs) + limits.cost(BASE_TREE)
            limits = replace(limits, macs=allowance)
        return cls(limits, base_macs)


@dataclass(frozen=True)
class Searched:
    """A search that has ended.

    Attributes:
        record: its trials.
        updates: how many there were.
        proposed: candidates proposed, known ones included.
    """

    record: Record
    updates: int
    proposed: int

    def report(self) -> dict[str, Any]:
        """Returns its entry of the summary."""
        outcomes = [trial.outcome for trial in self.record.trials.values()]
        accuracies = [o.accuracy for o in outcomes if o.accuracy is not None]
        return {
            "updates": self.updates,
            "trials": self.proposed,
            "distinct_trees": len(outcomes),
            "failed": len(outcomes) - len(accuracies),
            "best_trial_accuracy": max(accuracies),
            "mean_trial_accuracy": sum(accuracies) / len(accuracies),
            "trial_seconds": round(sum(o.seconds for o in outcomes), 3),
        }


class Experiment:
    """The phases of a run; each returns what the next needs.

    Args:
        config: of the run.
        setting: where the prepared sets are.
        space: what is searched.
        folder: of the run.
        jobs: does the trainings.
        board: of TensorBoard.
    """

    def __init__(
        self,
        config: Config,
        setting: Setting,
        space: Space,
        folder: RunFolder,
        jobs: Jobs,
        board: Board,
    ) -> None:
        self.config = config
        self.setting = setting
        self.space = space
        self.folder = folder
        self.jobs = jobs
        self.board = board
        self.console = jobs.console

    def train_base(self) -> Finished:
        """Trains the base network, or takes the saved one, and reports its accuracy."""
        base, weights = self.config.base, self.config.base.weights
        recipe = base.training if weights is None else None
        job = Training(
            self.setting,
            base.network.model_dump(),
            recipe or Recipe(epochs=0),
            seed_of(self.config.seed, "base"),
            weights=None if weights is None else Path(weights),
            save=self.folder.path / "weights" / "base.safetensors",
        )
        with self.jobs.phase("base"):
            [found] = self.jobs.train([job], "base network")
        if found.trained is None:
            assert found.failure is not None
            raise JobFailed("base network", found.failure)
        self.console.line(
            f"base network{f' from {weights}' if weights else ''}: validation accuracy "
            f"{found.trained.accuracy:.4f}, {found.trained.parameters:,} parameters, "
            f"{found.macs:,} multiply-adds"
        )
        return found

    def _inherit(self, base: Finished) -> Training:
        """A trial's training, but for its tree and seed."""
        trial = self.config.search.trial
        return replace(
            base.job,
            recipe=trial,
            weights=base.job.save,
            save=None,
            birth=trial.birth,
            gate_fraction=trial.gate_fraction,
            noise=trial.noise,
        )

    def search(self, name: str, base: Finished, known: Record | None = None) -> Searched:
        """Searches with the config's controller, or by random search if `name` is ``"control"``.

        Args:
            name: of the search.
            base: the base network.
            known: the record of the search whose control this is. It gets the same budget; a tree
                that both propose is trained once and counted in both.
        """
        settings, limits = self.config.search, self.space.limits
        trials = len(known.trials) if known is not None else settings.trials
        outcomes = {key: t.outcome for key, t in known.trials.items()} if known else {}
        kind = "random" if name == "control" else settings.controller.name
        seed = seed_of(self.config.seed, name)
        own = settings.controller.model_dump(exclude={"name"})
        learner = controllers.make(kind, limits.actions, seed=seed, **own)
        evaluator = InheritAndTrain(
            self._inherit(base), self.config.seed, limits, self.space.base_macs
        )
        self.console.line(f"{name}: {kind} controller, {trials} distinct trees to train")
        record, start, updates, proposed = Record(), time.perf_counter(), 0, 0
        with self.jobs.phase(name), self.console.progress(name, trials):
            for update in search(
                learner,
                limits,
                lambda candidates: self.jobs.trials(evaluator, candidates, outcomes, record),
                self._reward(),
                record,
                trials=trials,
                episodes=settings.episodes,
                patience=settings.patience,
                generator=torch.Generator().manual_seed(seed),
            ):
                updates, proposed = updates + 1, proposed + len(update.rewards)
                for trial in update.trials:
                    self.folder.append(f"{name}.jsonl", trial)
                env, learning = ("control",) * 2 if name == "control" else ("env", "controller")
                self.board.update(env, update, record, time.perf_counter() - start)
                self.board.learner(learning, update)
        return Searched(record, updates, proposed)

    def _reward(self) -> Reward:
        settings = self.config.search.reward
        return Reward(
            settings.shape,
            Reward.ceiling_for(self.config.data.validation),
            settings.cost_weight,
            settings.cost_target * self.space.base_macs,
            settings.failure,
        )

    def train_in_full(self, base: Finished, searched: dict[str, Searched]) -> dict[str, Finished]:
        """Trains the best trees in full, and what they are compared with."""
        final = self.config.final
        finals = Finals(
            self.jobs,
            self._inherit(base),
            self.config.base.training,
            final,
            self.config.seed,
            self.folder.path / "weights",
        )
        top = {
            name: [trial.candidate.tree for trial in one.record.best(final.top)]
            for name, one in searched.items()
        }
        with self.jobs.phase("full"):
            return finals.train(top)

    def summary(
        self,
        base: Finished,
        searched: dict[str, Searched],
        picks: dict[str, Finished],
        tests: dict[str, float],
    ) -> dict[str, Any]:
        """Keeps the best network and returns what the run found; see the README for the fields."""
        pick = picks["best"]
        best.save(
            self.folder.path / "best",
            pick.job,
            settings=self.config,
            validation=pick.accuracy,
            test=tests["best"],
        )
        networks_by_name = {name: one.report(tests.get(name)) for name, one in picks.items()}
        images, seconds = self.jobs.images, self.jobs.seconds
        return {
            "name": self.config.name,
            "folder": str(self.folder.path),
            "networks": {"base": base.report(), **networks_by_name},
            "best_tree": trees.to_dict(pick.job.tree),
            "searches": {name: one.report() for name, one in searched.items()},
            "images": {**images, "all": sum(images.values())},
            "seconds": seconds,
            "seeds": {
                "run": self.config.seed,
                **{name: seed_of(self.config.seed, name) for name in SEEDS},
            },
            "versions": {
                "pathnas": pathnas.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "cpu": torch.backends.cpu.get_cpu_capability(),
            },
        }


SEEDS = ("base", "search", "control", "full", "wider")
"""What seeds are made for by :func:`pathnas.evaluators.seed_of`, besides one for each tree."""
