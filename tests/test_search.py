"""The loop: budget, known trees, failures, order."""

from __future__ import annotations

import pytest
import torch

from pathnas import controllers
from pathnas.limits import Limits
from pathnas.outcomes import Outcome, Reward
from pathnas.search import Budget, Progress, Proposal, Record, SearchError, Update, search
from pathnas.surrogate import Surrogate

LIMITS = Limits()


class Evaluations:
    """A surrogate that remembers what it was asked, and may fail."""

    def __init__(self, fails: bool = False) -> None:
        self.asked: list[str] = []
        self.fails = fails
        self.surrogate = Surrogate()

    def __call__(self, proposal: Proposal) -> list[Outcome]:
        candidates = proposal.fresh
        self.asked += [candidate.key for candidate in candidates]
        if self.fails:
            return [Outcome("failed", error="no luck") for _ in candidates]
        return [self.surrogate(candidate) for candidate in candidates]


def run(
    evaluate: Evaluations,
    *,
    name: str = "reinforce",
    limits: Limits = LIMITS,
    trials: int = 20,
    episodes: int = 4,
    patience: int = 5,
) -> tuple[Record, list[Update]]:
    progress = Progress()
    updates = search(
        controllers.make(name, limits.actions, seed=1, hidden=16, head=16),
        limits,
        evaluate,
        Reward("accuracy"),
        progress,
        budget=Budget(trials, patience),
        episodes=episodes,
        generator=torch.Generator().manual_seed(2),
    )
    found = list(updates)
    return progress.record, found


@pytest.mark.parametrize("name", ["reinforce", "random"])
def test_the_budget_counts_distinct_trees_and_overshoots_by_less_than_a_batch(name: str) -> None:
    evaluate = Evaluations()
    record, updates = run(evaluate, name=name)
    assert 20 <= len(record.trials) < 24
    assert len(evaluate.asked) == len(set(evaluate.asked)) == len(record.trials)
    assert [t.number for t in record.trials.values()] == list(range(len(record.trials)))
    assert all(len(update.rewards) == 4 for update in updates)


def test_known_trees_are_answered_from_the_record_and_patience_ends_the_search() -> None:
    tiny = Limits(depth=1)  # keep, add 2, add 3, concat 2: four trees in all
    record, updates = run(Evaluations(), limits=tiny, trials=100)
    assert len(record.trials) == 4
    assert not any(update.trials for update in updates[-5:])
    assert updates[-6].trials


def test_rewards_stand_in_the_order_of_the_episodes() -> None:
    record, updates = run(Evaluations())
    surrogate, reward = Surrogate(), Reward("accuracy")
    for trial in record.trials.values():
        assert trial.reward == reward(surrogate(trial.candidate))
        assert trial.reward in updates[trial.update].rewards


def test_a_search_is_a_function_of_its_seeds() -> None:
    assert run(Evaluations())[0] == run(Evaluations())[0]


def test_best_ignores_failures_and_breaks_ties_by_number() -> None:
    record, _ = run(Evaluations())
    best = record.best(5)
    assert [t.reward for t in best] == sorted((t.reward for t in best), reverse=True)
    assert best[0].reward == max(t.reward for t in record.trials.values())
    assert Record().best() == []


def test_if_everything_fails_the_search_stops_and_says_why() -> None:
    evaluate = Evaluations(fails=True)
    with pytest.raises(SearchError, match=r"\d trials all failed in the same way; .*: no luck"):
        run(evaluate)
    assert len(evaluate.asked) <= 8
