"""Networks of the experiments as one would write them by hand, in plain torch.

They know nothing of trees: the base networks of ``digits.yaml``, ``cifar10.yaml`` and
``cifar10_small.yaml``, with the convolution alone in each cell's place or with one of the cells
that searches of the digits found (``experiments/README.md``). :data:`TREES` names the trees that
they are; :func:`copy_weights` is what shows that they are the same networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pathnas.tree import BASE_TREE, Edge, Merge, Node

Make = Callable[..., nn.Module]
"""Of a cell: from channels in and out, the stride, and whether norm and ReLU stand before."""


def conv(i: int, o: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Returns a convolution without bias that keeps the image's size at stride 1."""
    return nn.Conv2d(i, o, kernel, stride, kernel // 2, groups=groups, bias=False)


def unit(pre: bool, *convs: nn.Conv2d) -> nn.Sequential:
    """Returns norm, ReLU and convolutions, or convolutions, norm and ReLU."""
    if pre:
        return nn.Sequential(nn.BatchNorm2d(convs[0].in_channels), nn.ReLU(inplace=True), *convs)
    return nn.Sequential(*convs, nn.BatchNorm2d(convs[-1].out_channels), nn.ReLU(inplace=True))


def sep(pre: bool, width: int, kernel: int) -> nn.Sequential:
    """Returns a separable convolution: depthwise, then pointwise."""
    return unit(pre, conv(width, width, kernel, groups=width), conv(width, width, 1))


def max_pool(x: Tensor) -> Tensor:
    """Pools `[B, C, H, W]` to the same shape."""
    return F.max_pool2d(x, 3, 1, 1)


class Plain(nn.Module):
    """The convolution alone."""

    def __init__(self, i: int, o: int, stride: int, pre: bool) -> None:
        super().__init__()
        self.base = unit(pre, conv(i, o, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        return self.base(x)


class Two(nn.Module):
    """The mean of a pointwise convolution and a pooled separable one (the pick of seed 0)."""

    def __init__(self, i: int, o: int, stride: int, pre: bool) -> None:
        super().__init__()
        self.base = unit(pre, conv(i, o, stride=stride))
        self.point = unit(pre, conv(o, o, 1))
        self.sep = sep(pre, o, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        x = self.base(x)
        return (self.point(x) + max_pool(self.sep(x))) / 2


class Halves(nn.Module):
    """Two halves of the channels, each split once or twice more (the pick of seed 1)."""

    def __init__(self, i: int, o: int, stride: int, pre: bool) -> None:
        super().__init__()
        upper, lower = o - o // 2, o // 2
        a, b = upper - upper // 2, upper // 2
        c, d = lower - lower // 2, lower // 2
        self.splits = (a, b), (c, d), (c - c // 2, c // 2)
        self.base1 = unit(pre, conv(i, upper, stride=stride))
        self.way1 = nn.Sequential(sep(pre, a, 7), sep(pre, a, 3))
        self.way2 = nn.Sequential(unit(pre, conv(b, b, 1)), sep(pre, b, 7))
        self.base2 = unit(pre, conv(i, lower, stride=stride))
        self.sep3 = sep(pre, c, 7)
        self.point = unit(pre, conv(c // 2, c // 2, 1))
        self.sep4 = sep(pre, d, 7)
        self.sep5 = sep(pre, d, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        first, second, third = self.splits
        a, b = self.base1(x).split(first, 1)
        c, d = self.base2(x).split(second, 1)
        e, f = self.sep3(c).split(third, 1)
        d = max_pool(d)
        d = (max_pool(d) + self.sep4(d) + self.sep5(d)) / 3
        return torch.cat([self.way1(a), self.way2(b), max_pool(e), self.point(f), d], 1)


class Three(nn.Module):
    """The mean of three poolings of a separable convolution (the pick of seed 2)."""

    def __init__(self, i: int, o: int, stride: int, pre: bool) -> None:
        super().__init__()
        self.base = unit(pre, conv(i, o, stride=stride))
        self.sep = sep(pre, o, 7)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        x = self.sep(self.base(x))
        average = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return (average + max_pool(x) + max_pool(x)) / 3


class Shortcut(nn.Module):
    """Adds a cell's output to its input, made to fit."""

    def __init__(self, cell: nn.Module, grown: int, stride: int) -> None:
        super().__init__()
        self.cell = cell
        self.grown = grown
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        y = self.cell(x)
        if self.stride == 2:
            x = F.avg_pool2d(x, 2)
        return y + F.pad(x, (0, 0, 0, 0, 0, self.grown))


class Network(nn.Module):
    """A stem, blocks in stages, each stage at half the size of the last, and a classifier."""

    def __init__(
        self, cell: Make, *, channels: int, widths: Sequence[int], cells: int, residual: bool
    ) -> None:
        super().__init__()
        width = widths[0]
        blocks: list[nn.Module] = []
        for stage, out in enumerate(widths):
            for place in range(cells):
                stride = 2 if stage and not place else 1
                block = cell(width, out, stride, residual)
                blocks.append(Shortcut(block, out - width, stride) if residual else block)
                width = out
        norm_relu = [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
        stem = conv(channels, widths[0])
        self.stem = stem if residual else unit(False, stem)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            *(norm_relu if residual else []),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 10),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Maps images `[B, C, H, W]` to logits `[B, 10]`."""
        return self.head(self.blocks(self.stem(x)))


def _merged(merge: Merge, *edges: Edge, split: bool = False) -> Node:
    return Node(edges, merge, "split" if split else "replicate")


def _then(op: str, *edges: Edge) -> Edge:
    return Edge(op, Node(edges))


MAX, AVG, POINT = Edge("max_pool3x3"), Edge("avg_pool3x3"), Edge("conv1x1")
SEP = Edge("sep_conv7x7")

UPPER = (_then("sep_conv7x7", Edge("sep_conv3x3")), _then("conv1x1", SEP))
LOWER = (
    Edge("sep_conv7x7", _merged("concat", MAX, POINT, split=True)),
    Edge("max_pool3x3", _merged("add", MAX, SEP, SEP)),
)
TREES: dict[str, tuple[Node, Make]] = {
    "base": (BASE_TREE, Plain),
    "pick 0": (
        Node((Edge("base", _merged("add", _then("identity", POINT), _then("sep_conv7x7", MAX))),)),
        Two,
    ),
    "pick 1": (
        _merged(
            "concat",
            Edge("base", _merged("concat", *UPPER, split=True)),
            Edge("base", _merged("concat", *LOWER, split=True)),
        ),
        Halves,
    ),
    "pick 2": (
        Node((_then("base", Edge("sep_conv7x7", _merged("add", AVG, MAX, MAX))),)),
        Three,
    ),
}
"""Trees by name (what the searches of seeds 0, 1 and 2 picked), and their cells by hand."""


def copy_weights(ours: nn.Module, theirs: nn.Module) -> None:
    """Gives a network the weights and statistics of another, kind by kind and in their order.

    Raises:
        ValueError: if they do not have the same layers.
    """
    for kinds in ((nn.Conv2d, nn.Linear), (nn.BatchNorm2d,)):
        from_, to = ([m for m in n.modules() if isinstance(m, kinds)] for n in (ours, theirs))
        shapes = [
            [tuple(t.shape) for m in side for t in m.state_dict().values()] for side in (from_, to)
        ]
        if shapes[0] != shapes[1]:
            raise ValueError(f"expected layers of {shapes[0]}, got {shapes[1]}")
        for one, other in zip(from_, to, strict=True):
            other.load_state_dict(one.state_dict())
