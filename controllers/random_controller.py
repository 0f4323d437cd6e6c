"""The control: a controller that chooses evenly, and learns nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pathnas.actions import Actions
from pathnas.controllers.policy import Observations, Policy, allowed_actions, require_some


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

    def __call__(self, observations: Observations) -> NDArray[np.float32]:
        """Returns the probabilities of the actions, `[B, A]`.

        Raises:
            ValueError: if a row allows nothing, or the mask is not as wide as the table.
        """
        allowed = allowed_actions(observations, self.actions)
        require_some(allowed)
        return allowed.astype(np.float32) / allowed.sum(axis=1, keepdims=True, dtype=np.float32)
