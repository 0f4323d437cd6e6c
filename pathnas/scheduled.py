"""Modules that change as a training goes on, and add to its loss.

:func:`pathnas.training.fit` knows nothing of the modules that it trains but this: before every step
and at the end it calls their ``advance``, and to every loss it adds their ``penalty``.
"""

from __future__ import annotations

from torch import Tensor, nn


class Scheduled(nn.Module):
    """A module with a part of its own in a training; nothing by default."""

    def advance(self, progress: float) -> None:
        """Is told how far the training has come, from 0 to 1, before each step and at the end."""

    def penalty(self) -> Tensor | float:
        """Returns what is added to the loss, weighted."""
        return 0.0


def parts(network: nn.Module) -> list[Scheduled]:
    """Returns the scheduled modules of a network."""
    return [module for module in network.modules() if isinstance(module, Scheduled)]
