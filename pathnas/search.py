"""The loop of the search: roll out, evaluate, learn (paper, section 4.2).

Knows neither files nor TensorBoard. :func:`search` hands each :class:`Proposal` to a callback
before it is evaluated and yields an :class:`Update` after each update; whoever iterates decides
what to show and to keep. A search that is begun again from a :class:`Progress` goes on as if it had
never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import torch

from pathnas.controllers import Learner
from pathnas.controllers.rollout import Episode
from pathnas.limits import Limits
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
    """Trials fail throughout and in the same way, so going on would only burn the budget."""


@dataclass
class Record:
    """All trials of a search that have ended, by key."""

    trials: dict[str, Trial] = field(default_factory=dict)

    def best(self, count: int = 1) -> list[Trial]:
        """Returns the trials that did not fail, best first; see :func:`place`."""
        sound = [trial for trial in self.trials.values() if trial.outcome.status == "ok"]
        return sorted(sound, key=lambda t: place(t.outcome.stopped, t.reward, t.number))[:count]


def place(stopped: int | None, reward: float, number: int) -> tuple[float, float, int]:
    """Returns what sorts trials, the best first: by reward, ties by number.

    Rewards of trainings of different lengths do not compare: trials that halving stopped come after
    those that it did not, and the earlier stopped after the later.

    Args:
        stopped: epochs after which halving ended the trial; None: it did not.
        reward: of the trial.
        number: of the trial.
    """
    return -(stopped or math.inf), -reward, number


@dataclass(frozen=True, eq=False)
class Proposal:
    """Episodes that were rolled out together and wait for their rewards.

    Attributes:
        number: of the first episode; they are counted from 0 over the whole search.
        update: updates done when they were rolled out.
        episodes: what was decided.
        trial: number of the first new tree's trial.
        fresh: the new trees, distinct, in order.
    """

    number: int
    update: int
    episodes: list[Episode]
    trial: int
    fresh: list[Candidate]


@dataclass(frozen=True)
class Update:
    """What one update did.

    Attributes:
        number: from 0.
        episodes: numbers of the episodes that it learned from.
        rewards: of these, `[B]`.
        trials: new in this update.
        metrics: of the learner, by name.
    """

    number: int
    episodes: list[int]
    rewards: list[float]
    trials: list[Trial]
    metrics: dict[str, float]


@dataclass
class Progress:
    """How far a search has come: all that its future depends on, beside learner and generator.

    Attributes:
        record: the trials that have ended.
        updates: how many were done.
        idle: updates in a row without a new tree, up to now.
        proposed: episodes rolled out.
        trials: trials proposed.
        waiting: proposals that wait for their rewards.
    """

    record: Record = field(default_factory=Record)
    updates: int = 0
    idle: int = 0
    proposed: int = 0
    trials: int = 0
    waiting: list[Proposal] = field(default_factory=list)

    def propose(self, episodes: list[Episode], known: Callable[[str], bool]) -> Proposal:
        """Returns new episodes as a proposal and counts them."""
        candidates = [Candidate(episode.tree) for episode in episodes]
        fresh = list({c.key: c for c in candidates if not known(c.key)}.values())
        proposal = Proposal(self.proposed, self.updates, episodes, self.trials, fresh)
        self.proposed += len(episodes)
        self.trials += len(fresh)
        self.waiting.append(proposal)
        return proposal

    def learned(self, update: Update) -> None:
        """Counts an update that was done; its episodes wait no longer."""
        done = set(update.episodes)
        self.waiting = [one for one in self.waiting if one.number not in done]
        self.updates += 1
        self.idle = 0 if update.trials else self.idle + 1


EvaluateBatch = Callable[[Proposal], Sequence[Outcome]]
"""Evaluates the new candidates of a proposal and returns their outcomes in the same order."""


@dataclass(frozen=True)
class Budget:
    """When a search ends; checked between updates, so a last batch may exceed it.

    Attributes:
        trials: distinct trees.
        patience: updates in a row without a new tree that end the search.
        spent: whether what else is limited, such as time, is used up.
    """

    trials: int
    patience: int
    spent: Callable[[], bool] = lambda: False

    def allows(self, progress: Progress) -> bool:
        """Tells whether something may be proposed."""
        left = progress.trials < self.trials and progress.idle < self.patience
        return left and not self.spent()


def search(
    learner: Learner,
    limits: Limits,
    evaluate: EvaluateBatch,
    reward: Reward,
    progress: Progress,
    *,
    budget: Budget,
    episodes: int,
    generator: torch.Generator,
    propose: Callable[[Proposal], None] = lambda proposal: None,
) -> Iterator[Update]:
    """Searches until the budget is spent or nothing new is proposed, one update an item.

    Args:
        learner: proposes candidates, and learns from their rewards.
        limits: what a candidate may be.
        evaluate: runs the trials of the new candidates of an update.
        reward: shapes outcomes.
        progress: where to begin; kept up to date. Known trees are answered from its record.
        budget: ends the search.
        episodes: candidates proposed in an update.
        generator: of all sampling.
        propose: is told each proposal before its evaluation.

    Raises:
        SearchError: if all trials of an update fail in the same way, with the first one's error.
    """
    trials = progress.record.trials
    while progress.waiting or budget.allows(progress):
        if not progress.waiting:
            rolled = learner.propose(limits, episodes, generator)
            propose(progress.propose(rolled, trials.__contains__))
        proposal = progress.waiting[0]
        outcomes = evaluate(proposal)
        numbered = enumerate(zip(proposal.fresh, outcomes, strict=True), start=proposal.trial)
        new = [Trial(n, proposal.update, c, o, reward(o)) for n, (c, o) in numbered]
        trials.update({trial.candidate.key: trial for trial in new})
        check_sound(progress.record, new)
        rewards = [trials[Candidate(one.tree).key].reward for one in proposal.episodes]
        metrics = learner.update(proposal.episodes, rewards)
        numbers = list(range(proposal.number, proposal.number + len(rewards)))
        update = Update(progress.updates, numbers, rewards, new, metrics)
        progress.learned(update)
        yield update


ALIKE = 3
"""Failures in a row that stop a search, if a whole batch is among them."""


def check_sound(record: Record, new: Sequence[Trial]) -> None:
    """Tells a systematic fault from bad luck.

    Raises:
        SearchError: if the new trials, and at least :data:`ALIKE` in a row, failed the same way.
    """
    latest = sorted(record.trials.values(), key=lambda trial: -trial.number)
    latest = latest[: max(len(new), ALIKE)]
    ways = {_way(trial.outcome) for trial in latest}
    if not new or len(latest) < ALIKE or len(ways) > 1 or latest[0].outcome.status == "ok":
        return
    raise SearchError(
        f"the last {len(latest)} trials all failed in the same way; the latest: "
        f"{latest[0].outcome.status}: {latest[0].outcome.error}"
    )


def _way(outcome: Outcome) -> tuple[str, str]:
    """How a trial failed: its status, and the kind of error without its particulars."""
    return outcome.status, (outcome.error or "").partition(":")[0]
