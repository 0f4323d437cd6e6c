"""The control: a controller that chooses evenly, and learns nothing."""

from __future__ import annotations

import torch

from pathnas.actions import Actions
from pathnas.controllers.policy import (
    MaskedCategorical,
    Observations,
    Policy,
    allowed_actions,
    masked,
)


class RandomController:
    """Every action that the mask allows is equally likely.

    Args:
        actions: the flat table of actions.
    """

    def __init__(self, actions: Actions | None = None) -> None:
        self.actions = actions or Actions()

    def frozen(self) -> Policy:
        """Returns itself."""
        return self

    def __call__(self, observations: Observations) -> MaskedCategorical:
        """Returns the uniform distribution over the allowed actions, `[B, A]`.

        Raises:
            ValueError: if a row allows nothing, or the mask is not as wide as the table.
        """
        allowed = allowed_actions(observations, self.actions)
        return masked(torch.zeros(allowed.shape), torch.from_numpy(allowed))
