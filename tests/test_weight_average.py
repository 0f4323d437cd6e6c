"""The moving average of weights, and their mean over the last steps."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pathnas import cell, ops
from pathnas.weight_average import TailAverage, WeightAverage


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


@given(
    values=st.lists(st.floats(-100, 100), min_size=1, max_size=20),
    fraction=st.floats(0, 1, exclude_min=True),
)
def test_the_average_of_the_tail_is_the_mean_of_its_last_weights(
    values: list[float], fraction: float
) -> None:
    trained = nn.Linear(1, 1, bias=False)
    average = TailAverage(trained, len(values), fraction)
    for value in values:
        nn.init.constant_(trained.weight, value)
        average.update()
    average.store()
    last = values[-max(1, round(fraction * len(values))) :]
    assert trained.weight.item() == pytest.approx(sum(last) / len(last), rel=1e-4, abs=1e-3)


def test_a_tail_without_a_step_leaves_the_weights_alone() -> None:
    trained = nn.Linear(1, 1, bias=False)
    average = TailAverage(trained, 4, 0.5)
    for value in (1.0, 2.0):
        nn.init.constant_(trained.weight, value)
        average.update()
    average.store()
    assert trained.weight.item() == 2.0


def test_a_gate_that_goes_in_the_tail_does_not_shift_the_parameters() -> None:
    trained = nn.Sequential(nn.Linear(1, 1), ops.Gate(nn.ReLU()), nn.Linear(1, 1))
    average = TailAverage(trained, 2, 1.0)
    for value in (1.0, 3.0):
        for parameter, more in zip(trained.parameters(), (0.0, 0.5, 1.0, 1.5), strict=True):
            nn.init.constant_(parameter, value + more)
        average.update()
        cell.set_gates(trained, 0.0)
    average.store()
    assert [parameter.item() for parameter in trained.parameters()] == [2.0, 2.5, 3.0, 3.5]
