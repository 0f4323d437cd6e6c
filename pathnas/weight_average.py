"""Averages of a network's weights, which are kept in their place."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_swa_multi_avg_fn


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


class TailAverage:
    """The mean of a network's parameters over the last steps of its training.

    Polyak and Juditsky, "Acceleration of stochastic approximation by averaging", 1992; Izmailov et
    al., "Averaging weights leads to wider optima and better generalization", 2018. Running
    statistics of batch norm are no part of it: those of the mean have to be estimated anew.

    Args:
        network: that is trained; gates may be removed from it meanwhile, which have no parameters.
        steps: of the whole training.
        fraction: share of these, the last, in (0, 1]; at least one step.
    """

    def __init__(self, network: nn.Module, steps: int, fraction: float) -> None:
        # A list of them, since to copy the modules takes longer than all updates of a short trial.
        self._parameters = nn.ParameterList(network.parameters())
        self._left = steps - max(1, round(fraction * steps))
        self._average: AveragedModel | None = None

    def update(self) -> None:
        """Takes in the parameters as they are after a step, if it is one of the last."""
        self._left -= 1
        if self._left >= 0:
            return
        if self._average is None:
            mean = get_swa_multi_avg_fn()
            self._average = AveragedModel(self._parameters, multi_avg_fn=mean)
        self._average.update_parameters(self._parameters)

    @torch.no_grad()
    def store(self) -> None:
        """Replaces the parameters by their mean, if there has been a step of the last."""
        if self._average is not None:
            means = self._average.module.parameters()
            for own, mean in zip(self._parameters.parameters(), means, strict=True):
                own.copy_(mean)
