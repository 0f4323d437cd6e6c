"""Successive halving: short trainings decide which candidates are trained longer.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
2016. Every rung is a training of its own, with a schedule of its own, from the base network's
weights: so a rung's accuracies are those that :mod:`pathnas.audit` measures for its length, the
last rung is the trial that there would be without halving, bit for bit, and no weights are kept.

A search in batches halves each batch. An asynchronous one has no batches: there a trial is compared
with all that came as far before it (Li et al., "A system for massively parallel hyperparameter
tuning", 2020: ASHA; in the variant whose trials, once stopped, are not taken up again).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from pathnas import evaluators
from pathnas.evaluators import InheritAndTrain, trial_seed
from pathnas.executors import LATER, Result
from pathnas.executors.contract import Later
from pathnas.outcomes import Candidate, Outcome
from pathnas.search import Proposal
from pathnas.trials import Ended, Trials, outcome_of


@dataclass(frozen=True, eq=False)
class Rungs:
    """Runs the trials of a search by successive halving.

    What a training brought is recorded as it ends, and the outcomes of a batch are, in the order of
    its trials, when its last rung has ended: what was broken off goes on with what is missing.

    A trial that is stopped has the accuracy of its last training; images and seconds are those of
    all its trainings. What another search has run is copied, and takes no part.

    Attributes:
        trials: of the search.
        lengths: epochs of each rung, rising; the last are those of a whole trial.
        factor: one in so many candidates of a rung goes on, rounded up.
    """

    trials: Trials
    lengths: tuple[int, ...]
    factor: int

    def batch(self, proposal: Proposal) -> list[Outcome]:
        """Returns the outcomes of a proposal's new trees, in their order.

        Raises:
            OSError: if a disk is full, which is no candidate's fault.
        """
        trials = self.trials
        numbered = dict(enumerate(proposal.fresh, start=proposal.trial))
        ended = {n: trials.known[c.key] for n, c in numbered.items() if c.key in trials.known}
        running = {number: c for number, c in numbered.items() if number not in ended}
        attempts = {
            number: trials.ledger.start(number)
            for number, candidate in running.items()
            if candidate.key not in trials.recorded
        }
        outcomes = self._halved(running)
        for number, candidate in numbered.items():
            outcome = ended[number] if number in ended else outcomes[number]
            if number in attempts:
                trials.ledger.finish(number, attempts[number], outcome, trials.reward(outcome))
            elif candidate.key not in trials.recorded:
                trials.ledger.copy(number, outcome, trials.reward(outcome))
            trials.show((number, candidate, outcome))
            outcomes[number] = outcome
        return [outcomes[number] for number in numbered]

    def _halved(self, candidates: Mapping[int, Candidate]) -> dict[int, Outcome]:
        found: dict[int, Outcome] = {}
        left = dict(candidates)
        for epochs in self.lengths:
            brought = self._rung(left, epochs) if left else {}
            whole = epochs == self.lengths[-1]
            for number, outcome in brought.items():
                stopped = None if whole or outcome.status != "ok" else epochs
                found[number] = _ended(found.get(number, Outcome("ok")), outcome, stopped)
            left = {number: left[number] for number in self._promoted(brought)}
        return found

    def _promoted(self, outcomes: Mapping[int, Outcome]) -> list[int]:
        """Returns the numbers of those that go on, ties by number; what failed never does."""
        rewards = {n: self.trials.reward(o) for n, o in outcomes.items() if o.status == "ok"}
        ranked = sorted(rewards, key=lambda number: (-rewards[number], number))
        return sorted(ranked[: math.ceil(len(outcomes) / self.factor)])

    def _rung(self, candidates: Mapping[int, Candidate], epochs: int) -> dict[int, Outcome]:
        """Returns what trainings of so many epochs bring, by number; runs what is not recorded."""
        trials, ledger = self.trials, self.trials.ledger
        kept = {number: ledger.rung(number, epochs) for number in candidates}
        found = {number: outcome for number, outcome in kept.items() if outcome is not None}
        todo = [number for number in candidates if number not in found]
        # The dearest first, as in a batch without halving.
        todo.sort(key=lambda number: -trials.evaluator.macs(candidates[number].tree))
        running = self._run([(candidates[number], epochs) for number in todo])
        for index, result in running:
            number = todo[index]
            found[number] = self._brought(number, candidates[number], epochs, result)
        return {number: found[number] for number in candidates}

    def stream(self, asked: Iterable[tuple[int, Candidate]]) -> Iterator[Ended]:
        """Yields trials as they end; what fails is an outcome too.

        When a training ends, its trial goes on at once if its reward is among the best `1 / factor`
        (rounded up) of all that this search has trained for so long, and ends there otherwise.

        Args:
            asked: numbered candidates; each is taken when a worker is free and no trial waits for
                its next training.

        Raises:
            OSError: if a disk is full, which is no candidate's fault.
        """
        line = _Line(self)
        sent: list[_Going] = []
        for index, result in self._run(line.jobs(asked, sent)):
            one = sent[index]
            line.running -= 1
            line.take(one, self._brought(one.number, one.candidate, one.epochs, result))
            while line.ended:
                yield line.ended.popleft()
        yield from line.ended

    def _run(
        self, jobs: Iterable[tuple[Candidate, int] | Literal[Later.LATER]]
    ) -> Iterator[tuple[int, Result]]:
        trials = self.trials
        read = evaluators.inputs(trials.evaluator.base)
        return trials.executor.run(
            _OfLength(trials.evaluator), jobs, deadline=trials.deadline, files=lambda job: read
        )

    def _brought(self, number: int, candidate: Candidate, epochs: int, result: Result) -> Outcome:
        """Records what a training brought, and returns it."""
        trials = self.trials
        result.check_disk(f"trial {number}")
        outcome = outcome_of(result, trial_seed(trials.evaluator.run_seed, candidate))
        trials.ledger.put_rung(number, epochs, candidate, outcome)
        return outcome


@dataclass(frozen=True)
class _OfLength:
    """Trains a candidate for so many epochs; a function for executors."""

    evaluator: InheritAndTrain

    def __call__(self, job: tuple[Candidate, int]) -> Outcome:
        candidate, epochs = job
        base = self.evaluator.base
        recipe = base.recipe.model_copy(update={"epochs": epochs})
        return replace(self.evaluator, base=replace(base, recipe=recipe))(candidate)


def _ended(before: Outcome, outcome: Outcome, stopped: int | None) -> Outcome:
    """Returns what a trial has brought with its latest training."""
    return replace(
        outcome,
        images=before.images + outcome.images,
        seconds=before.seconds + outcome.seconds,
        stopped=stopped,
    )


@dataclass(frozen=True)
class _Going:
    """A trial on its way.

    Attributes:
        number: of the trial.
        candidate: the tree.
        attempt: at the trial.
        rung: of its next training, from 0.
        epochs: of that.
        before: what its trainings have brought so far.
    """

    number: int
    candidate: Candidate
    attempt: int
    rung: int
    epochs: int
    before: Outcome


class _Line:
    """The trials of an asynchronous search that are on their way."""

    def __init__(self, rungs: Rungs) -> None:
        self.rungs = rungs
        trials = rungs.trials
        self.going: deque[_Going] = deque()
        self.ended: deque[Ended] = deque()
        self.running = 0
        # By epochs and the number of the trial.
        self.rewards = {
            epochs: {
                number: trials.reward(outcome) if outcome.status == "ok" else -math.inf
                for number, outcome in trials.ledger.rungs(epochs).items()
            }
            for epochs in rungs.lengths
        }

    def jobs(
        self, asked: Iterable[tuple[int, Candidate]], sent: list[_Going]
    ) -> Iterator[tuple[Candidate, int] | Literal[Later.LATER]]:
        """Yields the next training, and notes it, as long as there will be one."""
        new = iter(asked)
        while True:
            if self.going:
                one = self.going.popleft()
                sent.append(one)
                self.running += 1
                yield one.candidate, one.epochs
            elif (numbered := next(new, None)) is not None:
                self._begin(*numbered)
            elif self.running:
                yield LATER
            else:
                return

    def _begin(self, number: int, candidate: Candidate) -> None:
        trials, key = self.rungs.trials, candidate.key
        if key in trials.recorded:
            self.ended.append(trials.show((number, candidate, trials.recorded[key])))
        elif key in trials.known:
            outcome = trials.known[key]
            trials.ledger.copy(number, outcome, trials.reward(outcome))
            self.ended.append(trials.show((number, candidate, outcome)))
        else:
            attempt = trials.ledger.start(number)
            self._next(_Going(number, candidate, attempt, 0, self.rungs.lengths[0], Outcome("ok")))

    def _next(self, one: _Going) -> None:
        """Lets a trial wait for its training, unless that was done before the search broke off."""
        kept = self.rungs.trials.ledger.rung(one.number, one.epochs)
        if kept is None:
            self.going.append(one)
        else:
            self.take(one, kept)

    def take(self, one: _Going, outcome: Outcome) -> None:
        """Decides what becomes of a trial whose training has brought this."""
        trials, lengths = self.rungs.trials, self.rungs.lengths
        sound = outcome.status == "ok"
        rewards = self.rewards[one.epochs]
        rewards[one.number] = trials.reward(outcome) if sound else -math.inf
        whole = one.rung == len(lengths) - 1
        before = _ended(one.before, outcome, None if whole or not sound else one.epochs)
        if sound and not whole:
            further = replace(one, rung=one.rung + 1, epochs=lengths[one.rung + 1], before=before)
            better = sum(reward > rewards[one.number] for reward in rewards.values())
            # Before a resume it may have gone on although others have been better since.
            went_on = trials.ledger.rung(one.number, further.epochs) is not None
            if went_on or better < math.ceil(len(rewards) / self.rungs.factor):
                self._next(further)
                return
        trials.ledger.finish(one.number, one.attempt, before, trials.reward(before))
        self.ended.append(trials.show((one.number, one.candidate, before)))
