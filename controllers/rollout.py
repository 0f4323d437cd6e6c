"""Episodes: a controller walks the decision process from the base tree to candidates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from pathnas import decisions
from pathnas.controllers.policy import Acting, Observations, Policy
from pathnas.decisions import Limits, State
from pathnas.envs import observation
from pathnas.tree import Node


@dataclass(frozen=True, eq=False)
class Episode:
    """The decisions that lead from the base tree to a candidate; no graph, no gradients.

    Attributes:
        observations: what was seen at each of T decisions, stacked: `[T, ...]`.
        actions: `[T]` what was chosen.
        tree: where it led.
    """

    observations: dict[str, NDArray[Any]]
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


def stack(observations: Sequence[observation.Observation]) -> dict[str, NDArray[Any]]:
    """Returns observations as one batch, `[B, ...]`."""
    return {name: np.stack([seen[name] for seen in observations]) for name in observations[0]}


def concatenate(batches: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Returns batches as one, in order."""
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


def distinct(
    observations: Mapping[str, NDArray[Any]],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Returns a batch without repetitions, and for each row of the old one its row there `[B]`."""
    size = len(next(iter(observations.values())))
    flat = [array.reshape(size, -1).astype(np.int64) for array in observations.values()]
    first: dict[bytes, int] = {}
    rows = [first.setdefault(row.tobytes(), len(first)) for row in np.concatenate(flat, axis=1)]
    _, back = np.unique(rows, return_index=True)
    return {name: array[back] for name, array in observations.items()}, np.array(rows)


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
    batches: list[dict[str, NDArray[Any]]] = []
    seen: list[list[int]] = [[] for _ in range(episodes)]  # rows of all batches, one after another
    chosen: list[list[int]] = [[] for _ in range(episodes)]
    reached = [decisions.begin(limits)] * episodes
    active, states, rows, first = list(range(episodes)), reached[:1], [0] * episodes, 0
    while active:
        batches.append(observation.encode_all(states, limits))
        actions = _sample(policy(batches[-1])[rows], generator)
        answered: dict[tuple[int, int], State] = {}  # who answers alike stands in one state
        for index, row, action in zip(active, rows, actions, strict=True):
            seen[index].append(first + row)
            chosen[index].append(action)
            if (row, action) not in answered:
                answered[row, action] = decisions.step(states[row], action, limits)
            reached[index] = answered[row, action]
        first += len(states)
        active = [index for index in active if not reached[index].done]
        states = [state for state in answered.values() if not state.done]
        row_of = {id(state): row for row, state in enumerate(states)}
        rows = [row_of[id(reached[index])] for index in active]
    everything = concatenate(batches)
    return [
        Episode(
            {name: array[rows] for name, array in everything.items()},
            np.array(actions, dtype=np.int64),
            state.tree,
        )
        for rows, actions, state in zip(seen, chosen, reached, strict=True)
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
    observations = observation.encode_all(seen, limits)
    return Episode(observations, np.array(actions, dtype=np.int64), end.tree)
