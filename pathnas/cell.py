"""Cells: a tree with its weights, and what a tree costs at a cell.

A :class:`Cell` is built from a tree by its constructor, and its modules are the only record of its
structure: :attr:`Cell.tree` reads the tree off them. How the channels are shared out among the
branches follows from the tree and the cell's spec alone (:func:`edge_ranges`).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from pathnas import ops
from pathnas import tree as trees
from pathnas.drop_path import drop_paths
from pathnas.ops import Primitive
from pathnas.specs import CellSpec, Moments, Range
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Node, Path


def shares(channels: int, n: int, unit: int = 1) -> tuple[int, ...]:
    """Shares out channels over n branches as evenly as whole units allow, larger ones first.

    Raises:
        ValueError: if a branch would get none, or the unit does not divide the channels.
    """
    units, rest = divmod(channels, unit)
    if rest or units < n:
        raise ValueError(
            f"{n} branches need at least {n} channels in whole groups of {unit}, got {channels}"
        )
    return tuple(unit * (units // n + (i < units % n)) for i in range(n))


class EdgeRange(NamedTuple):
    """The channels of one branch.

    Attributes:
        inputs: those of the node's input that it is allocated.
        outputs: those of the node's output that it yields.
    """

    inputs: Range
    outputs: Range


@lru_cache(maxsize=100_000)
def edge_ranges(
    node: Node, channels_in: int, channels_out: int, spec: CellSpec
) -> tuple[EdgeRange, ...]:
    """Returns which channels each branch of a node reads and yields.

    Raises:
        ValueError: if the channels cannot be shared out so.
    """
    whole = EdgeRange(Range(0, channels_in), Range(0, channels_out))
    if node.merge != "concat":
        return (whole,) * len(node.edges)
    if node.allocation == "split" and channels_in != channels_out:
        raise ValueError(f"a split needs equal widths, got {channels_in} -> {channels_out}")
    if any(edge.op == BASE_OP for edge in node.edges):
        unit = channels_out // spec.conv.groups if spec.conv.groups > 1 else 1
    else:
        grouped = any(ops.get(edge.op).grouped for edge in node.edges)
        unit = spec.group_width if grouped else 1
    found, start = [], 0
    for width in shares(channels_out, len(node.edges), unit):
        outputs = Range(start, start + width)
        found.append(EdgeRange(outputs if node.allocation == "split" else whole.inputs, outputs))
        start += width
    return tuple(found)


def node_widths(tree: Node, path: Path, spec: CellSpec) -> tuple[int, int]:
    """Returns the channels that the node at a path reads and yields.

    Raises:
        ValueError: if the path leads nowhere or the channels cannot be shared out.
    """
    trees.node_at(tree, path)
    width = spec.conv.channels_in, spec.conv.channels_out
    for index in path:
        start, stop = edge_ranges(tree, *width, spec)[index].outputs
        width = stop - start, stop - start
        tree = tree.edges[index].child
    return width


def same_borders(tree: Node, grown: Node, path: Path, spec: CellSpec) -> bool:
    """Tells whether the branches of the node at a path have the same channels in both trees.

    A grouped operation splits between its groups; its siblings may have been split elsewhere.
    """
    widths = node_widths(tree, path, spec)
    before, after = (edge_ranges(trees.node_at(t, path), *widths, spec) for t in (tree, grown))
    return before == after


class Cost(NamedTuple):
    """Parameters, and multiply-adds; of one cell and one output position unless said otherwise.

    The latency, in nanoseconds, is 0 where it is not known.
    """

    parameters: int
    macs: int
    latency: int = 0


class Site(NamedTuple):
    """A cell's place in a network: its spec and the positions (height x width) of its output."""

    spec: CellSpec
    positions: int


def by_stage(sites: Sequence[Site]) -> list[tuple[Site, ...]]:
    """Returns the sites of each stage of a network: cells with equally many output positions.

    The stages are in the order of their first sites.
    """
    found: dict[int, list[Site]] = {}
    for site in sites:
        found.setdefault(site.positions, []).append(site)
    return list(map(tuple, found.values()))


def cost(tree: Node, spec: CellSpec) -> Cost:
    """Returns what a tree costs at a cell, by the closed formulas of its operations.

    Raises:
        ValueError: if the cell cannot hold the tree (too few channels to share out, an operation
            that changes the width or does not divide it).
    """
    return _cost(tree, spec.conv.channels_in, spec.conv.channels_out, spec)


@lru_cache(maxsize=1_000_000)
def _cost(node: Node, channels_in: int, channels_out: int, spec: CellSpec) -> Cost:
    if node.is_leaf and channels_in != channels_out:
        raise ValueError(f"a leaf cannot change {channels_in} channels to {channels_out}")
    parameters = macs = 0
    ranges = edge_ranges(node, channels_in, channels_out, spec)
    for edge, (inputs, outputs) in zip(node.edges, ranges, strict=True):
        i, o = inputs.stop - inputs.start, outputs.stop - outputs.start
        if edge.op == BASE_OP:
            parameters += ops.base_parameters(spec, outputs) + 2 * o * normed(edge, spec)
            macs += ops.base_macs(spec, outputs)
        else:
            op = _check_width(edge.op, i, o, spec)
            parameters += op.parameters(i, o, spec)
            macs += op.macs(i, o, spec)
        below = _cost(edge.child, o, o, spec)
        parameters += below.parameters
        macs += below.macs
    return Cost(parameters, macs)


def _check_width(name: str, channels_in: int, channels_out: int, spec: CellSpec) -> ops.Op:
    op = ops.get(name)
    if op.splits and channels_in != channels_out:
        raise ValueError(f"{name} keeps its width, got {channels_in} -> {channels_out} channels")
    if op.grouped and channels_in % spec.group_width:
        raise ValueError(
            f"{name} needs whole groups of {spec.group_width} channels, got {channels_in}"
        )
    return op


def fits(tree: Node, spec: CellSpec) -> bool:
    """Tells whether the cell can hold the tree."""
    try:
        cost(tree, spec)
    except ValueError:
        return False
    return True


def normed(edge: Edge, spec: CellSpec) -> bool:
    """Tells whether a branch has the batch norm of :attr:`CellSpec.residual`.

    A branch of identities alone has none, so that trees with equal keys compute the same.
    """
    return (
        spec.residual
        and edge.op == BASE_OP
        and not trees.canonical(Node((edge,))).edges[0].child.is_leaf
    )


class CellEdge(nn.Module):
    """A branch with weights: a primitive operation and the node at its end.

    With a `norm`, what the node makes of the operation's output is normalized and averaged with it.

    The moments of its output, if measured (:func:`pathnas.training.calibrate`), let operations
    below it be born as identities in train mode too. They are no part of the ``state_dict``.
    """

    def __init__(
        self, name: str, op: Primitive, child: CellNode, norm: nn.BatchNorm2d | None = None
    ) -> None:
        super().__init__()
        self.name = name
        self.op = op
        self.child = child
        self.norm = norm
        self.mean: Tensor | None
        self.var: Tensor | None
        self.register_buffer("mean", None, persistent=False)
        self.register_buffer("var", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        x = self.op(x)
        if self.norm is None:
            return self.child(x)
        return (x + self.norm(self.child(x))) / 2

    @property
    def moments(self) -> Moments | None:
        """Mean and variance of the operation's output, `[C_out]`, or None if not measured."""
        if self.mean is None or self.var is None:
            return None
        return Moments(self.mean, self.var)

    @moments.setter
    def moments(self, moments: Moments | None) -> None:
        self.mean, self.var = moments if moments is not None else (None, None)

    def select(self, channels: EdgeRange, spec: CellSpec) -> CellEdge:
        """Returns a new leaf edge that yields only some of the channels, and reads as told."""
        outputs = channels.outputs
        if self.name == BASE_OP:
            reads = ops.base_reads(spec.conv, outputs)
            op = self.op.select(outputs, reads)
            op.reads = reads  # type: ignore[assignment]
        else:
            splits = ops.get(self.name).splits
            op = self.op.select(outputs, channels.inputs if splits else None)
        edge = CellEdge(self.name, op, CellNode().train(self.training))
        edge.training = self.training
        if self.moments is not None:
            edge.moments = Moments(*(m[slice(*outputs)].clone() for m in self.moments))
        return edge


class CellNode(nn.Module):
    """A node with weights: allocates its input to its edges and merges their outputs."""

    def __init__(
        self,
        edges: list[CellEdge] | None = None,
        merge: trees.Merge | None = None,
        allocation: trees.Allocation | None = None,
        inputs: tuple[Range, ...] = (),
    ) -> None:
        super().__init__()
        self.edges = nn.ModuleList(edges or [])
        self.merge = merge
        self.allocation = allocation
        self.inputs = inputs
        self.drop = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`."""
        branches = self.branches
        if self.merge is None:
            return branches[0](x) if branches else x
        if self.allocation == "split":
            pairs = zip(branches, self.inputs, strict=True)
            outputs = [edge(x[:, start:stop]) for edge, (start, stop) in pairs]
        else:
            outputs = [edge(x) for edge in branches]
        if self.merge == "concat":
            return torch.cat(outputs, dim=1)
        if self.drop and self.training:
            outputs = drop_paths(outputs, self.drop)
        total = outputs[0]
        for output in outputs[1:]:
            total = total + output
        return total / len(outputs)

    @property
    def branches(self) -> list[CellEdge]:
        """The edges, in order."""
        # Indexing a ModuleList takes as long as the smallest convolutions' arithmetic.
        return cast("list[CellEdge]", [*self.edges._modules.values()])

    @property
    def keeps(self) -> bool:
        """Whether autograd may still need the output: the last of several operations returned it.

        A mean and a concatenation are tensors that nothing else reads.
        """
        node, operations = self, 0
        while node.merge is None:
            branches = node.branches
            if not branches:
                return operations > 1
            if branches[0].norm is not None:
                return False
            node, operations = branches[0].child, operations + 1
        return False

    def edge(self, index: int) -> CellEdge:
        """Returns a branch by its index."""
        return cast(CellEdge, self.edges[index])

    @property
    def tree(self) -> Node:
        """The architecture below this node."""
        branches = (self.edge(index) for index in range(len(self.edges)))
        edges = tuple(Edge(branch.name, branch.child.tree) for branch in branches)
        return Node(edges, self.merge, self.allocation)


def _build(node: Node, channels_in: int, channels_out: int, spec: CellSpec) -> CellNode:
    edges = []
    ranges = edge_ranges(node, channels_in, channels_out, spec)
    for edge, (inputs, outputs) in zip(node.edges, ranges, strict=True):
        i, o = inputs.stop - inputs.start, outputs.stop - outputs.start
        if edge.op == BASE_OP:
            op: Primitive = ops.build_base(spec, outputs)
        else:
            op = ops.get(edge.op).build(i, o, spec)
        norm = nn.BatchNorm2d(o) if normed(edge, spec) else None
        edges.append(CellEdge(edge.op, op, _build(edge.child, o, o, spec), norm))
    return CellNode(edges, node.merge, node.allocation, tuple(r.inputs for r in ranges))


class Cell(nn.Module):
    """A tree with weights, in the place of one convolution.

    Args:
        spec: the convolution that it replaces, and the order of norm and activation.
        tree: the architecture; by default the convolution alone.

    Raises:
        ValueError: if the tree does not fit the channels of the spec.
    """

    def __init__(self, spec: CellSpec, tree: Node = BASE_TREE) -> None:
        super().__init__()
        _check_base(tree)
        cost(tree, spec)
        self.spec = spec
        self.root = _build(tree, spec.conv.channels_in, spec.conv.channels_out, spec)

    def forward(self, x: Tensor) -> Tensor:
        """Maps `[B, C_in, H, W]` to `[B, C_out, H', W']`.

        Whoever reads the output may overwrite it, as an in-place activation does.
        """
        root = self.root
        output = root(x)
        return output.clone() if root.keeps else output

    @property
    def tree(self) -> Node:
        """The architecture, read off the modules."""
        return self.root.tree

    def edge_at(self, path: Path) -> CellEdge:
        """Returns the edge at a path of at least one index.

        Raises:
            ValueError: if the path leads nowhere.
        """
        parent = self.node_at(path[:-1])
        if not path or not 0 <= path[-1] < len(parent.edges):
            trees.edge_at(self.tree, path)  # raises
        return parent.edge(path[-1])

    def node_at(self, path: Path) -> CellNode:
        """Returns the node at a path; ``()`` is the root.

        Raises:
            ValueError: if the path leads nowhere.
        """
        node = self.root
        for index in path:
            if not 0 <= index < len(node.edges):
                trees.node_at(self.tree, path)  # raises
            node = node.edge(index).child
        return node

    def extra_repr(self) -> str:
        """Shows the tree where torch prints the module."""
        return f"tree={self.tree}"


def _check_base(tree: Node) -> None:
    for path, edge in trees.walk(tree):
        if (edge.op == BASE_OP) != (len(path) == 1):
            raise ValueError(
                f"the edges of the root, and no others, carry {BASE_OP!r}, got {edge.op!r} at "
                f"path {path}"
            )


def cells(module: nn.Module) -> dict[str, Cell]:
    """Returns every cell of a network by its module name, in order."""
    return {name: found for name, found in module.named_modules() if isinstance(found, Cell)}


def moments(module: nn.Module) -> dict[str, Tensor]:
    """Returns the measured moments of a network's edges by name, `[C]` each, for a file."""
    found = {}
    for name, edge in module.named_modules():
        if isinstance(edge, CellEdge) and edge.moments is not None:
            found[f"{name}.mean"], found[f"{name}.var"] = edge.moments
    return found


def set_moments(module: nn.Module, found: dict[str, Tensor]) -> None:
    """Gives the edges of a network the moments that :func:`moments` returned."""
    for name, edge in module.named_modules():
        if isinstance(edge, CellEdge) and f"{name}.mean" in found:
            edge.moments = Moments(found[f"{name}.mean"], found[f"{name}.var"])


def set_drop_path(module: nn.Module, rate: float) -> None:
    """Sets how often train mode drops the branches of *add* nodes, in [0, 1); 0: never."""
    for node in module.modules():
        if isinstance(node, CellNode):
            node.drop = rate


def set_gates(module: nn.Module, a: float) -> None:
    """Sets every gate of a network; at 0 the gates are removed and their functions stay."""
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ops.Gate):
                child.a = a
                if a == 0:
                    setattr(parent, name, child.inner)
