"""A search that waits for no straggler."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
import torch

from pathnas import controllers
from pathnas.asynchronous import AsynchronousSearch
from pathnas.limits import Limits
from pathnas.outcomes import Candidate, Outcome, Reward
from pathnas.search import Budget, Progress, Proposal, SearchError, Update
from pathnas.surrogate import Surrogate

LIMITS = Limits()
Job = tuple[int, Candidate]


class Cluster:
    """Workers whose trials take very different times, so that they end in another order.

    Args:
        workers: how many trials run at a time.
        seed: of the order in which they end.
    """

    def __init__(self, workers: int, seed: int = 0) -> None:
        self.workers, self.chance = workers, random.Random(seed)
        self.asked: list[int] = []
        self.ended: list[int] = []
        self.most = 0

    def __call__(self, asked: Iterable[Job]) -> Iterator[tuple[int, Candidate, Outcome]]:
        jobs, running = iter(asked), list[Job]()
        while True:
            while len(running) < self.workers and (job := next(jobs, None)) is not None:
                self.asked.append(job[0])
                running.append(job)
            self.most = max(self.most, len(running))
            if not running:
                return
            number, candidate = running.pop(self.chance.randrange(len(running)))
            self.ended.append(number)
            yield number, candidate, self.outcome(candidate)

    def outcome(self, candidate: Candidate) -> Outcome:
        return Surrogate()(candidate)


class Failing(Cluster):
    """Where nothing works."""

    def outcome(self, candidate: Candidate) -> Outcome:
        return Outcome("failed", error="no luck")


def make(
    progress: Progress,
    name: str = "reinforce",
    limits: Limits = LIMITS,
    *,
    trials: int = 30,
    proposals: list[Proposal] | None = None,
) -> AsynchronousSearch:
    return AsynchronousSearch(
        controllers.make(name, limits.actions, seed=1, hidden=8, head=8),
        limits,
        Reward("accuracy"),
        progress,
        budget=Budget(trials, 5),
        episodes=4,
        generator=torch.Generator().manual_seed(2),
        propose=(proposals if proposals is not None else []).append,
    )


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_every_trial_is_used_once_and_workers_never_wait(workers: int) -> None:
    progress, cluster = Progress(), Cluster(workers)
    updates = list(make(progress).run(cluster))
    used = [trial.number for update in updates for trial in update.trials]
    assert sorted(used) == sorted(cluster.ended) == list(range(30))
    assert cluster.asked == sorted(cluster.asked)
    assert cluster.most == workers
    assert progress.waiting == []
    learned = [number for update in updates for number in update.episodes]
    assert sorted(learned) == list(range(progress.proposed))
    assert all(len(update.rewards) == len(update.episodes) == 4 for update in updates[:-1])
    trials = progress.record.trials
    assert [t.reward for t in trials.values()] == [t.outcome.accuracy for t in trials.values()]


def stale(updates: list[Update]) -> float:
    return max(update.metrics["staleness_max"] for update in updates)


def test_staleness_is_told() -> None:
    alone = list(make(Progress()).run(Cluster(1)))
    together = list(make(Progress()).run(Cluster(12)))
    assert stale(alone) <= 1 < stale(together)
    for update in together:
        assert 0 <= update.metrics["staleness_mean"] <= update.metrics["staleness_max"]


def test_what_a_broken_search_left_is_asked_for_first() -> None:
    progress, proposals = Progress(), list[Proposal]()
    first = make(progress, "random", proposals=proposals)
    running = first.run(Cluster(6))
    for _ in range(3):
        next(running)
    left = {proposal.trial for proposal in progress.waiting if proposal.fresh}
    left -= {trial.number for trial in progress.record.trials.values()}
    assert left
    cluster = Cluster(6, seed=1)
    rest = list(make(progress, "random").run(cluster))
    assert set(cluster.asked[: len(left)]) == left
    assert len({trial.number for trial in progress.record.trials.values()}) == 30
    assert sum(len(update.trials) for update in rest) <= 30
    assert progress.waiting == []


def test_a_space_that_is_exhausted_ends_the_search() -> None:
    progress = Progress()
    list(make(progress, limits=Limits(depth=1), trials=100).run(Cluster(2)))
    assert len(progress.record.trials) == 4


def test_if_everything_fails_the_search_stops_and_says_why() -> None:
    cluster = Failing(2)
    with pytest.raises(SearchError, match=r"all failed in the same way; .*: no luck"):
        list(make(Progress()).run(cluster))
    assert len(cluster.ended) <= 8
