"""Doing the trainings of a run: handing them to an executor, showing and counting them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pathnas import evaluators, networks
from pathnas import tree as trees
from pathnas.console import Console
from pathnas.evaluators import InheritAndTrain, Trained, Training, trial_seed
from pathnas.executors import Executor, Failure, Result
from pathnas.outcomes import Candidate, Outcome
from pathnas.search import Record

Job = TypeVar("Job")


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
    """Hands jobs to an executor, shows how they get on, and counts seconds and images by phase.

    Args:
        executor: does them.
        console: shows them.
        deadline: seconds that a trial may take; other trainings may take as long as they like.
    """

    def __init__(self, executor: Executor, console: Console, deadline: float) -> None:
        self.executor = executor
        self.console = console
        self.deadline = deadline
        self.seconds: dict[str, float] = {}
        self.images: dict[str, int] = {}
        self._phase = ""

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Counts the seconds of a block, and the training images of its jobs, under a name."""
        self.images[name] = 0
        self._phase, start = name, time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def all(self, function: Callable[[Job], Any], jobs: Sequence[Job], title: str) -> list[Result]:
        """Does jobs and returns their results in order."""
        results: dict[int, Result] = {}
        with self.console.progress(title, len(jobs)):
            for index, result in self.executor.run(function, jobs):
                results[index] = result
                self.console.advance()
        return [results[index] for index in range(len(jobs))]

    def train(self, jobs: Sequence[Training], title: str) -> list[Finished]:
        """Does full trainings and returns them in order; one that fails harms no other."""
        finished = []
        for job, result in zip(jobs, self.all(evaluators.train, jobs, title), strict=True):
            macs = networks.macs(evaluators.sketch(job), job.setting.image_shape)
            finished.append(Finished(job, macs, result.value, result.failure))
            if result.value is not None:
                self.images[self._phase] += result.value.images
            elif result.failure is not None:
                self.console.line(f"{title}: {job.tree}: {result.failure.reason}")
        return finished

    def trials(
        self,
        evaluator: InheritAndTrain,
        candidates: Sequence[Candidate],
        known: Mapping[str, Outcome],
        record: Record,
    ) -> list[Outcome]:
        """Runs the trials of candidates; what fails is an outcome too.

        Args:
            evaluator: of the candidates.
            candidates: distinct.
            known: outcomes by key that need no trial.
            record: earlier trials of the same search, for the lines that are shown.
        """
        outcomes: dict[str, Outcome] = {}
        accuracies = [trial.outcome.accuracy or 0.0 for trial in record.trials.values()]

        def finish(candidate: Candidate, outcome: Outcome) -> None:
            outcomes[candidate.key] = outcome
            accuracies.append(outcome.accuracy or 0.0)
            self.console.trial(len(accuracies), candidate, outcome, max(accuracies))

        asked = [candidate for candidate in candidates if candidate.key not in known]
        for candidate in candidates:
            if candidate.key in known:
                finish(candidate, known[candidate.key])
        for index, result in self.executor.run(evaluator, asked, deadline=self.deadline):
            outcome = _outcome(result, asked[index], evaluator.run_seed)
            self.images[self._phase] += outcome.images
            finish(asked[index], outcome)
        return [outcomes[candidate.key] for candidate in candidates]


def _outcome(result: Result, candidate: Candidate, run_seed: int) -> Outcome:
    if isinstance(result.value, Outcome):
        return result.value
    failure = result.failure
    assert failure is not None
    return Outcome(
        failure.status,
        seconds=result.seconds,
        seed=trial_seed(run_seed, candidate),
        error=failure.reason,
        traceback=failure.traceback or None,
    )
