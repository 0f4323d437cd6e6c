"""DenseNet-BC (Huang et al., 2017), its 3x3 convolutions as cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pathnas.cell import Cell
from pathnas.networks.layers import conv1x1, conv3x3, halving, head, norm_relu, roundings
from pathnas.specs import CellSpec, Conv
from pathnas.tree import BASE_TREE, Node


class DenseNet(nn.Module):
    """Stages of layers that each add channels to all that came before.

    The defaults are the paper's DenseNet (Cai et al., 2018, section 4.2); with TreeCell-A it has
    13.1 million parameters.

    Args:
        channels: of the images.
        classes: number of logits.
        layers: in each stage.
        growth: channels that a layer adds; the stem has twice as many.
        stages: of equal images; between them half of the channels and of each side remain.
        bottleneck: a layer's 1x1 convolution has so many times `growth` channels.
        groups: of the 3x3 convolutions.
        tree: the architecture of every cell.

    Raises:
        ValueError: if the groups do not divide the growth, or the tree does not fit.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        layers: int = 16,
        growth: int = 48,
        stages: int = 3,
        bottleneck: int = 4,
        groups: int = 2,
        tree: Node = BASE_TREE,
    ) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = conv3x3(channels, width)
        modules: list[nn.Module] = []
        for stage in range(stages):
            if stage > 0:
                half = width // 2
                modules.append(nn.Sequential(*norm_relu(width), conv1x1(width, half), halving()))
                width = half
            for _ in range(layers):
                inner = bottleneck * growth
                reduce = nn.Sequential(*norm_relu(width), conv1x1(width, inner))
                spec = CellSpec(Conv(inner, growth, groups=groups))
                modules.append(DenseLayer(reduce, Cell(spec, tree)))
                width += growth
        self.layers = nn.Sequential(*modules)
        self.head = head(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images `[B, C, H, W]` to logits `[B, classes]`."""
        return self.head(self.layers(self.stem(x)))


class DenseLayer(nn.Module):
    """Appends what a bottleneck and a 3x3 convolution make of the input to the input.

    Args:
        reduce: from the input to the bottleneck.
        cell: from the bottleneck to the new channels; a cell, or a plain convolution.
    """

    def __init__(self, reduce: nn.Module, cell: nn.Module) -> None:
        super().__init__()
        self.reduce = reduce
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C, H, W]` to `[B, C + growth, H, W]`."""
        return torch.cat([x, self.cell(self.reduce(x))], dim=1)


def widenings(
    factor: float, *, growth: int = 48, groups: int = 2, **others: Any
) -> list[dict[str, Any]]:
    """Returns options of a DenseNet whose growth is about `factor` times as large."""
    return [
        {**others, "growth": wide, "groups": groups}
        for (wide,) in roundings((growth,), factor, unit=groups)
    ]
