"""Base networks and what they cost."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pathnas import networks
from pathnas.cell import cells
from pathnas.decisions import Limits
from pathnas.networks.plain import ResidualBlock
from pathnas.transforms import growth
from pathnas.tree import BASE_TREE, Edge, Node

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
    with pytest.raises(ValueError, match="known: chain, grafted, residual"):
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
