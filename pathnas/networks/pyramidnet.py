"""PyramidNet with bottleneck blocks (Han et al., 2017), its 3x3 convolutions as cells."""

from __future__ import annotations

from torch import Tensor, nn

from pathnas.cell import Cell
from pathnas.networks.layers import conv1x1, conv3x3, head, norm_relu, padded_shortcut
from pathnas.specs import CellSpec, Conv
from pathnas.tree import BASE_TREE, Node


class PyramidNet(nn.Module):
    """Blocks whose width grows by the same amount from one to the next.

    The defaults are the smaller PyramidNet of the paper (Cai et al., 2018, section 4.2); the
    larger has ``alpha=150``. With TreeCell-A they have 5.7 and 14.3 million parameters.

    Args:
        channels: of the images.
        classes: number of logits.
        blocks: in each stage; the first block of every stage but the first halves the image.
        alpha: by how many channels the bottlenecks are wider at the end than the stem. The width
            of a block is rounded, and then down to a multiple of the groups.
        stages: of equal images.
        stem: channels of the stem.
        expansion: a block's output is so many times as wide as its bottleneck.
        groups: of the 3x3 convolutions.
        tree: the architecture of every cell.

    Raises:
        ValueError: if a block would have no channels, or the tree does not fit.
    """

    def __init__(
        self,
        *,
        channels: int,
        classes: int,
        blocks: int = 18,
        alpha: float = 84.0,
        stages: int = 3,
        stem: int = 16,
        expansion: int = 4,
        groups: int = 2,
        tree: Node = BASE_TREE,
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv3x3(channels, stem), nn.BatchNorm2d(stem))
        layers, width = [], stem
        for place in range(blocks * stages):
            exact = stem + alpha * (place + 1) / (blocks * stages)
            inner = round(exact) // groups * groups
            if inner < 1:
                raise ValueError(f"a block needs a width of {groups} groups, got {exact:.1f}")
            stride = 2 if place and place % blocks == 0 else 1
            conv = Conv(inner, inner, stride=stride, groups=groups)
            layers.append(Bottleneck(width, expansion * inner, Cell(CellSpec(conv), tree)))
            width = expansion * inner
        self.blocks = nn.Sequential(*layers)
        self.head = head(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images `[B, C, H, W]` to logits `[B, classes]`."""
        return self.head(self.blocks(self.stem(x)))


class Bottleneck(nn.Module):
    """Adds a narrow way (norm, 1x1, cell, 1x1, norm) to the input; no ReLU before the first."""

    def __init__(self, channels_in: int, channels_out: int, cell: Cell) -> None:
        super().__init__()
        conv = cell.spec.conv
        self.reduce = nn.Sequential(
            nn.BatchNorm2d(channels_in), conv1x1(channels_in, conv.channels_in)
        )
        self.grown = channels_out - channels_in
        self.cell = cell
        self.expand = nn.Sequential(
            *norm_relu(conv.channels_out),
            conv1x1(conv.channels_out, channels_out),
            nn.BatchNorm2d(channels_out),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        y = self.expand(self.cell(self.reduce(x)))
        return y + padded_shortcut(x, self.grown, stride=self.cell.spec.conv.stride)


def widenings(factor: float, *, alpha: float = 84.0, **others: object) -> list[dict[str, object]]:
    """Returns the options of a PyramidNet that widens `factor` times as fast."""
    return [{**others, "alpha": alpha * factor}]
