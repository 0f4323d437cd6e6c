from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.test_tree_lstm import LIMITS, build, encode, gradients, walk


def test_a_state_that_many_observations_need_gets_the_gradients_of_all() -> None:
    limits = LIMITS["default"]
    network, states = build(limits), walk(limits, 3)
    once, thrice = (network(encode(states * times, limits)) for times in (1, 3))
    torch.testing.assert_close(once.repeat(3, 1), thrice)
    network.zero_grad()
    once.sum().backward()
    expected = [None if p.grad is None else 3 * p.grad for p in network.parameters()]
    network.zero_grad()
    thrice.sum().backward()
    for (name, weight), gradient in zip(network.named_parameters(), expected, strict=True):
        if gradient is None:
            assert weight.grad is None, name
        else:
            torch.testing.assert_close(weight.grad, gradient, rtol=1e-4, atol=1e-5, msg=name)


def test_what_was_read_before_changes_neither_features_nor_gradients() -> None:
    limits = LIMITS["default"]
    fresh, experienced = build(limits), build(limits)
    for seed in range(20):
        experienced(encode(walk(limits, seed), limits))
    batch = encode(walk(limits, 7) + walk(limits, 40), limits)
    features = [network(batch) for network in (fresh, experienced)]
    np.testing.assert_array_equal(*(found.detach().numpy() for found in features))
    pairs = zip((fresh, experienced), features, strict=True)
    for left, right in zip(*(gradients(*pair) for pair in pairs), strict=True):
        np.testing.assert_array_equal(left.numpy(), right.numpy())


def test_weights_that_change_before_the_gradient_is_taken_are_noticed() -> None:
    limits = LIMITS["default"]
    network = build(limits)
    features = network(encode(walk(limits, 1), limits))
    with torch.no_grad():
        network.up_edge.weight_hh.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        features.sum().backward()


def test_a_gradient_of_the_gradient_is_refused() -> None:
    limits = LIMITS["default"]
    network = build(limits)
    features = network(encode(walk(limits, 1), limits))
    [gradient] = torch.autograd.grad(features.square().sum(), [network.ops], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_a_network_that_has_read_a_lot_starts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pathnas.controllers.tree_lstm.MAX_KNOWN", 50)
    limits = LIMITS["default"]
    network, known = build(limits), []
    for seed in range(30):
        batch = encode(walk(limits, seed), limits)
        found, expected = network(batch), build(limits)(batch)
        np.testing.assert_array_equal(found.detach().numpy(), expected.detach().numpy())
        known.append(len(network._forest))
    assert max(known) < 300 and min(known[1:]) < 100
