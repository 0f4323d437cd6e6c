"""Base networks and what they cost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from pathnas import networks, training
from pathnas.cell import cells, cost
from pathnas.limits import Limits
from pathnas.networks.plain import ResidualBlock
from pathnas.transforms import grow, growth
from pathnas.tree import BASE_TREE, Edge, Node
from pathnas.treecells import TREES
from tests.strategies import TINY, growths, images, randomize, relative_change

TREE = Node((Edge("base", Node((Edge("sep_conv3x3"),))), Edge("base")), "add", "replicate")


@pytest.mark.parametrize("name", ["chain", "residual"])
@pytest.mark.parametrize("activation", ["pre", "post"])
@pytest.mark.parametrize("size", [8, 9])
def test_networks_map_images_to_logits_with_every_tree(
    name: str, activation: str, size: int
) -> None:
    for tree in (BASE_TREE, TREE):
        network = networks.build(
            name,
            channels=3,
            classes=5,
            widths=(4, 8, 6),
            cells=2,
            groups=2,
            activation=activation,
            tree=tree,
        )
        assert network(torch.randn(2, 3, size, size)).shape == (2, 5)
        assert {str(cell.tree) for cell in cells(network).values()} == {str(tree)}
        assert len(cells(network)) == 6


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("size", [8, 9, 1])
def test_every_network_maps_and_learns_with_every_tree(name: str, size: int) -> None:
    for tree in (BASE_TREE, TREE, *TREES.values()):
        network = networks.build(name, channels=3, classes=5, tree=tree, **TINY[name])
        logits = network(torch.randn(2, 3, size, size))
        assert logits.shape == (2, 5)
        logits.square().sum().backward()
        assert all(p.grad is not None for p in network.parameters())
        assert {str(cell.tree) for cell in cells(network).values()} == {str(tree)}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@settings(max_examples=15)
@given(data=st.data(), seed=st.integers(0, 10**6))
def test_growing_any_network_keeps_its_output(
    name: str, dtype: torch.dtype, tolerance: float, data: st.DataObject, seed: int
) -> None:
    torch.manual_seed(seed)
    network = networks.build(name, channels=2, classes=3, **TINY[name]).to(dtype)
    randomize(network, seed)
    found = list(cells(network).values())
    narrowest = min((cell.spec for cell in found), key=lambda spec: spec.conv.channels_out)
    done = data.draw(growths(narrowest, most=6))
    x = images(2, seed, dtype)
    try:
        grown = grow(network, done)
    except ValueError:  # a wider cell would split elsewhere
        assume(False)
    assert relative_change(network.eval()(x), grown.eval()(x)) <= tolerance
    training.calibrate(network, x)
    grown = grow(network, done)
    assert relative_change(network.train()(x), grown.train()(x)) <= 1e3 * tolerance


@pytest.mark.parametrize("name", TINY)
def test_the_cost_of_any_grown_network_is_the_base_and_what_its_cells_add(name: str) -> None:
    shape = (2, 8, 8)
    for tree in TREES.values():
        base = networks.sketch(name, channels=2, classes=3, **TINY[name])
        grown = networks.sketch(name, channels=2, classes=3, tree=tree, **TINY[name])
        sites = networks.sites(base, shape)
        limits = Limits(sites=sites)
        added = limits.cost(tree) - limits.cost(BASE_TREE)
        assert networks.macs(grown, shape) == networks.macs(base, shape) + added
        specs = [site.spec for site in sites]
        more = sum(cost(tree, s).parameters - cost(BASE_TREE, s).parameters for s in specs)
        assert networks.parameters(grown) == networks.parameters(base) + more


def test_a_residual_block_adds_a_shortcut_of_the_cells_shape() -> None:
    network = networks.build("residual", channels=1, classes=2, widths=(4, 6), cells=1)
    block = [m for m in network.modules() if isinstance(m, ResidualBlock)][-1]
    for parameter in block.cell.parameters():
        nn.init.zeros_(parameter)
    x = torch.ones(1, 4, 5, 5)
    y = block(x)
    assert y.shape == (1, 6, 3, 3)
    assert torch.equal(y[:, :4], torch.ones(1, 4, 3, 3)) and not y[:, 4:].any()


def test_unknown_networks_are_refused_with_the_known_ones() -> None:
    known = "known: chain, condensenet, densenet, grafted"
    with pytest.raises(ValueError, match=f"unknown network 'chian'; {known}"):
        networks.build("chian", channels=1, classes=2)


def test_multiply_adds_of_a_network_are_its_layers_by_hand() -> None:
    network = networks.build("chain", channels=1, classes=10, widths=(2, 4)).train()
    by_hand = 64 * 9 * 2 + 64 * 9 * 2 * 2 + 16 * 9 * 2 * 4 + 4 * 10
    assert networks.macs(network, (1, 8, 8)) == by_hand
    assert network.training
    assert [site.positions for site in networks.sites(network, (1, 8, 8))] == [64, 16]


def test_the_cost_of_a_grown_network_is_the_base_and_what_its_cells_add() -> None:
    options = dict(channels=1, classes=10, widths=(3, 5), cells=2)
    base = networks.build("chain", **options)
    grown = networks.build("chain", **options, tree=TREE)
    limits = Limits(sites=networks.sites(base, (1, 8, 8)))
    added = limits.cost(TREE) - limits.cost(BASE_TREE)
    assert networks.macs(grown, (1, 8, 8)) == networks.macs(base, (1, 8, 8)) + added
    assert growth(TREE)


@pytest.mark.parametrize("name", ["pyramidnet", "densenet", "condensenet"])
def test_the_papers_networks_are_widened_too(name: str) -> None:
    shape, options = (1, 8, 8), TINY[name]
    base = networks.sketch(name, channels=1, classes=10, **options)
    for factor in (1.0, 2.5):
        target = int(factor * networks.macs(base, shape))
        wider = networks.widened(name, target, image_shape=shape, classes=10, **options)
        found = networks.macs(networks.sketch(channels=1, classes=10, **wider), shape)
        assert abs(found / target - 1) < 0.25
        changed = {key for key, value in options.items() if wider[key] != value}
        assert changed <= {"alpha", "growth"}


def test_a_network_that_cannot_be_widened_says_so() -> None:
    with pytest.raises(ValueError, match=r"can be widened \(chain, .*\), got 'mine'"):
        networks.widened("mine", 10**6, image_shape=(1, 8, 8), classes=10)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_widened_network_comes_near_its_target(groups: int) -> None:
    options = dict(widths=(4, 8), cells=2, groups=groups, stem=None)
    shape = (1, 8, 8)
    base = networks.build("chain", channels=1, classes=10, **options)
    for factor in (1.0, 1.7, 4.0):
        target = int(factor * networks.macs(base, shape))
        wider = networks.widened("chain", target, image_shape=shape, classes=10, **options)
        found = networks.macs(networks.build(channels=1, classes=10, **wider), shape)
        assert abs(found / target - 1) < 0.15
        assert all(width % groups == 0 for width in wider["widths"])
