"""The moving average of weights."""

from __future__ import annotations

import torch
from torch import nn

from pathnas.weight_average import WeightAverage


def network(value: float) -> nn.Module:
    norm = nn.BatchNorm2d(1)
    with torch.no_grad():
        norm.weight.fill_(value)
    return norm


def weight(average: WeightAverage) -> float:
    return average.network.state_dict()["weight"].item()


def test_it_moves_towards_the_weights_slower_with_every_update() -> None:
    average = WeightAverage(network(0.0), 0.25)
    average.update(network(1.0))
    first = weight(average)
    assert abs(first - (1 - 2 / 11)) < 1e-6
    average.update(network(2.0))
    average.update(network(2.0))
    before = weight(average)
    average.update(network(4.0))  # (1 + 4) / (10 + 4) > 0.25: the decay asked for
    assert abs(weight(average) - (0.25 * before + 0.75 * 4.0)) < 1e-6


def test_the_network_is_its_own_and_counts_are_copied() -> None:
    trained = network(1.0)
    average = WeightAverage(trained, 0.9)
    state = trained.state_dict()
    state["num_batches_tracked"].fill_(7)
    state["weight"].fill_(3.0)
    assert weight(average) == 1.0
    average.update(trained)
    assert average.network.state_dict()["num_batches_tracked"].item() == 7
    assert trained.state_dict()["weight"].item() == 3.0
    assert not any(p.requires_grad for p in average.network.parameters())


def test_it_goes_on_from_a_state() -> None:
    one = WeightAverage(network(0.0), 0.5)
    one.update(network(1.0))
    other = WeightAverage(network(5.0), 0.5)
    other.load_state_dict(one.state_dict())
    for average in (one, other):
        average.update(network(2.0))
    assert weight(one) == weight(other) and other.updates == 2
