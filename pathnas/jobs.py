"""Doing the trainings of a run: handing them to an executor, showing and counting them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from pathnas import evaluators, networks
from pathnas import tree as trees
from pathnas.console import Console
from pathnas.evaluators import InheritAndTrain, Trained, Training, seed_of
from pathnas.executors import Executor, Result
from pathnas.outcomes import Candidate, Outcome
from pathnas.search import SearchError

Job = TypeVar("Job")


@dataclass(frozen=True)
class Finished:
    """A training that was done.

    Attributes:
        job: its description.
        trained: what it brought.
        macs: multiply-adds of the network for one image.
    """

    job: Training
    trained: Trained
    macs: int

    def report(self, test: float | None = None) -> dict[str, Any]:
        """Returns its entry of the summary."""
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

    def all(self, function: Callable[[Job], Any], jobs: Sequence[Job], title: str) -> list[Any]:
        """Does jobs of which none may fail, and returns their values in order.

        Raises:
            SearchError: if one fails.
        """
        values: dict[int, Any] = {}
        with self.console.progress(title, len(jobs)):
            for index, result in self.executor.run(function, jobs):
                if (failure := result.failure) is not None:
                    reason = f"{title}: {failure.status}: {failure.reason}"
                    raise SearchError(f"{reason}\n{failure.traceback}".rstrip())
                values[index] = result.value
                self.console.advance()
        return [values[index] for index in range(len(jobs))]

    def train(self, jobs: Sequence[Training], title: str) -> list[Finished]:
        """Does trainings of which none may fail.

        Raises:
            SearchError: if one fails.
        """
        trained = self.all(evaluators.train, jobs, title)
        self.images[self._phase] += sum(one.images for one in trained)
        return [Finished(job, one, _macs(job)) for job, one in zip(jobs, trained, strict=True)]

    def trials(
        self, evaluator: InheritAndTrain, candidates: Sequence[Candidate], before: Sequence[Outcome]
    ) -> list[Outcome]:
        """Runs the trials of candidates; what fails is an outcome too.

        Args:
            evaluator: of the candidates.
            candidates: distinct.
            before: earlier outcomes of the same search, for the lines that are shown.
        """
        outcomes: dict[int, Outcome] = {}
        best = max((o.accuracy for o in before if o.accuracy is not None), default=0.0)
        for index, result in self.executor.run(evaluator, candidates, deadline=self.deadline):
            outcome = outcomes[index] = _outcome(result, candidates[index], evaluator.run_seed)
            self.images[self._phase] += outcome.images
            best = max(best, outcome.accuracy or 0.0)
            self.console.trial(len(before) + len(outcomes), candidates[index], outcome, best)
        return [outcomes[index] for index in range(len(candidates))]


def _outcome(result: Result, candidate: Candidate, run_seed: int) -> Outcome:
    if isinstance(result.value, Outcome):
        return result.value
    failure = result.failure
    assert failure is not None
    seed = seed_of(run_seed, candidate.key)
    return Outcome(failure.status, seconds=result.seconds, seed=seed, error=failure.reason)


def _macs(job: Training) -> int:
    network = evaluators.build(job)
    return networks.macs(network, job.setting.image_shape)
