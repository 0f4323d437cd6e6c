"""Doing the trainings of a run: handed to an executor, recorded as they end, done once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any, TypeVar

from pathnas import evaluators, networks
from pathnas import tree as trees
from pathnas.console import Console
from pathnas.evaluators import Scoring, Training
from pathnas.executors import Executor, Failure, Result
from pathnas.outcomes import Trained
from pathnas.store import Store, fingerprint

Job = TypeVar("Job", Training, Scoring)


class JobFailed(RuntimeError):
    """A job without which the run cannot go on has failed."""

    def __init__(self, title: str, failure: Failure) -> None:
        reason = f"{title}: {failure.status}: {failure.reason}"
        super().__init__(f"{reason}\n{failure.traceback}".rstrip())


@dataclass(frozen=True)
class Finished:
    """A training that has ended, well or not.

    Attributes:
        job: its description.
        macs: multiply-adds of the network for one image.
        trained: what it brought; None if it failed.
        failure: why it failed.
    """

    job: Training
    macs: int
    trained: Trained | None
    failure: Failure | None = None

    @property
    def accuracy(self) -> float:
        """On the validation images, in [0, 1]; -1 if the training failed."""
        return self.trained.accuracy if self.trained is not None else -1.0

    def report(self, test: float | None = None) -> dict[str, Any]:
        """Returns its entry of the summary."""
        if self.trained is None:
            assert self.failure is not None
            return {
                "failed": f"{self.failure.status}: {self.failure.reason}",
                "macs": self.macs,
                "tree": trees.key(self.job.tree),
            }
        return {
            "validation": self.trained.accuracy,
            **({} if test is None else {"test": test}),
            "parameters": self.trained.parameters,
            "macs": self.macs,
            "tree": trees.key(self.job.tree),
            "images": self.trained.images,
        }


class Jobs:
    """Hands full trainings to an executor, shows how they get on, and records them.

    Args:
        executor: does them.
        console: shows them.
        store: records them; what it holds is not done again.
    """

    def __init__(self, executor: Executor, console: Console, store: Store) -> None:
        self.executor = executor
        self.console = console
        self.store = store
        self.images: dict[str, int] = {}
        self._phase = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the seconds of a block, and the training images of its jobs, under a name."""
        self.images[name] = 0
        self._phase = name
        with self.console.timed(f"phase {name}"), self.store.clock.phase(name):
            yield

    def all(
        self, function: Callable[[Job], Any], jobs: Mapping[str, Job], title: str
    ) -> dict[str, Result]:
        """Does jobs and returns their results by name, in order.

        Args:
            function: of a job; its value is a number or a dataclass of such.
            jobs: by the names under which their results are recorded.
            title: for the progress bar.

        Raises:
            OSError: if a disk is full, which is no job's failure; what has ended is recorded.
        """
        prints = {name: fingerprint(job) for name, job in jobs.items()}
        outputs = {name: evaluators.outputs(job) for name, job in jobs.items()}
        results = {}
        for name in jobs:
            kept = self.store.trained(name, prints[name], outputs[name])
            if kept is not None:
                with self.store.database.understanding(f"the training {name}"):
                    results[name] = Result(kept["value"], None, float(kept["seconds"]))
        self.console.notes(self.store.notes)
        todo = [name for name in jobs if name not in results]
        with self.console.progress(title, len(todo)):
            asked = [jobs[name] for name in todo]
            running = self.executor.run(
                function, asked, files=evaluators.inputs, outputs=evaluators.outputs
            )
            for index, result in running:
                name = todo[index]
                result.check_disk(name)
                results[name] = result
                if result.failure is None:
                    kept = {"value": _plain(result.value), "seconds": result.seconds}
                    self.store.put_training(name, prints[name], kept, outputs[name])
                    self.console.detail(f"{name} took {result.seconds:.1f} s")
                self.console.advance()
        return {name: results[name] for name in jobs}

    def train(self, jobs: Sequence[Training], title: str) -> list[Finished]:
        """Does full trainings and returns them in order; one that fails harms no other.

        Each is recorded under the name of the file that it saves.
        """
        named = {job.save.stem: job for job in jobs if job.save is not None}
        finished, counted = [], dict[str, int]()
        for name, result in self.all(evaluators.train, named, title).items():
            job, value = named[name], result.value
            with self.store.database.understanding(f"the training {name}"):
                trained = trained_of(value)
            network = repr((job.network, job.tree))  # repeats differ in their seeds alone
            if network not in counted:
                shape = job.setting.image_shape
                counted[network] = networks.macs(evaluators.sketch(job), shape)
            finished.append(Finished(job, counted[network], trained, result.failure))
            if trained is not None:
                self.images[self._phase] += trained.images
            elif result.failure is not None:
                self.console.line(f"{title}: {job.tree}: {result.failure.reason}")
                self.console.failed(name, result.failure.traceback)
        return finished


def trained_of(value: Any) -> Any:
    """Returns what a training brought from its result, which is recorded as a dictionary."""
    return Trained(**value) if isinstance(value, dict) else value


def _plain(value: Any) -> Any:
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
