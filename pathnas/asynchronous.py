"""A search that waits for no straggler: each finished trial is used, whenever it comes.

For clusters whose trials take very different times. What the controller learns from may have been
proposed by an older state of it; each update's metrics tell by how much. Since the order in which
trials end decides what is learned, two runs of one seed differ: :func:`pathnas.search.search` is
the reproducible way, and the default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch

from pathnas.controllers import Learner
from pathnas.limits import Limits
from pathnas.outcomes import Candidate, Outcome, Reward
from pathnas.search import Budget, Progress, Proposal, Trial, Update, check_sound

EvaluateStream = Callable[
    [Iterable[tuple[int, Candidate]]], Iterator[tuple[int, Candidate, Outcome]]
]
"""Takes numbered candidates one by one, the next when a worker is free; yields outcomes as they
come."""


class AsynchronousSearch:
    """The state of an asynchronous search; :meth:`run` goes on with it.

    Args:
        learner: proposes candidates, and learns from their rewards.
        limits: what a candidate may be.
        reward: shapes outcomes.
        progress: where to begin; kept up to date.
        budget: ends the search.
        episodes: that an update learns from.
        generator: of all sampling.
        propose: is told each proposal before its evaluation.
    """

    def __init__(
        self,
        learner: Learner,
        limits: Limits,
        reward: Reward,
        progress: Progress,
        *,
        budget: Budget,
        episodes: int,
        generator: torch.Generator,
        propose: Callable[[Proposal], None] = lambda proposal: None,
    ) -> None:
        self.learner = learner
        self.limits = limits
        self.reward = reward
        self.progress = progress
        self.budget = budget
        self.episodes = episodes
        self.generator = generator
        self.propose = propose
        self._running: dict[str, int] = {}  # by key: the update in which it was proposed
        self._known_in_a_row = 0

    def run(self, evaluate: EvaluateStream) -> Iterator[Update]:
        """Searches until the budget is spent or nothing new is proposed, one update an item.

        Raises:
            SearchError: if all trials of an update fail in the same way.
        """
        for number, candidate, outcome in evaluate(self._candidates()):
            proposed = self._running.pop(candidate.key)
            trial = Trial(number, proposed, candidate, outcome, self.reward(outcome))
            self.progress.record.trials[candidate.key] = trial
            while len(ready := self._ready()) >= self.episodes:
                yield self._learn(ready[: self.episodes])
        while ready := self._ready():
            yield self._learn(ready[: self.episodes])

    def _candidates(self) -> Iterator[tuple[int, Candidate]]:
        """Yields what is to be evaluated: first what an earlier run left, then what is new."""
        trials = self.progress.record.trials
        for proposal in list(self.progress.waiting):
            for number, candidate in enumerate(proposal.fresh, start=proposal.trial):
                if candidate.key not in trials:
                    self._running[candidate.key] = proposal.update
                    yield number, candidate
        patience = self.budget.patience * self.episodes
        while self.budget.allows(self.progress) and self._known_in_a_row < patience:
            rolled = self.learner.propose(self.limits, 1, self.generator)
            proposal = self.progress.propose(rolled, lambda k: k in trials or k in self._running)
            self.propose(proposal)
            self._known_in_a_row = 0 if proposal.fresh else self._known_in_a_row + 1
            for candidate in proposal.fresh:
                self._running[candidate.key] = proposal.update
                yield proposal.trial, candidate

    def _ready(self) -> list[Proposal]:
        """Proposals, of one episode each, whose tree has been evaluated."""
        trials = self.progress.record.trials
        return [one for one in self.progress.waiting if _key(one) in trials]

    def _learn(self, ready: list[Proposal]) -> Update:
        progress, trials = self.progress, self.progress.record.trials
        new = [trials[_key(proposal)] for proposal in ready if proposal.fresh]
        check_sound(progress.record, new)
        episodes = [episode for proposal in ready for episode in proposal.episodes]
        rewards = [trials[_key(proposal)].reward for proposal in ready]
        stale = [progress.updates - proposal.update for proposal in ready]
        metrics = {
            **self.learner.update(episodes, rewards),
            "staleness_mean": sum(stale) / len(stale),
            "staleness_max": float(max(stale)),
        }
        numbers = [proposal.number for proposal in ready]
        update = Update(progress.updates, numbers, rewards, new, metrics)
        progress.learned(update)
        return update


def _key(proposal: Proposal) -> str:
    [episode] = proposal.episodes
    return Candidate(episode.tree).key
