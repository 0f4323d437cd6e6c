"""Controllers and learners by name.

A *controller* maps a batch of observations to a distribution over actions; a *learner* proposes
episodes and improves what it proposes by their rewards.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch

from pathnas.actions import Actions
from pathnas.controllers.evolution import Evolution
from pathnas.controllers.policy import Controller
from pathnas.controllers.ppo import Ppo
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.reinforce import NoLearning, Reinforce
from pathnas.controllers.rollout import Episode
from pathnas.limits import Limits


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


def _learning(learner: type[Reinforce], actions: Actions, **settings: Any) -> Reinforce:
    """Returns a learner with a controller of its own."""
    own = {name: settings.pop(name) for name in _settings(Controller) & settings.keys()}
    return learner(Controller(actions, **own), **settings)


def _settings(*kinds: type) -> set[str]:
    """The keyword settings of classes together."""
    named = (one for kind in kinds for one in inspect.signature(kind).parameters.values())
    return {one.name for one in named if one.kind is one.KEYWORD_ONLY}


def _random(actions: Actions) -> NoLearning:
    return NoLearning(RandomController(actions), actions)


LEARNERS: dict[str, Callable[..., Learner]] = {
    "reinforce": partial(_learning, Reinforce),
    "ppo": partial(_learning, Ppo),
    "evolution": Evolution,
    "random": _random,
}
"""From a table of actions and keyword settings to a learner.

``reinforce``: the paper's; takes the settings of :class:`~pathnas.controllers.policy.Controller`
and :class:`~pathnas.controllers.reinforce.Reinforce`. ``ppo``: the same controller, learning by
:class:`~pathnas.controllers.ppo.Ppo`. ``evolution``: regularized evolution, by
:class:`~pathnas.controllers.evolution.Evolution`. ``random``: the control; it has no settings.
"""

SETTINGS = {
    "reinforce": _settings(Controller, Reinforce),
    "ppo": _settings(Controller, Reinforce, Ppo),
    "evolution": _settings(Evolution),
    "random": set[str](),
}
"""By learner, the names of its settings."""


def make(name: str, actions: Actions, **settings: object) -> Learner:
    """Returns the learner of a name.

    Args:
        name: a key of :data:`LEARNERS`.
        actions: the flat table of actions (:attr:`pathnas.limits.Limits.actions`).
        settings: those of the learner and its controller; those that only others have are ignored,
            so that one configuration serves all.

    Raises:
        ValueError: if there is none of that name.
        TypeError: if no learner has a setting of that name.
    """
    if name not in LEARNERS:
        raise ValueError(f"unknown controller {name!r}; known: {', '.join(sorted(LEARNERS))}")
    unknown = set(settings) - set().union(*SETTINGS.values())
    if unknown:
        raise TypeError(f"no controller has the settings {sorted(unknown)}")
    own = {key: value for key, value in settings.items() if key in SETTINGS[name]}
    return LEARNERS[name](actions, **own)
