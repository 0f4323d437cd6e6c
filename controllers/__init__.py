"""Controllers and learners by name.

A *controller* maps a batch of observations to a distribution over actions; a *learner* proposes
episodes and improves what it proposes by their rewards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from pathnas.controllers.evolution import Evolution
from pathnas.controllers.policy import Controller
from pathnas.controllers.ppo import Ppo
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.reinforce import NoLearning, Reinforce
from pathnas.controllers.rollout import Episode
from pathnas.decisions import Actions, Limits


class Learner(Protocol):
    """What a search needs of a learner; all that its future depends on is in its state."""

    def propose(self, limits: Limits, episodes: int, generator: torch.Generator) -> list[Episode]:
        """Returns episodes; all that is random comes from the generator."""
        ...

    def update(self, episodes: Sequence[Episode], rewards: Sequence[float]) -> dict[str, float]:
        """Learns from episodes and their rewards, and returns metrics by name."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Returns what ``torch.load(weights_only=True)`` reads back."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned."""
        ...


def _reinforce(
    actions: Actions,
    *,
    seed: int = 0,
    embedding: int = 10,
    hidden: int = 100,
    head: int = 500,
    learning_rate: float = 6e-3,
    entropy: float = 1e-2,
    entropy_end: float | None = None,
    entropy_updates: int = 100,
    clip: float = 40.0,
    baseline: str = "paper",
    decay: float = 0.95,
) -> Reinforce:
    controller = Controller(actions, embedding=embedding, hidden=hidden, head=head, seed=seed)
    return Reinforce(
        controller,
        learning_rate=learning_rate,
        entropy=entropy,
        entropy_end=entropy_end,
        entropy_updates=entropy_updates,
        clip=clip,
        baseline=baseline,
        decay=decay,
    )


def _ppo(
    actions: Actions,
    *,
    seed: int = 0,
    embedding: int = 10,
    hidden: int = 100,
    head: int = 500,
    learning_rate: float = 6e-3,
    entropy: float = 1e-2,
    entropy_end: float | None = None,
    entropy_updates: int = 100,
    clip: float = 40.0,
    baseline: str = "paper",
    decay: float = 0.95,
    epochs: int = 4,
    ratio_clip: float = 0.2,
) -> Ppo:
    controller = Controller(actions, embedding=embedding, hidden=hidden, head=head, seed=seed)
    return Ppo(
        controller,
        epochs=epochs,
        ratio_clip=ratio_clip,
        learning_rate=learning_rate,
        entropy=entropy,
        entropy_end=entropy_end,
        entropy_updates=entropy_updates,
        clip=clip,
        baseline=baseline,
        decay=decay,
    )


def _random(actions: Actions) -> NoLearning:
    return NoLearning(RandomController(actions), actions)


LEARNERS: dict[str, Callable[..., Learner]] = {
    "reinforce": _reinforce,
    "ppo": _ppo,
    "evolution": Evolution,
    "random": _random,
}
"""From a table of actions and keyword settings to a learner.

``reinforce``: the paper's; takes the settings of :class:`~pathnas.controllers.policy.Controller`
and :class:`~pathnas.controllers.reinforce.Reinforce`. ``ppo``: the same controller, learning by
:class:`~pathnas.controllers.ppo.Ppo`. ``evolution``: regularized evolution, by
:class:`~pathnas.controllers.evolution.Evolution`. ``random``: the control; it has no settings.
"""


def make(name: str, actions: Actions, **settings: object) -> Learner:
    """Returns the learner of a name.

    Args:
        name: a key of :data:`LEARNERS`.
        actions: the flat table of actions (:attr:`pathnas.decisions.Limits.actions`).
        settings: those of the learner and its controller; those that only others have are ignored,
            so that one configuration serves all.

    Raises:
        ValueError: if there is none of that name.
        TypeError: if no learner has a setting of that name.
    """
    if name not in LEARNERS:
        raise ValueError(f"unknown controller {name!r}; known: {', '.join(sorted(LEARNERS))}")
    takes = {one: set(inspect.signature(build).parameters) for one, build in LEARNERS.items()}
    unknown = set(settings) - set().union(*takes.values())
    if unknown:
        raise TypeError(f"no controller has the settings {sorted(unknown)}")
    own = {key: value for key, value in settings.items() if key in takes[name]}
    return LEARNERS[name](actions, **own)
