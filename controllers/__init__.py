"""Controllers and learners by name.

A *controller* maps a batch of observations to a distribution over actions; a *learner* holds one
and improves it from episodes and their rewards.
"""

from __future__ import annotations

from collections.abc import Callable

from pathnas.controllers.policy import Controller
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.reinforce import NoLearning, Reinforce
from pathnas.decisions import Actions

Learner = Reinforce | NoLearning


def _reinforce(
    actions: Actions,
    *,
    seed: int = 0,
    embedding: int = 10,
    hidden: int = 100,
    head: int = 500,
    learning_rate: float = 6e-3,
    entropy: float = 1e-2,
    clip: float = 40.0,
    baseline: str = "paper",
    decay: float = 0.95,
) -> Reinforce:
    controller = Controller(actions, embedding=embedding, hidden=hidden, head=head, seed=seed)
    return Reinforce(
        controller,
        learning_rate=learning_rate,
        entropy=entropy,
        clip=clip,
        baseline=baseline,
        decay=decay,
    )


def _random(actions: Actions, **settings: object) -> NoLearning:
    return NoLearning(RandomController(actions), actions)


LEARNERS: dict[str, Callable[..., Learner]] = {"reinforce": _reinforce, "random": _random}
"""From a table of actions and keyword settings to a learner that holds its controller.

``reinforce``: the paper's; takes the settings of :class:`~pathnas.controllers.policy.Controller`
and :class:`~pathnas.controllers.reinforce.Reinforce`. ``random``: the control; it has no settings
and ignores those of the others, so that one configuration serves all.
"""


def make(name: str, actions: Actions, **settings: object) -> Learner:
    """Returns the learner of a name, with a controller of its own.

    Args:
        name: a key of :data:`LEARNERS`.
        actions: the flat table of actions (:attr:`pathnas.decisions.Limits.actions`).
        settings: those of the learner and its controller.

    Raises:
        ValueError: if there is none of that name.
    """
    if name not in LEARNERS:
        raise ValueError(f"unknown controller {name!r}; known: {', '.join(sorted(LEARNERS))}")
    return LEARNERS[name](actions, **settings)
