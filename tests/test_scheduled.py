"""Modules with a part of their own in a training."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pathnas import scheduled
from pathnas.scheduled import Scheduled


class Recorder(Scheduled):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(2.0))
        self.seen: list[float] = []

    def advance(self, progress: float) -> None:
        self.seen.append(progress)

    def penalty(self) -> Tensor:
        return 3 * self.weight


def test_every_scheduled_module_of_a_network_is_told_and_adds() -> None:
    network = nn.Sequential(Recorder(), nn.ReLU(), nn.Sequential(Recorder(), Scheduled()))
    scheduled.advance(network, 0.25)
    scheduled.advance(network, 1.0)
    assert network[0].seen == network[2][0].seen == [0.25, 1.0]
    total = scheduled.penalty(network)
    assert isinstance(total, Tensor) and total.item() == 12.0
    total.backward()
    assert network[2][0].weight.grad == 3.0


def test_other_networks_add_nothing() -> None:
    assert scheduled.penalty(nn.Linear(2, 2)) == 0.0
