"""Modules with a part of their own in a training."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pathnas import scheduled, training
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

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros(len(x), 2) + 0 * self.weight


def test_the_parts_are_found_at_any_depth() -> None:
    network = nn.Sequential(Recorder(), nn.ReLU(), nn.Sequential(Recorder(), nn.Linear(2, 2)))
    assert scheduled.parts(network) == [network[0], network[2][0]]
    assert scheduled.parts(nn.Linear(2, 2)) == []
    assert Scheduled().penalty() == 0.0


def test_fit_tells_the_progress_before_each_step_and_at_the_end_and_adds_the_penalty() -> None:
    part = Recorder()
    images = [(torch.zeros(4, 1, 2, 2), torch.zeros(4, dtype=torch.long))] * 2
    training.fit(part, images, epochs=2, learning_rate=0.1, momentum=0.0, weight_decay=0.0)
    assert part.seen == [0.0, 0.25, 0.5, 0.75, 1.0]
    rates = [0.1 * 0.5 * (1 + math.cos(math.pi * step / 4)) for step in range(4)]
    assert part.weight.item() == pytest.approx(2.0 - 3 * sum(rates))


def test_no_epochs_tell_nothing() -> None:
    part = Recorder()
    training.fit(part, [(torch.zeros(4, 1, 2, 2), torch.zeros(4))], epochs=0, learning_rate=0.1)
    assert part.seen == []
