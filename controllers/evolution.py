"""Regularized evolution: trees are changed a little, the young replace the old (Real et al., 2019).

A member of the population is an episode with its reward. A child walks the decision process as its
parent did, but for one decision that it takes otherwise: a transform is undone, redone, or another
stands in its place. What that decision leaves open is answered as shortly as can be: no further
branch, no further node, a random operation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from pathnas import decisions
from pathnas.actions import Actions
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.reinforce import check_rewards, frequencies
from pathnas.controllers.rollout import Episode, replay, rollout
from pathnas.decisions import Question
from pathnas.limits import Limits
from pathnas.outcomes import Candidate

ATTEMPTS = 20
"""How often a child is made anew that is its parent again."""


class Evolution:
    """The learner that holds a population instead of weights.

    The first `population` trees are random. Then, for every child, `tournament` members are drawn,
    and the best of them is its parent.

    Args:
        actions: the flat table of actions.
        population: members at most; the oldest leave.
        tournament: members that compete for a child; all of them if there are not so many.

    Raises:
        ValueError: if a number is below 1.
    """

    def __init__(self, actions: Actions, *, population: int = 50, tournament: int = 10) -> None:
        if min(tournament, population) < 1:
            raise ValueError(
                f"expected tournament >= 1 and population >= 1, got {tournament=}, {population=}"
            )
        self.actions = actions
        self.controller = RandomController(actions)
        self.tournament = tournament
        self.members: deque[tuple[list[int], float]] = deque(maxlen=population)

    def propose(self, limits: Limits, episodes: int, generator: torch.Generator) -> list[Episode]:
        """Returns random episodes until the population is full, then children.

        Raises:
            ValueError: if fewer than one episode is asked for.
        """
        if len(self.members) < (self.members.maxlen or 0):
            return rollout(self.controller, limits, episodes, generator)
        if episodes < 1:
            raise ValueError(f"expected at least one episode, got {episodes}")
        return [self._child(limits, generator) for _ in range(episodes)]

    def _child(self, limits: Limits, generator: torch.Generator) -> Episode:
        drawn = torch.randperm(len(self.members), generator=generator)[: self.tournament]
        parent, _ = max((self.members[index] for index in drawn.tolist()), key=lambda one: one[1])
        key = Candidate(replay(parent, limits).tree).key
        for _ in range(ATTEMPTS):
            child = replay(mutated(parent, limits, generator), limits)
            if Candidate(child.tree).key != key:
                break
        return child

    def update(self, episodes: Sequence[Episode], rewards: Sequence[float]) -> dict[str, float]:
        """Adds episodes to the population, whose oldest members leave.

        Returns:
            ``population_mean`` and ``population_best``, rewards; ``frequency/<action>``.

        Raises:
            ValueError: as :meth:`Reinforce.update` does for the rewards.
        """
        checked = check_rewards(rewards, len(episodes))
        for episode, reward in zip(episodes, checked.tolist(), strict=True):
            self.members.append((episode.actions.tolist(), reward))
        kept = [reward for _, reward in self.members]
        chosen = np.concatenate([episode.actions for episode in episodes])
        return {
            "population_mean": float(np.mean(kept)),
            "population_best": max(kept),
            **frequencies(chosen, self.actions),
        }

    def state_dict(self) -> dict[str, Any]:
        """Returns the population, oldest first."""
        return {"population": [[list(actions), reward] for actions, reward in self.members]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned.

        Raises:
            ValueError: if the state is of another kind of learner.
        """
        if set(state) != {"population"}:
            raise ValueError(f"expected the state of a population, got one with {sorted(state)}")
        self.members.clear()
        self.members.extend(
            (list(actions), float(reward)) for actions, reward in state["population"]
        )


def mutated(parent: Sequence[int], limits: Limits, generator: torch.Generator) -> list[int]:
    """Returns the actions of an episode that differs from another in one decision.

    A decision that the other did not meet, or whose answer is no longer allowed, is answered by
    ``keep`` or ``stop`` where that is allowed, and an operation is drawn.

    Args:
        parent: the actions of an episode under these limits.
        limits: what a candidate may be.
        generator: of the choice of the decision and of its answer.
    """
    answers: dict[Question, int] = {}
    open_to_change: list[Question] = []
    state = decisions.begin(limits)
    for action in parent:
        question = state.agenda[0]
        answers[question] = action
        if sum(decisions.mask(state, limits)) > 1:
            open_to_change.append(question)
        state = decisions.step(state, action, limits)
    if not open_to_change:
        return list(parent)
    changed = open_to_change[_draw(len(open_to_change), generator)]
    found: list[int] = []
    state = decisions.begin(limits)
    while not state.done:
        question = state.agenda[0]
        legal = [a for a, allowed in enumerate(decisions.mask(state, limits)) if allowed]
        action = answers.get(question, -1)
        if question == changed:
            others = [a for a in legal if a != action]
            action = others[_draw(len(others), generator)]
        elif action not in legal:
            action = legal[0] if question.kind != "op" else legal[_draw(len(legal), generator)]
        found.append(action)
        state = decisions.step(state, action, limits)
    return found


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))
