"""A moving average of a network's weights, which is kept in their place."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn


class WeightAverage:
    """The exponential moving average of a network's weights and floating buffers.

    At first the decay is smaller, (1 + n) / (10 + n) after n updates, so that the fresh weights
    are soon forgotten. Buffers of other types are copied.

    Args:
        network: that is trained; its state at the moment is the first average.
        decay: in [0, 1).

    Attributes:
        network: with the average; of the same device and mode.
        updates: number so far.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Takes in the state of the network as it is now."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        new = network.state_dict()
        for name, own in self.network.state_dict().items():
            if own.is_floating_point():
                own.lerp_(new[name], 1 - decay)
            else:
                own.copy_(new[name])

    def state_dict(self) -> dict[str, Any]:
        """Returns what :meth:`load_state_dict` takes."""
        return {"network": self.network.state_dict(), "updates": self.updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes back to a state."""
        self.network.load_state_dict(state["network"])
        self.updates = int(state["updates"])
