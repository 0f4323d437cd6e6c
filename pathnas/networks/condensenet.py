"""CondenseNet (Huang et al., 2018), the 3x3 convolutions of its last layers as cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pathnas.cell import Cell
from pathnas.networks.densenet import DenseLayer
from pathnas.networks.layers import conv3x3, halving, norm_relu, roundings
from pathnas.networks.learned_group import LASSO, CondensedConv, LearnedGroupConv, goal
from pathnas.ops import build_base
from pathnas.specs import CellSpec, Conv, Range
from pathnas.tree import BASE_TREE, Node

GROWTH = (8, 16, 32, 64, 128)
CLASSIFIER_CONDENSATION = 2


class CondenseNet(nn.Module):
    """A dense network whose 1x1 convolutions learn their groups.

    The defaults are the paper's network for ImageNet (Cai et al., 2018, section 4.3); with
    TreeCell-B and deployed it takes 594 million multiply-adds for an image of 224 x 224. As in
    CondenseNet the classifier is condensed too, to half of its inputs, here in training already.
    What grows below a base convolution of a cell is normalized, added to it and halved
    (:attr:`pathnas.specs.CellSpec.residual`). The channel shuffle after a learned convolution is in
    the order of its outputs; after a 3x3 convolution none is needed, since all that reads it is
    dense, depthwise, or learns its groups.

    Args:
        channels: of the images.
        classes: number of logits.
        layers: in each stage.
        growth: channels that a layer of each stage adds; the stem has twice the first.
        cells: how many of the last layers of each stage hold cells.
        bottleneck: a layer's 1x1 convolution has so many times `growth` channels.
        groups: of the 3x3 convolutions.
        learned_groups: of the 1x1 convolutions.
        condensation: of the 1x1 convolutions; see :class:`LearnedGroupConv`.
        lasso: weight of the group lasso.
        stride: of the stem.
        deployed: whether to build the form that :func:`condensed` returns.
        tree: the architecture of every cell.

    Raises:
        ValueError: if stages do not match, no layer holds a cell, groups do not divide their
            channels, or the tree does not fit.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        layers: Sequence[int] = (4, 6, 8, 10, 8),
        growth: Sequence[int] = GROWTH,
        cells: Sequence[int] = (0, 0, 6, 7, 6),
        bottleneck: int = 4,
        groups: int = 8,
        learned_groups: int = 4,
        condensation: int = 4,
        lasso: float = LASSO,
        stride: int = 2,
        deployed: bool = False,
        tree: Node = BASE_TREE,
    ) -> None:
        super().__init__()
        _check_stages(layers, growth, cells)
        self.lasso, self.deployed = lasso, deployed
        width = 2 * growth[0]
        self.stem = conv3x3(channels, width, stride=stride)
        modules: list[nn.Module] = []
        for stage, (depth, rate, held) in enumerate(zip(layers, growth, cells, strict=True)):
            if stage > 0:
                modules.append(halving())
            for place in range(depth):
                inner = bottleneck * rate
                learned = self._learned(width, inner, learned_groups, condensation)
                spec = CellSpec(Conv(inner, rate, groups=groups), residual=True)
                holds = place >= depth - held
                conv = Cell(spec, tree) if holds else build_base(spec, Range(0, rate))
                modules.append(DenseLayer(nn.Sequential(*norm_relu(width), learned), conv))
                width += rate
        self.layers = nn.Sequential(*modules)
        self.head = nn.Sequential(
            *norm_relu(width),
            nn.AdaptiveAvgPool2d(1),
            self._learned(width, classes, 1, CLASSIFIER_CONDENSATION, bias=True),
            nn.Flatten(),
        )

    def _learned(
        self,
        channels_in: int,
        channels_out: int,
        groups: int,
        condensation: int,
        bias: bool = False,
    ) -> nn.Module:
        if self.deployed:
            features = goal(channels_in, condensation)
            return CondensedConv(
                channels_in, channels_out, groups=groups, features=features, bias=bias
            )
        return LearnedGroupConv(
            channels_in,
            channels_out,
            groups=groups,
            condensation=condensation,
            lasso=self.lasso,
            bias=bias,
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps images `[B, C, H, W]` to logits `[B, classes]`."""
        return self.head(self.layers(self.stem(x)))


def _check_stages(layers: Sequence[int], growth: Sequence[int], cells: Sequence[int]) -> None:
    if not len(layers) == len(growth) == len(cells):
        raise ValueError(
            f"layers, growth and cells must name the same stages, got {len(layers)}, "
            f"{len(growth)} and {len(cells)}"
        )
    if not any(cells) or any(held > depth for held, depth in zip(cells, layers, strict=True)):
        raise ValueError(
            f"cells must be one or more, and no more than the layers of a stage, got "
            f"{tuple(cells)} for {tuple(layers)} layers"
        )


def widenings(
    factor: float,
    *,
    growth: Sequence[int] = GROWTH,
    groups: int = 8,
    learned_groups: int = 4,
    bottleneck: int = 4,
    **others: Any,
) -> list[dict[str, Any]]:
    """Returns options of a CondenseNet whose growth is about `factor` times as large."""
    unit = math.lcm(groups, learned_groups // math.gcd(learned_groups, bottleneck))
    fixed = dict(groups=groups, learned_groups=learned_groups, bottleneck=bottleneck)
    return [{**others, **fixed, "growth": wide} for wide in roundings(growth, factor, unit=unit)]
