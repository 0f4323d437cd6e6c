"""Random specs, trees and networks for property tests."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from pathnas import tree as trees
from pathnas.cell import fits, same_borders
from pathnas.ops import OPS
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Branch, Insert, Replace, Transform
from pathnas.tree import BASE_TREE, Node


@st.composite
def convs(draw: st.DrawFn) -> Conv:
    """Convolutions of odd and even widths, with every setting that torch's have."""
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = groups * draw(st.integers(1, 4)), groups * draw(st.integers(1, 4))
    kernel = draw(st.sampled_from([1, 3, 5, (3, 1), (1, 5)]))
    short = 5 if isinstance(kernel, tuple) else kernel
    stride = draw(st.sampled_from([1, 2, (2, 1)]))
    limits = kernel if isinstance(kernel, tuple) else (kernel, kernel)
    padding = draw(st.tuples(*(st.integers(0, side // 2) for side in limits)))
    if stride == 1:
        padding = draw(st.sampled_from([padding, padding, "valid", "same"]))
    return Conv(
        *channels,
        kernel=kernel,
        stride=stride,
        padding=draw(st.sampled_from([padding, padding, "valid", "same"]))
        if stride == 1
        else padding,
        dilation=draw(st.sampled_from([1, 1, 2])) if short <= 3 else 1,
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(["zeros", "zeros", "reflect", "replicate", "circular"])),
    )


@st.composite
def specs(draw: st.DrawFn) -> CellSpec:
    """Cells of all of these."""
    conv = draw(convs())
    activation = draw(st.sampled_from(["pre", "post"]))
    bare = draw(st.booleans())
    inner = draw(st.sampled_from([g for g in (1, 2, 3, conv.groups) if conv.channels_out % g == 0]))
    return CellSpec(conv, activation, bare, inner, residual=draw(st.booleans()))


def _options(tree: Node) -> list[Transform]:
    """Every transform that could be tried on a tree."""
    found: list[Transform] = []
    nodes = [((), tree)] + [(path, edge.child) for path, edge in trees.walk(tree)]
    for path, node in nodes:
        if len(node.edges) == 1 and node.edges[0].child.is_leaf:
            found += [Branch(path, "add", n) for n in (2, 3)]
            found += [Branch(path, "concat", n) for n in (2, 3)]
    for path, edge in trees.walk(tree):
        if edge.child.is_leaf and len(path) < 3:
            found.append(Insert(path))
        if edge.op == "identity":
            found += [Replace(path, op) for op in OPS if op != "identity"]
    return found


@st.composite
def growths(draw: st.DrawFn, spec: CellSpec, most: int = 8) -> list[Transform]:
    """Sequences of transforms that the cell can hold, in any order."""
    return _growth([spec], draw(st.integers(1, most)), lambda all_: draw(st.sampled_from(all_)))


def random_growth(cells: Iterable[CellSpec], *, seed: int, most: int = 8) -> list[Transform]:
    """A sequence of transforms that all of the cells can hold."""
    return _growth(list(cells), most, random.Random(seed).choice)


def _growth(
    cells: list[CellSpec], most: int, choose: Callable[[list[Transform]], Transform]
) -> list[Transform]:
    tree, done = BASE_TREE, []
    for _ in range(most):
        options = _options(tree)
        if not options:
            break
        choice = choose(options)
        grown = choice(tree)
        if all(_can_hold(spec, tree, choice, grown) for spec in cells):
            tree, done = grown, [*done, choice]
    return done


TINY: dict[str, dict[str, Any]] = {
    "chain": dict(widths=(4, 8), cells=2, groups=2),
    "residual": dict(widths=(4, 8), cells=2, groups=2),
    "pyramidnet": dict(blocks=2, alpha=6, stages=2, stem=5, expansion=2, groups=2),
    "densenet": dict(layers=2, growth=4, stages=2, bottleneck=2, groups=2),
    "condensenet": dict(
        layers=(1, 2), growth=(4, 6), cells=(0, 2), groups=2, learned_groups=2, stride=1
    ),
}
"""Options of a small network of every kind."""


def _can_hold(spec: CellSpec, tree: Node, choice: Transform, grown: Node) -> bool:
    if not fits(grown, spec):
        return False
    # A grouped operation may move the borders of its siblings; a branching has none.
    return not isinstance(choice, Replace) or same_borders(tree, grown, choice.path[:-1], spec)


def randomize(module: nn.Module, seed: int) -> None:
    """Gives norms statistics and affine parameters that are not the defaults."""
    generator = torch.Generator().manual_seed(seed)
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            shape, dtype = norm.weight.shape, norm.weight.dtype
            norm.weight.data = torch.rand(shape, generator=generator, dtype=dtype) + 0.5
            norm.bias.data = torch.randn(shape, generator=generator, dtype=dtype)
            norm.running_mean = torch.randn(shape, generator=generator, dtype=dtype)
            norm.running_var = torch.rand(shape, generator=generator, dtype=dtype) + 0.5


def images(channels: int, seed: int, dtype: torch.dtype, *, size: int = 7) -> Tensor:
    """A batch `[4, channels, size, size]`, of an odd size by default."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(4, channels, size, size, generator=generator, dtype=dtype)


def relative_change(before: Tensor, after: Tensor) -> float:
    """The error of a law: max |change| over max |output|."""
    scale = float(before.detach().abs().max())
    change = float((before - after).detach().abs().max())
    return change / scale if scale else change
