"""DenseNet-BC: the paper's size, and what a layer hands on."""

from __future__ import annotations

import pytest
import torch

from pathnas import networks
from pathnas.cell import cells
from pathnas.treecells import TREES


def test_with_treecell_a_it_has_the_papers_size() -> None:
    network = networks.sketch("densenet", channels=3, classes=10, tree=TREES["treecell_a"])
    assert networks.parameters(network) == 13_116_010  # the paper: 13.1 M
    specs = [cell.spec.conv for cell in cells(network).values()]
    assert len(specs) == 48
    assert {(c.channels_in, c.channels_out, c.groups, c.stride) for c in specs} == {(192, 48, 2, 1)}


def test_a_layer_keeps_its_input_and_appends() -> None:
    network = networks.build("densenet", channels=1, classes=2, layers=2, growth=4, stages=2)
    x = network.stem(torch.randn(2, 1, 7, 7))
    widths = []
    for layer in network.layers:
        y = layer(x)
        widths.append(y.shape[1:])
        if y.shape[2] == x.shape[2]:
            assert torch.equal(y[:, : x.shape[1]], x) and y.shape[1] == x.shape[1] + 4
        x = y
    assert widths == [(12, 7, 7), (16, 7, 7), (8, 4, 4), (12, 4, 4), (16, 4, 4)]


def test_groups_that_do_not_divide_the_growth_are_refused() -> None:
    with pytest.raises(ValueError, match="groups must divide the channels"):
        networks.sketch("densenet", channels=1, classes=2, growth=5, groups=2)
