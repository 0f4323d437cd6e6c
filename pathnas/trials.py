"""The trials of a search: run by an executor, recorded as they end, run again by no resume."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from pathnas import evaluators
from pathnas.console import Console
from pathnas.evaluators import InheritAndTrain, trial_seed
from pathnas.executors import Executor, Result
from pathnas.ledger import Ledger
from pathnas.outcomes import Candidate, Outcome, Reward, Status
from pathnas.search import Proposal

Ended = tuple[int, Candidate, Outcome]
"""A trial's number, its candidate and what it brought."""


@dataclass
class Trials:
    """Runs the trials of one search.

    Attributes:
        executor: runs them.
        evaluator: of the candidates.
        deadline: seconds that a trial may take.
        ledger: in which they are recorded.
        reward: shapes outcomes.
        console: shows them.
        recorded: by key, outcomes that the ledger holds already.
        known: by key, outcomes of another search, which are copied instead of run again.
        best: highest accuracy so far.
        ended: how many have ended.
    """

    executor: Executor
    evaluator: InheritAndTrain
    deadline: float
    ledger: Ledger
    reward: Reward
    console: Console
    recorded: Mapping[str, Outcome]
    known: Mapping[str, Outcome]
    best: float = 0.0
    ended: int = 0

    def batch(self, proposal: Proposal) -> list[Outcome]:
        """Returns the outcomes of a proposal's new trees, in their order."""
        numbered = list(enumerate(proposal.fresh, start=proposal.trial))
        # The dearest first: then the workers come to the end of the batch together.
        numbered.sort(key=lambda one: -self.evaluator.macs(one[1].tree))
        outcomes = {number: outcome for number, _, outcome in self.stream(numbered)}
        return [outcomes[number] for number in sorted(outcomes)]

    def stream(self, asked: Iterable[tuple[int, Candidate]]) -> Iterator[Ended]:
        """Yields trials as they end; what fails is an outcome too.

        Args:
            asked: numbered candidates; each is taken when a worker is free.

        Raises:
            OSError: if a disk is full, which is no candidate's fault.
        """
        answered: deque[Ended] = deque()
        sent: list[tuple[int, Candidate, int]] = []
        jobs = self._send(asked, answered, sent)
        read = evaluators.inputs(self.evaluator.base)
        running = self.executor.run(
            self.evaluator, jobs, deadline=self.deadline, files=lambda candidate: read
        )
        for index, result in running:
            while answered:
                yield answered.popleft()
            number, candidate, attempt = sent[index]
            result.check_disk(f"trial {number}")
            outcome = outcome_of(result, trial_seed(self.evaluator.run_seed, candidate))
            self.ledger.finish(number, attempt, outcome, self.reward(outcome))
            yield self.show((number, candidate, outcome))
        yield from answered

    def _send(
        self,
        asked: Iterable[tuple[int, Candidate]],
        answered: deque[Ended],
        sent: list[tuple[int, Candidate, int]],
    ) -> Iterator[Candidate]:
        """Yields the candidates that have to be run, and notes them; answers the others."""
        for number, candidate in asked:
            key = candidate.key
            if key in self.recorded:
                answered.append(self.show((number, candidate, self.recorded[key])))
            elif key in self.known:
                outcome = self.known[key]
                self.ledger.copy(number, outcome, self.reward(outcome))
                answered.append(self.show((number, candidate, outcome)))
            else:
                sent.append((number, candidate, self.ledger.start(number)))
                self.console.detail(f"trial {number} begins: {key}")
                yield candidate

    def show(self, ended: Ended) -> Ended:
        """Counts a trial that has ended, prints its line and returns it."""
        _, candidate, outcome = ended
        self.ended += 1
        self.best = max(self.best, outcome.accuracy or 0.0)
        self.console.trial(self.ended, candidate, outcome, self.best)
        return ended


def outcome_of(result: Result, seed: int) -> Outcome:
    """Returns the outcome of a trial from what its job brought, whatever that is."""
    if result.failure is not None:
        return Outcome(
            result.failure.status,
            seconds=result.seconds,
            seed=seed,
            error=result.failure.reason,
            traceback=result.failure.traceback or None,
        )
    outcome = result.value
    if not isinstance(outcome, Outcome):
        what = f"expected an outcome from the trial, got {type(outcome).__name__}"
        return Outcome("failed", seconds=result.seconds, seed=seed, error=what)
    if fault := _fault(outcome):
        return Outcome("failed", seconds=result.seconds, seed=seed, error=fault)
    if outcome.accuracy is not None and not math.isfinite(outcome.accuracy):
        what = f"the accuracy is {outcome.accuracy}"
        return replace(outcome, status="diverged", accuracy=None, error=what)
    return outcome


def _fault(outcome: Outcome) -> str | None:
    """Returns what in an outcome cannot be recorded, in words, or None."""
    if outcome.status not in get_args(Status):
        return f"expected a status out of {get_args(Status)}, got {outcome.status!r:.60}"
    if outcome.status == "ok" and outcome.accuracy is None:
        return "expected an accuracy from a trial that is ok, got None"
    for name, kinds in KINDS.items():
        value = getattr(outcome, name)
        if type(value) not in kinds:
            return f"expected {name} as {kinds[0].__name__}, got {value!r:.60}"
    for loss in outcome.curve:
        if type(loss) not in (float, int) or not math.isfinite(loss):
            return f"expected curve as finite floats, got {loss!r:.60} in it"
    if outcome.loss is not None and not math.isfinite(outcome.loss):
        return f"expected loss as a finite float, got {outcome.loss}"
    return None


KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("accuracy", "loss"), (float, int, type(None))),
    **{"seconds": (float, int), "images": (int,)},
    **dict.fromkeys(("macs", "parameters", "seed", "stopped"), (int, type(None))),
    **dict.fromkeys(("error", "traceback"), (str, type(None))),
}
"""Of the values of an outcome: those that JSON holds as they are."""
