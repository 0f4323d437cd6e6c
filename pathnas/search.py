"""The loop of the search: roll out, evaluate, learn (paper, section 4.2).

Knows neither files nor TensorBoard: :func:`search` yields an :class:`Update` after each update, and
whoever iterates decides what to show and to keep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from pathnas.controllers import Learner
from pathnas.controllers.rollout import rollout
from pathnas.decisions import Limits
from pathnas.outcomes import Candidate, Outcome, Reward


@dataclass(frozen=True)
class Trial:
    """One distinct tree, evaluated.

    Attributes:
        number: in order of proposal, from 0.
        update: the update in which it was proposed first.
        candidate: the tree.
        outcome: of its evaluation.
        reward: that the outcome earns.
    """

    number: int
    update: int
    candidate: Candidate
    outcome: Outcome
    reward: float


class SearchError(RuntimeError):
    """Every trial of a search failed so far, so going on would only burn the budget."""


@dataclass
class Record:
    """All trials of a search, by key, in order of proposal."""

    trials: dict[str, Trial] = field(default_factory=dict)

    def best(self, count: int = 1) -> list[Trial]:
        """Returns the trials of highest reward that did not fail, best first, ties by number."""
        sound = [trial for trial in self.trials.values() if trial.outcome.status == "ok"]
        return sorted(sound, key=lambda trial: (-trial.reward, trial.number))[:count]


@dataclass(frozen=True)
class Update:
    """What one update did.

    Attributes:
        number: from 0.
        rewards: of its episodes, `[B]`.
        trials: new in this update.
        metrics: of the learner, by name.
    """

    number: int
    rewards: list[float]
    trials: list[Trial]
    metrics: dict[str, float]


EvaluateBatch = Callable[[Sequence[Candidate]], Sequence[Outcome]]
"""Evaluates distinct candidates and returns their outcomes in the same order."""


def search(
    learner: Learner,
    limits: Limits,
    evaluate: EvaluateBatch,
    reward: Reward,
    record: Record,
    *,
    trials: int,
    episodes: int,
    patience: int,
    generator: torch.Generator,
) -> Iterator[Update]:
    """Searches until the budget is spent or nothing new is proposed, one update an item.

    Args:
        learner: holds the controller that proposes candidates, and improves it.
        limits: what a candidate may be.
        evaluate: runs the trials of the new candidates of an update.
        reward: shapes outcomes.
        record: filled with the trials; known trees are answered from it.
        trials: budget in distinct trees; checked between updates, so a last batch may exceed it.
        episodes: candidates proposed in an update.
        patience: updates in a row without a new tree that end the search.
        generator: of all sampling.

    Raises:
        SearchError: if all trials of the first updates fail, with the first one's error.
    """
    number = idle = 0
    while len(record.trials) < trials and idle < patience:
        rolled = rollout(learner.controller, limits, episodes, generator)
        candidates = [Candidate(episode.tree) for episode in rolled]
        fresh = {c.key: c for c in candidates if c.key not in record.trials}
        outcomes = evaluate(list(fresh.values())) if fresh else []
        new = [
            Trial(len(record.trials) + place, number, candidate, outcome, reward(outcome))
            for place, (candidate, outcome) in enumerate(zip(fresh.values(), outcomes, strict=True))
        ]
        record.trials.update({trial.candidate.key: trial for trial in new})
        _check_sound(record, final=number > 0 or len(record.trials) >= trials)
        rewards = [record.trials[candidate.key].reward for candidate in candidates]
        yield Update(number, rewards, new, learner.update(rolled, rewards))
        idle = 0 if new else idle + 1
        number += 1


def _check_sound(record: Record, *, final: bool) -> None:
    """One batch may fail by bad luck; if nothing succeeds after that, nothing will."""
    if final and not record.best():
        first = next(iter(record.trials.values()))
        raise SearchError(
            f"all {len(record.trials)} trials so far failed; the first: {first.outcome.status}: "
            f"{first.outcome.error}"
        )
