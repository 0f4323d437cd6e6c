from __future__ import annotations

import numpy as np
import pytest
import torch

from pathnas.controllers.frozen import FrozenPolicy
from pathnas.controllers.policy import Controller
from pathnas.decisions import Limits
from tests.test_tree_lstm import LIMITS, build, encode, walk


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
def test_a_reader_computes_what_the_tree_lstm_does_and_remembers_it(limits: Limits) -> None:
    network = build(limits)
    states = [state for seed in range(8) for state in walk(limits, seed)]
    read = network.reader()
    for start in range(0, len(states), 3):
        some = states[start : start + 3]
        expected = network(encode(some, limits)).detach().numpy()
        np.testing.assert_allclose(read(some), expected, rtol=0, atol=1e-6)
    known = read.count
    read(states)
    assert read.count == known


def test_a_reader_works_in_double_precision() -> None:
    limits = LIMITS["default"]
    states = walk(limits, 2)
    network = build(limits).double()
    found = network.reader()(states)
    assert found.dtype == np.float64
    np.testing.assert_allclose(
        found, network(encode(states, limits)).detach().numpy(), rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
def test_a_frozen_policy_has_the_controllers_probabilities(limits: Limits) -> None:
    controller = Controller(limits.actions, hidden=12, head=16, seed=2)
    with torch.no_grad():  # larger than they start, so that a wrong term shows
        for head in controller.heads.values():
            head[-1].bias.copy_(torch.linspace(-2, 2, len(head[-1].bias)))
    policy = controller.frozen()
    states = [state for seed in range(6) for state in walk(limits, seed)]
    batch = encode(states, limits)
    expected = controller(batch).probs.detach()
    torch.testing.assert_close(torch.from_numpy(policy(batch)), expected, rtol=0, atol=1e-6)


def test_extreme_states_neither_overflow_nor_warn() -> None:
    limits = LIMITS["default"]
    controller = Controller(limits.actions, hidden=12, head=16)
    with torch.no_grad():
        for weight in controller.parameters():
            weight.mul_(1e4)
    batch = encode(walk(limits, 1), limits)
    found = torch.from_numpy(controller.frozen()(batch))
    assert found.isfinite().all()
    torch.testing.assert_close(found.sum(dim=1), torch.ones(len(found)))


def test_a_frozen_policy_shares_the_weights() -> None:
    controller = Controller(hidden=12, head=16)
    policy = FrozenPolicy(controller.tree_lstm, controller.heads, controller.actions)
    limits = Limits()
    batch = encode(walk(limits, 1)[:1], limits)
    allowed = batch["action_mask"] != 0
    before = policy(batch, allowed)
    with torch.no_grad():
        controller.heads["merge"][-1].bias[0] += 3.0
    assert policy(batch, allowed)[0, 0] > before[0, 0]
