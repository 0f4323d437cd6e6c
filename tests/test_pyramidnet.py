"""PyramidNet: the paper's sizes, widths and blocks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from pathnas import networks
from pathnas.cell import cells
from pathnas.networks.pyramidnet import Bottleneck
from pathnas.treecells import TREES


@pytest.mark.parametrize(("alpha", "parameters"), [(84, 5_724_330), (150, 14_273_454)])
def test_with_treecell_a_it_has_the_papers_size(alpha: int, parameters: int) -> None:
    options = dict(channels=3, classes=10, alpha=alpha, tree=TREES["treecell_a"])
    network = networks.sketch("pyramidnet", **options)
    assert networks.parameters(network) == parameters  # the paper: 5.7 M, 14.3 M
    specs = [cell.spec for cell in cells(network).values()]
    assert len(specs) == 54 and specs[-1].conv.channels_out == 16 + alpha
    assert [i for i, spec in enumerate(specs) if spec.conv.stride == 2] == [18, 36]


def test_widths_are_rounded_and_then_down_to_a_multiple_of_the_groups() -> None:
    options = dict(channels=1, classes=2, blocks=3, alpha=9, stages=2, stem=4)
    for groups, widths in ((1, [6, 7, 8, 10, 12, 13]), (4, [4, 4, 8, 8, 12, 12])):
        network = networks.sketch("pyramidnet", groups=groups, **options)
        assert [cell.spec.conv.channels_out for cell in cells(network).values()] == widths


def test_a_block_adds_to_its_input_which_is_pooled_and_padded() -> None:
    network = networks.build("pyramidnet", channels=1, classes=2, blocks=1, alpha=8, stages=2)
    block = network.blocks[1]
    assert isinstance(block, Bottleneck)
    nn.init.zeros_(block.expand[-1].weight)
    x = torch.randn(2, block.reduce[0].num_features, 5, 5)
    y = block(x)
    assert y.shape[2:] == (3, 3)
    pooled = nn.functional.avg_pool2d(x, 2, ceil_mode=True)
    assert torch.equal(y[:, : x.shape[1]], pooled) and not y[:, x.shape[1] :].any()


def test_the_first_convolution_of_a_block_reads_signs_and_those_of_cells_do_not() -> None:
    block = networks.build("pyramidnet", channels=1, classes=2, blocks=1, alpha=8).blocks[0]
    assert [type(m) for m in block.reduce] == [nn.BatchNorm2d, nn.Conv2d]
    assert [type(m) for m in block.expand] == [
        nn.BatchNorm2d,
        nn.ReLU,
        nn.Conv2d,
        nn.BatchNorm2d,
    ]


def test_weights_have_the_spread_of_their_fan_out_by_groups() -> None:
    torch.manual_seed(0)
    network = networks.build("pyramidnet", channels=3, classes=10, blocks=1, groups=2)
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        fan = conv.out_channels * math.prod(conv.kernel_size) / conv.groups
        expected = math.sqrt(2 / fan)
        error = expected / math.sqrt(2 * conv.weight.numel())
        assert abs(float(conv.weight.detach().std()) - expected) < 4 * error


def test_a_block_without_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a block needs a width of 8 groups, got 5\.0"):
        networks.sketch("pyramidnet", channels=1, classes=2, stem=4, alpha=54, groups=8)
