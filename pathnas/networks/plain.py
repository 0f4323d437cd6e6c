"""Two plain base networks: a chain of cells, and a residual one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pathnas.cell import Cell
from pathnas.networks.layers import padded_shortcut, roundings
from pathnas.specs import Activation, CellSpec, Conv
from pathnas.tree import BASE_TREE, Node


class Chain(nn.Module):
    """A stem, stages of cells one after another, and a linear classifier.

    Between stages the first cell halves the image by its stride.

    Args:
        channels: of the images.
        classes: number of logits.
        widths: channels of each stage.
        cells: cells in a stage.
        stem: channels of the stem; None: those of the first stage.
        groups: of the cells' convolutions.
        activation: ``"post"`` (convolution, norm, ReLU) or ``"pre"``.
        tree: the architecture of every cell.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        widths: Sequence[int],
        cells: int = 1,
        stem: int | None = None,
        groups: int = 1,
        activation: Activation = "post",
        tree: Node = BASE_TREE,
    ) -> None:
        super().__init__()
        width = stem or widths[0]
        post = activation == "post"
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            *([nn.BatchNorm2d(width), nn.ReLU(inplace=True)] if post else []),
        )
        blocks = []
        for stage, out in enumerate(widths):
            for place in range(cells):
                stride = 2 if stage > 0 and place == 0 else 1
                conv = Conv(width, out, stride=stride, groups=groups)
                blocks.append(self.block(Cell(CellSpec(conv, activation), tree)))
                width = out
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            *([] if post else [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, classes),
        )

    @staticmethod
    def block(cell: Cell) -> nn.Module:
        """Returns what stands around a cell: here, nothing."""
        return cell

    def forward(self, x: Tensor) -> Tensor:
        """Maps images `[B, C, H, W]` to logits `[B, classes]`."""
        return self.head(self.blocks(self.stem(x)))


class ResidualBlock(nn.Module):
    """Adds a cell's output to its input.

    Where the cell changes the shape, the input is average-pooled and padded with zero channels, as
    in PyramidNet.
    """

    def __init__(self, cell: Cell) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        conv = self.cell.spec.conv
        shortcut = padded_shortcut(x, conv.channels_out - conv.channels_in, stride=conv.stride)
        return torch.add(self.cell(x), shortcut)


class Residual(Chain):
    """A chain whose every cell has a shortcut around it; pre-activation by default."""

    def __init__(self, *, activation: Activation = "pre", **options: object) -> None:
        super().__init__(activation=activation, **options)  # type: ignore[arg-type]

    @staticmethod
    def block(cell: Cell) -> nn.Module:
        """Returns the cell with its shortcut."""
        return ResidualBlock(cell)


def widenings(
    factor: float,
    *,
    widths: Sequence[int],
    stem: int | None = None,
    groups: int = 1,
    **others: object,
) -> list[dict[str, object]]:
    """Returns options of a chain with all widths about `factor` times as large, narrowest first.

    Each width is rounded up or down to a multiple of the groups, in every combination.
    """
    return [
        {**others, "groups": groups, "stem": wide[0], "widths": wide[1:]}
        for wide in roundings((stem or widths[0], *widths), factor, unit=groups)
    ]
