"""Episodes: a controller walks the decision process from the base tree to candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathnas import decisions
from pathnas.controllers.policy import Policy
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


def stack(observations: Sequence[observation.Observation]) -> dict[str, NDArray[Any]]:
    """Returns observations as one batch, `[B, ...]`."""
    return {name: np.stack([seen[name] for seen in observations]) for name in observations[0]}


@torch.inference_mode()
def rollout(
    controller: Policy, limits: Limits, episodes: int, generator: torch.Generator
) -> list[Episode]:
    """Returns episodes that were rolled out in lockstep.

    Args:
        controller: what chooses; see :data:`pathnas.controllers.policy.Policy`.
        limits: what the candidates may be.
        episodes: how many, at least 1.
        generator: the source of the choices; equal states of it give equal episodes.

    Raises:
        ValueError: if fewer than one episode is asked for.
    """
    if episodes < 1:
        raise ValueError(f"expected at least one episode, got {episodes}")
    states = [State()] * episodes
    seen: list[list[observation.Observation]] = [[] for _ in states]
    chosen: list[list[int]] = [[] for _ in states]
    encoded: dict[State, observation.Observation] = {}
    active = list(range(episodes))
    while active:
        for index in active:
            state = states[index]
            if state not in encoded:
                encoded[state] = observation.encode(state, limits)
            seen[index].append(encoded[state])
        batch = stack([seen[index][-1] for index in active])
        probabilities = controller(batch).probs
        actions = torch.multinomial(probabilities, 1, generator=generator).flatten().tolist()
        for index, action in zip(active, actions, strict=True):
            chosen[index].append(action)
            states[index] = decisions.step(states[index], action, limits)
        active = [index for index in active if not states[index].done]
    return [
        Episode(stack(views), np.array(actions, dtype=np.int64), state.tree)
        for views, actions, state in zip(seen, chosen, states, strict=True)
    ]
