"""PPO's clipped objective for the same controller (Schulman et al., 2017).

Several passes over a batch, in which no decision's probability is paid for moving further than
`ratio_clip` from what it was. An episode is one reward, so its advantage is that of all its
decisions, as in REINFORCE.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pathnas.controllers.policy import Controller
from pathnas.controllers.reinforce import Reinforce

MAX_LOG_RATIO = 20.0
"""Where the logarithm of a ratio is cut off, so that it cannot overflow."""


class Ppo(Reinforce):
    """Improves a controller by PPO. What an asynchronous search learns late counts as fresh.

    Args:
        controller: whose weights are improved, in place.
        epochs: passes over the batch in an update.
        ratio_clip: how far from 1 the ratio of new to old probability is paid for.
        settings: of :class:`Reinforce`.

    Raises:
        ValueError: if a number is out of range.
    """

    def __init__(
        self,
        controller: Controller,
        *,
        epochs: int = 4,
        ratio_clip: float = 0.2,
        **settings: float | str | None,
    ) -> None:
        super().__init__(controller, **settings)  # type: ignore[arg-type]
        if epochs < 1 or not 0 < ratio_clip < 1:
            raise ValueError(
                f"expected epochs >= 1 and ratio_clip in (0, 1), got {epochs=}, {ratio_clip=}"
            )
        self.epochs = epochs
        self.ratio_clip = ratio_clip

    def _gain(self, advantages: Tensor, log_probs: Tensor, old: Tensor) -> Tensor:
        ratio = (log_probs - old).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        near = ratio.clamp(1 - self.ratio_clip, 1 + self.ratio_clip)
        return torch.minimum(ratio * advantages, near * advantages)
