"""A run from its config to its summary, phase by phase.

Data, base network, search, control, full trainings, test. The search is handed a training set and a
validation set; the test set is written for the workers only after every choice has been made.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import pathnas
from pathnas import best, controllers, data, datasets, evaluators, executors, networks, store
from pathnas import config as configs
from pathnas import tree as trees
from pathnas.board import Board
from pathnas.config import Config, Recipe
from pathnas.console import Console
from pathnas.data import Splits
from pathnas.decisions import Limits
from pathnas.evaluators import InheritAndTrain, Scoring, Setting, Trained, Training, seed_of
from pathnas.executors import Executor, Result
from pathnas.outcomes import Candidate, Outcome, Reward
from pathnas.search import Record, SearchError, search
from pathnas.store import RunFolder
from pathnas.tree import BASE_TREE


@dataclass(frozen=True)
class Finished:
    """A full training and what it brought."""

    job: Training
    trained: Trained
    macs: int

    def report(self, test: float | None = None) -> dict[str, Any]:
        """Returns the entry of the summary."""
        return {
            "validation": self.trained.accuracy,
            **({} if test is None else {"test": test}),
            "parameters": self.trained.parameters,
            "macs": self.macs,
            "tree": trees.key(self.job.tree),
            "images": self.trained.images,
        }


def run(config: Config, console: Console) -> dict[str, Any]:
    """Does a run and returns its summary, which also stands in its folder.

    Raises:
        ValueError: if the config asks for what cannot be, before anything is trained.
        SearchError: if the base network cannot be trained or trials fail throughout.
    """
    device = evaluators.resolve_device(config.device)
    splits = datasets.load(seed=config.seed, **config.data.model_dump())
    space = Space.of(config, splits)
    folder = RunFolder.new(Path(config.runs), config.name)
    console.line(f"run folder {folder.path}")
    folder.write("config.yaml", configs.dump(config))
    setting = Setting(
        folder.path / "data", splits.normalization, splits.image_shape, splits.classes, str(device)
    )
    data.save(splits.train, setting.folder / "train")
    data.save(splits.validation, setting.folder / "validation")
    preload = ("pathnas.evaluators",)
    with (
        executors.executor(config.workers.kind, config.workers.count, preload) as executor,
        Board(folder.path / "tensorboard") as board,
    ):
        board.text("env", "config", configs.dump(config))
        experiment = Experiment(config, setting, space, folder, executor, console, board)
        base = experiment.train_base()
        found = {name: experiment.search(name, base) for name in experiment.searches}
        picks = experiment.train_in_full(base, found)
        data.save(splits.test, setting.folder / "test")
        summary = experiment.summary(base, found, picks, experiment.test(picks))
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
        with torch.random.fork_rng(devices=[]):
            network = networks.build(
                channels=splits.image_shape[0],
                classes=splits.classes,
                **config.base.network.model_dump(),
            )
        if config.base.weights is not None:
            evaluators.load_weights(network, Path(config.base.weights))
        base_macs = networks.macs(network, splits.image_shape)
        search = config.search
        limits = Limits(search.depth, search.ops, networks.sites(network, splits.image_shape))
        if search.max_macs is not None:
            allowance = int((search.max_macs - 1) * base_macs) + limits.cost(BASE_TREE)
            limits = replace(limits, macs=allowance)
        return cls(limits, base_macs)


class Experiment:
    """The phases of a run; each returns what the next needs.

    Args:
        config: of the run.
        setting: where the prepared sets are.
        space: what is searched.
        folder: of the run.
        executor: does the trainings.
        console: shows them.
        board: of TensorBoard.
    """

    def __init__(
        self,
        config: Config,
        setting: Setting,
        space: Space,
        folder: RunFolder,
        executor: Executor,
        console: Console,
        board: Board,
    ) -> None:
        self.config = config
        self.setting = setting
        self.space = space
        self.folder = folder
        self.executor = executor
        self.console = console
        self.board = board
        self.network = config.base.network.model_dump()
        self.searches = ("search", "control") if config.search.control else ("search",)
        self.seconds: dict[str, float] = {}
        self.images: dict[str, int] = {}
        self.updates: dict[str, int] = {}
        self._phase = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measures the seconds of a phase, and counts the images of its trainings."""
        self.images[name] = 0
        self._phase, start = name, time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def train_base(self) -> Finished:
        """Trains the base network, or takes the saved one, and reports its accuracy."""
        base = self.config.base
        taken = base.weights is not None
        recipe = Recipe(epochs=0) if taken or base.training is None else base.training
        self.console.line(
            f"base network: {'taken from ' + str(base.weights) if taken else 'training'}"
        )
        job = Training(
            self.setting,
            self.network,
            recipe,
            seed_of(self.config.seed, "base"),
            weights=Path(base.weights) if base.weights is not None else None,
            save=self.folder.weights("base"),
        )
        with self.phase("base"):
            [finished] = self._train([job], "base network")
        self.console.line(
            f"base network: validation accuracy {finished.trained.accuracy:.4f}, "
            f"{finished.trained.parameters:,} parameters, {finished.macs:,} multiply-adds"
        )
        return finished

    def search(self, name: str, base: Finished) -> Record:
        """Searches with the config's controller, or by random search if `name` is ``"control"``."""
        settings, limits = self.config.search, self.space.limits
        kind = "random" if name == "control" else settings.controller.name
        seed = seed_of(self.config.seed, name)
        learner = controllers.make(
            kind, limits.actions, seed=seed, **settings.controller.model_dump(exclude={"name"})
        )
        evaluator = self._evaluator(base)
        record = Record()
        self.console.line(f"{name}: {kind} controller, {settings.trials} trees")
        start = time.perf_counter()
        shown: list[Outcome] = []
        with self.phase(name), self.console.progress(name, settings.trials):
            for update in search(
                learner,
                limits,
                lambda candidates: self._evaluate(evaluator, candidates, shown),
                self._reward(),
                record,
                trials=settings.trials,
                episodes=settings.episodes,
                patience=settings.patience,
                generator=torch.Generator().manual_seed(seed),
            ):
                self.updates[name] = update.number + 1
                for trial in update.trials:
                    self.folder.append(f"{name}.jsonl", trial)
                env, learning = ("control",) * 2 if name == "control" else ("env", "controller")
                self.board.update(env, update, record, time.perf_counter() - start)
                self.board.learner(learning, update)
        return record

    def _evaluator(self, base: Finished) -> InheritAndTrain:
        trial = self.config.search.trial
        inheriting = Training(
            self.setting,
            self.network,
            trial,
            seed=0,
            weights=base.job.save,
            birth=trial.birth,
            gate_fraction=trial.gate_fraction,
            noise=trial.noise,
        )
        return InheritAndTrain(
            inheriting, self.config.seed, self.space.limits, self.space.base_macs
        )

    def _reward(self) -> Reward:
        settings = self.config.search.reward
        images = len(self.setting.source("validation"))
        return Reward(
            settings.shape,
            Reward.ceiling_for(images),
            settings.cost_weight,
            settings.cost_target * self.space.base_macs,
            settings.failure,
        )

    def _evaluate(
        self, evaluator: InheritAndTrain, candidates: Sequence[Candidate], shown: list[Outcome]
    ) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        deadline = self.config.workers.deadline
        for index, result in self.executor.run(evaluator, candidates, deadline=deadline):
            outcome = outcomes[index] = self._outcome(result, candidates[index])
            shown.append(outcome)
            self.images[self._phase] += outcome.images
            best = max((o.accuracy for o in shown if o.accuracy is not None), default=0.0)
            self.console.trial(len(shown), candidates[index], outcome, best)
        return [outcomes[index] for index in range(len(candidates))]

    def _outcome(self, result: Result, candidate: Candidate) -> Outcome:
        if result.failure is None:
            return result.value  # type: ignore[no-any-return]
        seed = seed_of(self.config.seed, candidate.key)
        failure = result.failure
        return Outcome(failure.status, seconds=result.seconds, seed=seed, error=failure.reason)

    def train_in_full(self, base: Finished, found: dict[str, Record]) -> dict[str, Finished]:
        """Trains the best trees and what they are compared with; validation picks.

        Returns:
            By name: ``best`` (of the search), ``control``, ``base_longer`` and ``wider_base``.
        """
        final, trial = self.config.final, self.config.search.trial
        longer = Training(
            self.setting,
            self.network,
            final.training,
            seed_of(self.config.seed, "full"),
            weights=base.job.save,
            birth=trial.birth,
            gate_fraction=trial.gate_fraction,
            noise=trial.noise,
            save=self.folder.weights("base_longer"),
        )
        jobs = {BASE_TREE: longer}
        top = {name: record.best(final.top) for name, record in found.items()}
        for name, trials in top.items():
            for place, best_trial in enumerate(trials, 1):
                tree, save = best_trial.candidate.tree, self.folder.weights(f"{name}-{place}")
                jobs.setdefault(tree, replace(longer, tree=tree, save=save))
        with self.phase("full"):
            done = dict(zip(jobs, self._train(list(jobs.values()), "full training"), strict=True))
            picks = {"base_longer": done[BASE_TREE]}
            for name, trials in top.items():
                trained = [done[t.candidate.tree] for t in trials]
                picks["best" if name == "search" else name] = max(
                    trained, key=lambda one: one.trained.accuracy
                )
            if final.wider:
                [picks["wider_base"]] = self._train([self._wider(base, picks["best"])], "wider")
            if final.retrain:
                picks = self._retrain(picks)
        return picks

    def _wider(self, base: Finished, pick: Finished) -> Training:
        """The base network, wide enough to cost what the best tree costs, from fresh weights."""
        first, final = self.config.base.training, self.config.final.training
        recipe = first or final
        epochs = final.epochs + (first.epochs if first is not None else 0)
        wider = networks.widened(
            target=pick.macs,
            image_shape=self.setting.image_shape,
            classes=self.setting.classes,
            **self.network,
        )
        return Training(
            self.setting,
            wider,
            recipe.model_copy(update={"epochs": epochs}),
            seed_of(self.config.seed, "wider"),
            save=self.folder.weights("wider_base"),
        )

    def _retrain(self, picks: dict[str, Finished]) -> dict[str, Finished]:
        """Trains the picks once more on train + validation; accuracies stay those of before."""
        jobs = [
            replace(one.job, everything=True, save=self.folder.weights(f"{name}-everything"))
            for name, one in picks.items()
        ]
        again = self._train(jobs, "retraining")
        return {
            name: replace(new, trained=replace(new.trained, accuracy=old.trained.accuracy))
            for (name, old), new in zip(picks.items(), again, strict=True)
        }

    def test(self, picks: dict[str, Finished]) -> dict[str, float]:
        """Tests each pick exactly once; returns accuracies in [0, 1]."""
        jobs = [Scoring(one.job) for one in picks.values()]
        with self.phase("test"):
            values = self._all(evaluators.score, jobs, "test")
        for name, value in zip(picks, values, strict=True):
            self.console.line(f"{name}: test accuracy {value:.4f}")
        return dict(zip(picks, values, strict=True))

    def _train(self, jobs: list[Training], title: str) -> list[Finished]:
        trained = self._all(evaluators.train, jobs, title)
        self.images[self._phase] += sum(one.images for one in trained)
        return [Finished(job, one, self._macs(job)) for job, one in zip(jobs, trained, strict=True)]

    def _macs(self, job: Training) -> int:
        shape, classes = self.setting.image_shape, self.setting.classes
        with torch.random.fork_rng(devices=[]):
            network = networks.build(
                channels=shape[0], classes=classes, tree=job.tree, **job.network
            )
        return networks.macs(network, shape)

    def _all(self, function: Any, jobs: list[Any], title: str) -> list[Any]:
        """Does jobs of which none may fail."""
        values: dict[int, Any] = {}
        with self.console.progress(title, len(jobs)):
            for index, result in self.executor.run(function, jobs):
                if result.failure is not None:
                    failure = result.failure
                    raise SearchError(
                        f"{title}: {failure.status}: {failure.reason}\n{failure.traceback}"
                    )
                values[index] = result.value
                self.console.advance()
        return [values[index] for index in range(len(jobs))]

    def summary(
        self,
        base: Finished,
        found: dict[str, Record],
        picks: dict[str, Finished],
        tests: dict[str, float],
    ) -> dict[str, Any]:
        """Keeps the best network and returns what the run found; see the README for the fields."""
        pick = picks["best"]
        best.save(
            self.folder.path / "best",
            pick.job,
            settings=self.config,
            validation=pick.trained.accuracy,
            test=tests["best"],
        )
        return {
            "name": self.config.name,
            "folder": str(self.folder.path),
            "networks": {
                "base": base.report(),
                **{name: one.report(tests[name]) for name, one in picks.items()},
            },
            "best_tree": trees.to_dict(pick.job.tree),
            "searches": {name: self._counts(name, record) for name, record in found.items()},
            "images": {**self.images, "all": sum(self.images.values())},
            "seconds": {**self.seconds, "all": round(sum(self.seconds.values()), 3)},
            "seeds": {"run": self.config.seed, "base": base.job.seed, "full": pick.job.seed},
            "versions": {
                "pathnas": pathnas.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
                "cpu": torch.backends.cpu.get_cpu_capability(),
            },
        }

    def _counts(self, name: str, record: Record) -> dict[str, Any]:
        outcomes = [trial.outcome for trial in record.trials.values()]
        accuracies = [o.accuracy for o in outcomes if o.accuracy is not None]
        return {
            "updates": self.updates[name],
            "trials": self.updates[name] * self.config.search.episodes,
            "distinct_trees": len(outcomes),
            "failed": len(outcomes) - len(accuracies),
            "best_trial_accuracy": max(accuracies),
            "mean_trial_accuracy": sum(accuracies) / len(accuracies),
            "trial_seconds": round(sum(o.seconds for o in outcomes), 3),
        }
