"""A run from its config to its summary, phase by phase.

Data, base network, search, control, full trainings, test. The search is handed a training set and a
validation set; the test set is written for the workers only after every choice has been made.
"""

from __future__ import annotations

import platform
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import pathnas
from pathnas import best, controllers, executors, files, results
from pathnas import config as configs
from pathnas import tree as trees
from pathnas.asynchronous import AsynchronousSearch
from pathnas.board import ENCODINGS, Board
from pathnas.console import Console
from pathnas.controllers.policy import Controller
from pathnas.database import RecordError
from pathnas.evaluators import Setting, seed_of, sketch
from pathnas.finals import Finals, test_once
from pathnas.jobs import Finished, JobFailed, Jobs
from pathnas.latency import NAME as LATENCIES
from pathnas.latency import Latencies
from pathnas.ledger import Ledger
from pathnas.plan import Plan
from pathnas.rungs import Rungs
from pathnas.search import Budget, Progress, Record, SearchError, Update, search
from pathnas.store import Store
from pathnas.trials import Trials

PRELOAD = ("pathnas.evaluators",)
"""What worker processes need, imported once for all of them."""


def run(plan: Plan, store: Store, console: Console) -> dict[str, Any]:
    """Does a run, or what is left of it, and returns its summary, which also stands in its folder.

    Args:
        plan: of the run, from the config of its record.
        store: the open record of the run.
        console: shows what is done.

    Raises:
        OSError: if the folder cannot be written.
        RecordError: if the record is damaged, or the images are not those that the run began with.
        JobFailed: if the base network cannot be trained, or no tree of a search in full.
        SearchError: if trials fail throughout.
    """
    summary: dict[str, Any] | None = store.meta("summary")
    if summary is not None:
        return summary
    config, workers = store.config, store.config.workers
    console.line(f"run folder {store.path}" + (", resumed" if store.resumed else ""))
    console.notes(store.notes)
    check_images(plan, store)
    plan = _timed(plan, store)
    setting = plan.prepare(store.path / "data")
    shutil.rmtree(store.path / "tensorboard", ignore_errors=True)  # it is written again
    with (
        store.clock.phase("run"),
        executors.executor(
            preload=(*PRELOAD, *config.plugins),
            **workers.model_dump(exclude={"loaders", "deadline"}),
        ) as executor,
        Board(store.path / "tensorboard", plan.limits.sites) as board,
    ):
        board.begin(
            configs.dump(config), f"python -m pathnas.run --resume {shlex.quote(str(store.path))}"
        )
        experiment = Experiment(plan, store, Jobs(executor, console, store), board)
        base = experiment.train_base(setting)
        searched = {"search": experiment.search("search", base)}
        if config.search.control:
            searched["control"] = experiment.search("control", base, searched["search"].record)
        picks = experiment.train_in_full(base, searched)
        plan.prepare_set(plan.splits.test, setting.folder / "test")
        with experiment.jobs.phase("test"):
            tests = test_once(experiment.jobs, picks)
        summary = experiment.summary(base, searched, picks, tests)
        board.network(sketch(picks["best"].job).eval())
        board.ended(summary, config.model_dump(), _next(store.path, config.name))
    files.write_json(store.path / "summary.json", summary)
    store.note(summary=summary)
    store.event("ended")
    return summary


def _timed(plan: Plan, store: Store) -> Plan:
    """Returns the plan with the limit on latencies that the run began with, if it has one."""
    if plan.config.search.max_latency is None:
        return plan
    path = store.path / LATENCIES
    noted = store.meta("latencies")
    if noted is None:
        (plan.limits.latencies or plan.measured()).write(path)
        store.note(latencies=files.digest(path))
    elif not path.is_file() or files.digest(path) != noted:
        raise RecordError(
            f"{path}: expected the table of latencies that the run began with, got "
            f"{'another' if path.is_file() else 'no file'}"
        )
    return plan.timed(Latencies.read(path, plan.limits.sites, plan.limits.ops))


def _next(folder: Path, name: str) -> str:
    """Returns the commands for what may be done with the network that was found."""
    place = shlex.quote(str(folder))
    return (
        f"python -m pathnas.export {place} --to {name}-net\n"
        f"python -m pathnas.train {place} --to {name}-trained\n"
        f"python -m pathnas.report {place}"
    )


def check_images(plan: Plan, store: Store) -> None:
    """Notes which images the run uses, and refuses others in a resume.

    Raises:
        RecordError: if they are not those that the run began with.
    """
    found, noted = plan.digests(), store.meta("images")
    if noted is None:
        store.note(images=found)
        return
    changed = [name for name, digest in found.items() if noted.get(name) != digest]
    if changed:
        raise RecordError(
            f"{store.path} was begun with other images: {', '.join(changed)} of "
            f"data.name={store.config.data.name} have changed since"
        )


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
        store: the record of the run.
        jobs: does the full trainings.
        board: of TensorBoard.
    """

    def __init__(self, plan: Plan, store: Store, jobs: Jobs, board: Board) -> None:
        self.plan = plan
        self.config = store.config
        self.store = store
        self.weights = store.path / "weights"
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

        Raises:
            SearchError: if trials fail throughout; those of the last batch are not counted.
        """
        settings, limits = self.config.search, self.plan.limits
        console, reward = self.jobs.console, self.plan.reward()
        kind = "random" if name == "control" else settings.controller.name
        seed = seed_of(self.config.seed, name)
        own = settings.controller.model_dump(exclude={"name"})
        learner = controllers.make(kind, limits.actions, seed=seed, **own)
        generator = torch.Generator().manual_seed(seed)
        ledger = Ledger(self.store.database, name, limits)
        resumed = ledger.resume(learner, generator)
        progress = resumed.progress
        budget = self._budget(name, ledger, known)
        console.line(f"{name}: {kind} controller, {budget.trials} distinct trees to train")
        if progress.proposed:
            console.line(
                f"{name}: resumed after {progress.updates} updates; {len(progress.record.trials)} "
                f"trials are done, {len(resumed.outcomes)} more wait for their update"
            )
        if resumed.lost:
            console.line(f"note: the {name}'s latest learner is damaged; the one before it serves")
        shown = Record()
        for update, seconds in zip(resumed.updates, resumed.seconds, strict=True):
            self._show(name, update, shown, seconds, budget.trials)
        trials = Trials(
            self.jobs.executor,
            self.plan.evaluator(base.job),
            self.config.workers.deadline,
            ledger,
            reward,
            console,
            resumed.outcomes,
            {key: t.outcome for key, t in known.trials.items()} if known else {},
            max((t.outcome.accuracy or 0.0 for t in progress.record.trials.values()), default=0.0),
            len(progress.record.trials),
        )
        with self.jobs.phase(name), console.progress(name, budget.trials, trials.ended):
            for update in self._updates(learner, trials, progress, budget, generator):
                seconds = self.store.clock.seconds(name)
                ledger.learned(update, learner, seconds)
                console.detail(told(update))
                self._show(name, update, shown, seconds, budget.trials)
        if not progress.record.best():
            raise SearchError(f"no trial of the {name} succeeded")
        self.jobs.images[name] = ledger.images()
        self.export()
        self._show_ended(name, learner, progress.record)
        return Searched(progress.record, progress.updates, progress.proposed)

    def _updates(
        self,
        learner: controllers.Learner,
        trials: Trials,
        progress: Progress,
        budget: Budget,
        generator: torch.Generator,
    ) -> Iterator[Update]:
        """Yields the updates that a search has still to do."""
        common: dict[str, Any] = {
            "budget": budget,
            "episodes": self.config.search.episodes,
            "generator": generator,
            "propose": lambda proposal: trials.ledger.propose(proposal, generator),
        }
        begin = (learner, self.plan.limits)
        try:
            halving, epochs = self.config.search.halving, self.config.search.trial.epochs
            lengths = halving.lengths(epochs) if halving else ()
            runner = Rungs(trials, lengths, halving.factor) if halving else trials
            if self.config.search.asynchronous:
                found = AsynchronousSearch(*begin, trials.reward, progress, **common)
                yield from found.run(runner.stream)
            else:
                yield from search(*begin, runner.batch, trials.reward, progress, **common)
        except SearchError:
            trials.ledger.forget(progress.waiting)
            raise

    def _budget(self, name: str, ledger: Ledger, known: Record | None) -> Budget:
        settings = self.config.search
        if known is not None:
            return Budget(len(known.trials), settings.patience)
        hours, trial_hours = settings.hours, settings.trial_hours

        def spent() -> bool:
            if hours is not None and self.store.clock.seconds(name) >= hours * 3600:
                return True
            return trial_hours is not None and ledger.trial_seconds() >= trial_hours * 3600

        return Budget(settings.trials, settings.patience, spent)

    @staticmethod
    def _runs(name: str) -> tuple[str, str]:
        """Returns the runs of TensorBoard for a search and for its learner."""
        return ("control", "control") if name == "control" else ("env", "controller")

    def _show(self, name: str, update: Update, record: Record, seconds: float, budget: int) -> None:
        """Writes an update to TensorBoard, and adds its trials to a record of what was shown."""
        record.trials.update({trial.candidate.key: trial for trial in update.trials})
        env, learning = self._runs(name)
        self.board.update(env, update, record, seconds, budget)
        self.board.learner(learning, update)

    def _show_ended(self, name: str, learner: controllers.Learner, record: Record) -> None:
        """Writes to TensorBoard what a search that has ended looks like as a whole."""
        env, learning = self._runs(name)
        self.board.searched(env, learning, record)
        controller = getattr(learner, "controller", None)
        if isinstance(controller, Controller):
            sound = record.best(ENCODINGS)
            encodings = controller.encode([one.candidate.tree for one in sound], self.plan.limits)
            self.board.encodings(learning, sound, encodings)

    def export(self) -> None:
        """Writes the trials so far as a table for people."""
        files.write(self.store.path / "trials.csv", results.csv_text(self.store.database))

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
            self.store.path / "best",
            pick.job,
            settings=self.config,
            validation=pick.accuracy,
            test=tests["best"],
            ancestors=self.store.meta("ancestors"),
        )
        networks_by_name = {name: one.report(tests.get(name)) for name, one in picks.items()}
        images, clock = self.jobs.images, self.store.clock
        return {
            "name": self.config.name,
            "folder": str(self.store.path),
            "networks": {"base": base.report(), **networks_by_name},
            "ancestors": self.store.meta("ancestors"),
            "best_tree": trees.to_dict(pick.job.tree),
            "searches": {name: one.report() for name, one in searched.items()},
            "images": {**images, "all": sum(images.values())},
            "seconds": {phase: round(clock.seconds(phase), 3) for phase in images},
            "wall_seconds": round(clock.seconds("run"), 3),
            "test_images": len(self.plan.splits.test),
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


def told(update: Update) -> str:
    """Writes what an update of a learner did on one line."""
    rewards, metrics = update.rewards, update.metrics
    parts = [f"{len(update.trials)} new trees", f"mean reward {sum(rewards) / len(rewards):.4f}"]
    parts += [f"{name} {metrics[name]:.4f}" for name in ("loss", "entropy") if name in metrics]
    return f"update {update.number}: " + ", ".join(parts)


SEEDS = ("base", "search", "control", "full", "wider")
"""What seeds are made for by :func:`pathnas.evaluators.seed_of`, besides one for each tree."""
