"""The networks written by hand are the networks that trials train, and the benchmark counts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks import trials as benchmark
from benchmarks.handwritten import TREES, Network, copy_weights
from pathnas import networks
from pathnas.config_recipes import Recipe


def randomize(network: nn.Module) -> None:
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.bias)
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", TREES)
@pytest.mark.parametrize("kind", ["chain", "residual"])
def test_by_hand_and_ours_give_the_same_outputs_and_gradients(kind: str, name: str) -> None:
    torch.manual_seed(0)
    tree, cell = TREES[name]
    shape = {"widths": (6, 9), "cells": 2}
    ours = networks.build(kind, channels=3, classes=10, tree=tree, **shape)
    theirs = Network(cell, channels=3, residual=kind == "residual", **shape)  # type: ignore[arg-type]
    randomize(ours)
    copy_weights(ours, theirs)
    assert networks.parameters(ours) == networks.parameters(theirs)
    # Sums over small batches cancel: in float32 gradients would differ in their fourth digit.
    both = ours.double(), theirs.double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    for training in (False, True):
        outputs = [network.train(training)(x) for network in both]
        torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
        for output in outputs:
            output.square().sum().backward()
    stems = [next(network.parameters()).grad for network in both]
    torch.testing.assert_close(*stems, rtol=1e-9, atol=1e-9)


def test_other_layers_are_refused() -> None:
    tree, _ = TREES["pick 0"]
    ours = networks.build("chain", channels=1, classes=10, widths=(4,), tree=tree)
    _, plain = TREES["base"]
    with pytest.raises(ValueError, match="expected layers of"):
        copy_weights(ours, Network(plain, channels=1, widths=(4,), cells=1, residual=False))


def test_all_sides_train_the_same_number_of_images_and_have_figures() -> None:
    built = benchmark.sides(benchmark.Case("digits", "pick 0", 2))
    assert built.images == 64 and built.macs > 0
    found = benchmark.measure(benchmark.Case("digits", "base", 2), 1)
    assert found["faster"] == pytest.approx(found["default"] / found["ours"])
    assert found["own_cost"] == pytest.approx(found["equal"] / found["ours"])


def test_the_default_loader_augments_image_by_image_as_ours_does_by_batches() -> None:
    images = benchmark.random_images("cifar10_small", 6)
    recipe = Recipe.model_validate(
        {"epochs": 1, "batch_size": 3, "augment": {"crop": 4, "flip": True}}
    )
    plain = Recipe(epochs=1, batch_size=3)
    for one in (recipe, plain):
        for batches in (benchmark.default_loader(images, one), benchmark.our_batches(images, one)):
            found = [x for x, _ in batches]
            assert [x.shape for x in found] == [(3, 3, 32, 32)] * 2
    sums = [
        sorted(x.double().sum((1, 2, 3)).tolist())
        for x in (
            torch.cat([x for x, _ in benchmark.default_loader(images, plain)]),
            torch.cat([x for x, _ in benchmark.our_batches(images, plain)]),
        )
    ]
    assert sums[0] == pytest.approx(sums[1], abs=1e-2)


def test_other_ways_of_training_are_set_against_a_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda network: network)  # minutes for a network
    found = benchmark.measure_variants(benchmark.Case("digits", "base", 2), 1)
    assert set(found) == {"bfloat16", "compiled", "compiling"}
    assert all(value > 0 for value in found.values())
