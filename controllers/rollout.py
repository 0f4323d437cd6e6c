"""Episodes: a controller walks the decision process from the base tree to candidates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pathnas import decisions
from pathnas.controllers.policy import Acting
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
    states = [State()] * episodes
    seen: list[list[observation.Observation]] = [[] for _ in states]
    chosen: list[list[int]] = [[] for _ in states]
    active = list(range(episodes))
    while active:
        distinct = dict.fromkeys(states[index] for index in active)  # equal states are read once
        views = {state: observation.encode(state, limits) for state in distinct}
        row_of = {state: row for row, state in enumerate(distinct)}
        probabilities = policy(stack(list(views.values()))).probs
        probabilities = probabilities[[row_of[states[index]] for index in active]]
        actions = torch.multinomial(probabilities, 1, generator=generator).flatten().tolist()
        for index, action in zip(active, actions, strict=True):
            seen[index].append(views[states[index]])
            chosen[index].append(action)
            states[index] = decisions.step(states[index], action, limits)
        active = [index for index in active if not states[index].done]
    return [
        Episode(stack(views), np.array(actions, dtype=np.int64), state.tree)
        for views, actions, state in zip(seen, chosen, states, strict=True)
    ]
