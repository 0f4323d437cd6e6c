"""Episodes: a controller walks the decision process from the base tree to candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pathnas import decisions
from pathnas.controllers.policy import Acting, Observations, Policy
from pathnas.decisions import Limits, State
from pathnas.envs.observation import Observed
from pathnas.tree import Node


@dataclass(frozen=True, eq=False)
class Episode:
    """The decisions that lead from the base tree to a candidate; no graph, no gradients.

    Attributes:
        observations: what was seen at each of T decisions, `[T, ...]`.
        actions: `[T]` what was chosen.
        tree: where it led.
    """

    observations: Observed
    actions: NDArray[np.int64]
    tree: Node


@dataclass(frozen=True)
class Greedy:
    """Acts as a controller does, but always takes the likeliest action, the first of equals.

    Attributes:
        controller: that is asked.
    """

    controller: Acting

    def frozen(self) -> Policy:
        """Returns the policy as it is now."""
        policy = self.controller.frozen()

        def greedy(observations: Observations) -> NDArray[Any]:
            probabilities = policy(observations)
            likeliest = probabilities.argmax(axis=1)
            return np.eye(probabilities.shape[1], dtype=probabilities.dtype)[likeliest]

        return greedy


def distinct(states: Sequence[State]) -> tuple[list[State], list[int]]:
    """Returns states without repetitions, and for each of the old ones its place there."""
    first: dict[State, int] = {}
    places = [first.setdefault(state, len(first)) for state in states]
    return list(first), places


def rollout(
    controller: Acting, limits: Limits, episodes: int, generator: torch.Generator
) -> list[Episode]:
    """Returns episodes that were rolled out in lockstep.

    Args:
        controller: what chooses; its weights must not change meanwhile.
        limits: what the candidates may be.
        episodes: how many, at least 1.
        generator: the source of the choices; equal states of it give equal episodes.

    Raises:
        ValueError: if fewer than one episode is asked for.
    """
    if episodes < 1:
        raise ValueError(f"expected at least one episode, got {episodes}")
    policy = controller.frozen()
    seen: list[list[State]] = [[] for _ in range(episodes)]
    chosen: list[list[int]] = [[] for _ in range(episodes)]
    reached = [decisions.begin(limits)] * episodes
    active = list(range(episodes))
    while active:
        states, rows = distinct([reached[index] for index in active])
        probabilities = policy(Observed(states, limits))[rows]
        for index, action in zip(active, _sample(probabilities, generator), strict=True):
            seen[index].append(reached[index])
            chosen[index].append(action)
            reached[index] = decisions.step(reached[index], action, limits)
        active = [index for index in active if not reached[index].done]
    return [
        Episode(Observed(states, limits), np.array(actions, dtype=np.int64), end.tree)
        for states, actions, end in zip(seen, chosen, reached, strict=True)
    ]


def _sample(probabilities: NDArray[Any], generator: torch.Generator) -> list[int]:
    """Returns an index for each row of probabilities `[B, A]`.

    It draws what :func:`torch.multinomial` draws, whose further checks take longer than a small
    batch does: of exponential times at rates p, the first comes at an index with probability p.

    Raises:
        ValueError: if a probability is not finite.
    """
    if not np.isfinite(probabilities.sum()):
        raise ValueError("expected finite probabilities of actions, got others: has it diverged?")
    times = torch.from_numpy(np.empty_like(probabilities)).exponential_(generator=generator).numpy()
    return cast(list[int], (probabilities / times).argmax(axis=1).tolist())


def replay(actions: Sequence[int], limits: Limits) -> Episode:
    """Returns the episode of some actions, which :func:`rollout` chose under the same limits.

    Raises:
        ValueError: if an action is not allowed where it stands, or the episode does not end.
    """
    states = [decisions.begin(limits)]
    for action in actions:
        states.append(decisions.step(states[-1], action, limits))
    *seen, end = states
    if not end.done:
        raise ValueError(f"expected the actions of a whole episode, got {list(actions)}")
    return Episode(Observed(seen, limits), np.array(actions, dtype=np.int64), end.tree)
