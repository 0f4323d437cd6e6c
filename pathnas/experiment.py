"""A run from its config to its summary, phase by phase.

Data, base network, search, control, full trainings, test. The search is handed a training set and a
validation set; the test set is written for the workers only after every choice has been made.
"""

from __future__ import annotations

import platform
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pathnas
from pathnas import best, controllers, data, executors, store
from pathnas import config as configs
from pathnas import tree as trees
from pathnas.board import Board
from pathnas.console import Console
from pathnas.evaluators import Setting, seed_of
from pathnas.finals import Finals, test_once
from pathnas.jobs import Finished, JobFailed, Jobs
from pathnas.plan import Plan
from pathnas.search import Record, search
from pathnas.store import RunFolder

PRELOAD = ("pathnas.evaluators",)
"""What worker processes need, imported once for all of them."""


def run(plan: Plan, console: Console) -> dict[str, Any]:
    """Does a run and returns its summary, which also stands in its folder.

    Raises:
        OSError: if the folder cannot be made or written.
        JobFailed: if the base network cannot be trained, or no tree of a search in full.
        SearchError: if trials fail throughout.
    """
    start = time.perf_counter()
    config, workers = plan.config, plan.config.workers
    folder = RunFolder.new(Path(config.runs), config.name)
    console.line(f"run folder {folder.path}")
    folder.write("config.yaml", configs.dump(config))
    setting = plan.prepare(folder.path / "data")
    with (
        executors.executor(workers.kind, workers.count, (*PRELOAD, *config.plugins)) as executor,
        Board(folder.path / "tensorboard") as board,
    ):
        board.text("env", "config", configs.dump(config))
        jobs = Jobs(executor, console, workers.deadline)
        experiment = Experiment(plan, folder, jobs, board)
        base = experiment.train_base(setting)
        searched = {"search": experiment.search("search", base)}
        if config.search.control:
            searched["control"] = experiment.search("control", base, searched["search"].record)
        picks = experiment.train_in_full(base, searched)
        data.save(plan.splits.test, setting.folder / "test")
        with jobs.phase("test"):
            tests = test_once(jobs, picks)
        summary = {
            **experiment.summary(base, searched, picks, tests),
            "test_images": len(plan.splits.test),
            "wall_seconds": round(time.perf_counter() - start, 3),
        }
    store.write_json(folder.path / "summary.json", summary)
    return summary


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
        plan: of the run.
        folder: of the run.
        jobs: does the trainings.
        board: of TensorBoard.
    """

    def __init__(self, plan: Plan, folder: RunFolder, jobs: Jobs, board: Board) -> None:
        self.plan = plan
        self.config = plan.config
        self.folder = folder
        self.weights = folder.path / "weights"
        self.jobs = jobs
        self.board = board

    def train_base(self, setting: Setting) -> Finished:
        """Trains the base network, or takes the saved one, and reports its accuracy.

        Raises:
            JobFailed: if it cannot be trained.
        """
        job = self.plan.base_training(setting, self.weights / "base.safetensors")
        with self.jobs.phase("base"):
            [found] = self.jobs.train([job], "base network")
        if found.trained is None:
            assert found.failure is not None
            raise JobFailed("base network", found.failure)
        source = f" from {job.weights}" if job.weights else ""
        self.jobs.console.line(
            f"base network{source}: validation accuracy {found.accuracy:.4f}, "
            f"{found.trained.parameters:,} parameters, {found.macs:,} multiply-adds"
        )
        return found

    def search(self, name: str, base: Finished, known: Record | None = None) -> Searched:
        """Searches with the config's controller, or by random search if `name` is ``"control"``.

        Args:
            name: of the search.
            base: the base network.
            known: the record of the search whose control this is. It gets the same budget; a tree
                that both propose is trained once and counted in both.
        """
        settings, limits = self.config.search, self.plan.limits
        trials = len(known.trials) if known is not None else settings.trials
        outcomes = {key: t.outcome for key, t in known.trials.items()} if known else {}
        kind = "random" if name == "control" else settings.controller.name
        seed = seed_of(self.config.seed, name)
        own = settings.controller.model_dump(exclude={"name"})
        learner = controllers.make(kind, limits.actions, seed=seed, **own)
        evaluator = self.plan.evaluator(base.job)
        self.jobs.console.line(f"{name}: {kind} controller, {trials} distinct trees to train")
        record, start, updates, proposed = Record(), time.perf_counter(), 0, 0
        with self.jobs.phase(name), self.jobs.console.progress(name, trials):
            for update in search(
                learner,
                limits,
                lambda candidates: self.jobs.trials(evaluator, candidates, outcomes, record),
                self.plan.reward(),
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

    def train_in_full(self, base: Finished, searched: dict[str, Searched]) -> dict[str, Finished]:
        """Trains the best trees in full, and what they are compared with."""
        final = self.config.final
        finals = Finals(
            self.jobs,
            self.plan.inherit(base.job),
            self.config.base.training,
            final,
            self.config.seed,
            self.weights,
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
