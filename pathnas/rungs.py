"""Successive halving within a batch: short trainings decide which candidates are trained longer.

Jamieson and Talwalkar, "Non-stochastic best arm identification and hyperparameter optimization",
2016. Every rung is a training of its own, with a schedule of its own, from the base network's
weights: so a rung's accuracies are those that :mod:`pathnas.audit` measures for its length, the
last rung is the trial that there would be without halving, bit for bit, and no weights are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from pathnas import evaluators
from pathnas.evaluators import InheritAndTrain, trial_seed
from pathnas.outcomes import Candidate, Outcome
from pathnas.search import Proposal
from pathnas.trials import Trials, outcome_of


@dataclass(frozen=True, eq=False)
class Rungs:
    """Runs the trials of a search batch by batch, each batch by successive halving.

    What a training brought is recorded as it ends, and the outcomes of a batch are, in the order of
    its trials, when its last rung has ended: a batch that was broken off goes on with what is
    missing.

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

        A trial that is stopped has the accuracy of its last training; images and seconds are those
        of all its trainings. What another search has run is copied, and takes no part.

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
                before = found.get(number, Outcome("ok"))
                found[number] = replace(
                    outcome,
                    images=before.images + outcome.images,
                    seconds=before.seconds + outcome.seconds,
                    stopped=None if whole or outcome.status != "ok" else epochs,
                )
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
        read = evaluators.inputs(trials.evaluator.base)
        running = trials.executor.run(
            _of_length(trials.evaluator, epochs),
            [candidates[number] for number in todo],
            deadline=trials.deadline,
            files=lambda candidate: read,
        )
        for index, result in running:
            number, candidate = todo[index], candidates[todo[index]]
            result.check_disk(f"trial {number}")
            outcome = outcome_of(result, trial_seed(trials.evaluator.run_seed, candidate))
            ledger.put_rung(number, epochs, candidate, outcome)
            found[number] = outcome
        return {number: found[number] for number in candidates}


def _of_length(evaluator: InheritAndTrain, epochs: int) -> InheritAndTrain:
    recipe = evaluator.base.recipe.model_copy(update={"epochs": epochs})
    return replace(evaluator, base=replace(evaluator.base, recipe=recipe))
