"""Path-level transforms: change a tree, and leave what the cell computes as it was.

Paper, section 3.1: replicate a layer into branches that are added or concatenated
(:class:`Branch`), insert a node (:class:`Insert`), replace an identity by an operation
(:class:`Replace`). A transform is a value; calling it changes a tree, :meth:`grow` changes a cell,
and ``transform.grow(cell).tree == transform(cell.tree)`` always.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast, get_args

import torch
from torch import nn

from pathnas import ops
from pathnas import tree as trees
from pathnas.cell import (
    Cell,
    CellEdge,
    CellNode,
    cells,
    cost,
    edge_ranges,
    node_widths,
    normed,
    same_borders,
)
from pathnas.clones import clone
from pathnas.specs import Moments
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Merge, Node, Path
from pathnas.wrappers import unwrapped

Network = TypeVar("Network", bound=nn.Module)
Module = TypeVar("Module", bound=nn.Module)


@dataclass(frozen=True)
class Birth:
    """How what a transform adds is born.

    Attributes:
        mode: ``"gated"``: exact for any input (see :class:`pathnas.ops.Gate`); ``"hard"``: exact
            where the operation's own ReLU or pooling leaves the input as it is.
        noise: symmetry-breaking noise on all replicas but the first, in standard deviations of the
            weight; exact twins never separate in training.
        generator: the noise's source; None: torch's global one.
    """

    mode: ops.Birth = "gated"
    noise: float = 0.0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if self.mode not in get_args(ops.Birth):
            raise ValueError(f"mode must be one of {get_args(ops.Birth)}, got {self.mode!r}")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise must be finite and >= 0, got {self.noise}")


EXACT = Birth()
"""Gated and without noise: the output does not change."""


class _Grows:
    """What the three transforms share: a path, and growing a copy."""

    path: Path

    def __post_init__(self) -> None:
        try:
            path = tuple(map(operator.index, self.path))
        except TypeError:
            raise ValueError(
                f"path must be a tuple of branch indices, got {self.path!r:.60}"
            ) from None
        object.__setattr__(self, "path", path)

    def grow(self, network: Network, birth: Birth = EXACT) -> Network:
        """Returns a copy of a cell, or of a network, with this transform done to every cell."""
        return grow(network, [cast(Transform, self)], birth)

    def is_exact(self, birth: Birth = EXACT) -> bool:
        """Tells whether the output does not change on any input in eval mode, by law.

        In train mode only on the batch of :func:`pathnas.training.calibrate`.
        """
        return True


@dataclass(frozen=True)
class Branch(_Grows):
    """Replicates the one leaf edge of a node into `n` branches (paper, section 3.1).

    ``merge="add"`` copies the operation; the branches are averaged. ``merge="concat"`` shares out
    its output channels; identity, pooling and grouped convolutions share out their input too.

    Attributes:
        path: of the node.
        merge: how the branches are merged.
        n: number of branches, at least 2.
    """

    path: Path
    merge: Merge
    n: int

    def __call__(self, tree: Node) -> Node:
        """Returns the transformed tree.

        Raises:
            ValueError: if the node is not one with a single leaf edge.
        """
        node = trees.node_at(tree, self.path)
        if len(node.edges) != 1 or not node.edges[0].child.is_leaf:
            raise ValueError(
                f"path must address a node with one leaf edge, got path={self.path} with "
                f"{str(node) or 'a leaf'}"
            )
        if not isinstance(self.n, int) or self.n < 2 or self.merge not in trees.MERGES:
            raise ValueError(
                f"expected a whole n >= 2 and a merge of {trees.MERGES}, got n={self.n}, "
                f"merge={self.merge!r}"
            )
        op = node.edges[0].op
        splits = self.merge == "concat" and op != BASE_OP and ops.get(op).splits
        branched = Node(node.edges * self.n, self.merge, "split" if splits else "replicate")
        return trees.with_node(tree, self.path, branched)

    def is_exact(self, birth: Birth = EXACT) -> bool:
        """Tells whether the output does not change on any input in eval mode, by law."""
        return self.merge == "concat" or not birth.noise

    def _apply(self, cell: Cell, tree: Node, grown: Node, birth: Birth) -> None:
        target = trees.node_at(grown, self.path)
        ranges = edge_ranges(target, *node_widths(grown, self.path, cell.spec), cell.spec)
        node = cell.node_at(self.path)
        edge = node.edge(0)
        if self.merge == "concat":
            edges = [edge.select(channels, cell.spec) for channels in ranges]
        else:
            edges = [edge, *(_replica(edge, birth) for _ in range(self.n - 1))]
        node.edges = nn.ModuleList(edges)
        node.edges.training = node.training
        node.merge, node.allocation = target.merge, target.allocation
        node.inputs = tuple(channels.inputs for channels in ranges)
        _add_norm(cell, grown, self.path)


@dataclass(frozen=True)
class Insert(_Grows):
    """Puts a new node, holding an identity edge, below a leaf edge.

    Attributes:
        path: of the leaf edge.
    """

    path: Path

    def __call__(self, tree: Node) -> Node:
        """Returns the transformed tree.

        Raises:
            ValueError: if the edge does not end in a leaf.
        """
        edge = trees.edge_at(tree, self.path)
        if not edge.child.is_leaf:
            raise ValueError(
                f"path must address an edge that ends in a leaf, got path={self.path} with {edge}"
            )
        return trees.with_node(tree, self.path, Node((Edge("identity"),)))

    def _apply(self, cell: Cell, tree: Node, grown: Node, birth: Birth) -> None:
        edge = cell.edge_at(self.path)
        inserted = CellEdge("identity", ops.Identity(), CellNode())
        if edge.moments is not None:
            inserted.moments = Moments(*(moment.clone() for moment in edge.moments))
        edge.child = CellNode([inserted]).train(edge.training)


@dataclass(frozen=True)
class Replace(_Grows):
    """Replaces an identity edge by an operation that is born as an identity.

    Attributes:
        path: of the edge.
        op: name of the operation.
    """

    path: Path
    op: str

    def __call__(self, tree: Node) -> Node:
        """Returns the transformed tree.

        Raises:
            ValueError: if the edge is no identity, or the operation is unknown.
        """
        edge = trees.edge_at(tree, self.path)
        if edge.op != "identity":
            raise ValueError(
                f"path must address an edge that is an identity, got path={self.path} with {edge}"
            )
        ops.get(self.op)
        return trees.with_edge(tree, self.path, Edge(self.op, edge.child))

    def is_exact(self, birth: Birth = EXACT) -> bool:
        """Tells whether the output does not change on any input in eval mode, by law."""
        return birth.mode == "gated" or ops.get(self.op).exact

    def _apply(self, cell: Cell, tree: Node, grown: Node, birth: Birth) -> None:
        cost(grown, cell.spec)  # raises where the width does not suit the operation
        if not same_borders(tree, grown, self.path[:-1], cell.spec):
            raise ValueError(
                f"{self.op} at path {self.path} would move the borders of its siblings' channels: "
                f"replace the identity before it is branched"
            )
        width, _ = node_widths(grown, self.path, cell.spec)
        entry = ops.get(self.op)
        op = _like((entry.blank or entry.build)(width, width, cell.spec), cell)
        edge = cell.edge_at(self.path)
        op.become_identity(edge.moments, birth.mode)
        edge.name, edge.op = self.op, op if cell.training else op.eval()
        _add_norm(cell, grown, self.path)


Transform = Branch | Insert | Replace


def _like(op: Module, cell: Cell) -> Module:
    """Gives a new module the cell's device and dtype."""
    to, first = next(cell.parameters()), next(op.parameters(), None)
    if first is not None and (first.device, first.dtype) != (to.device, to.dtype):
        op.to(device=to.device, dtype=to.dtype)
    return op


def _add_norm(cell: Cell, tree: Node, path: Path) -> None:
    """Gives the root's branch on a path the norm that it has come to need, born as an identity."""
    if not path or not normed(tree.edges[path[0]], cell.spec):
        return
    edge = cell.root.edge(path[0])
    if edge.norm is None:
        width, _ = node_widths(tree, path[:1], cell.spec)
        edge.norm = _like(nn.BatchNorm2d(width), cell).train(cell.training)
        ops.undo_norm(edge.norm, edge.moments)


@torch.no_grad()
def _replica(edge: CellEdge, birth: Birth) -> CellEdge:
    replica = clone(edge)
    if birth.noise:
        for weight in replica.op.parameters():
            if weight.dim() > 1:  # norms and biases keep their values
                noise = torch.randn(weight.shape, generator=birth.generator, dtype=weight.dtype)
                weight.add_(birth.noise * weight.std() * noise.to(weight.device))
    return replica


def grow(
    network: Network,
    transforms: Sequence[Transform] | Mapping[str, Sequence[Transform]],
    birth: Birth = EXACT,
) -> Network:
    """Returns a copy of a cell, or of a network, with the transforms done to every cell.

    The copy shares no tensor with the argument, which stays as it was. In eval mode its output is
    the same: exactly with a gated birth and without noise, up to rounding. See
    :func:`pathnas.growth.transform` for one that calibrates, measures and keeps a record.

    Args:
        network: with cells.
        transforms: of all cells alike, or by the name of the cell; cells without any stay.
        birth: of what they add.

    Raises:
        ValueError: if there is no cell, or none of such a name, or a transform does not fit; the
            message names the cell.
    """
    grown = clone(unwrapped(network))
    found = cells(grown)
    if not found:
        raise ValueError(f"expected a network with cells, got {type(network).__name__} without")
    own = transforms if isinstance(transforms, Mapping) else dict.fromkeys(found, transforms)
    if unknown := own.keys() - found.keys():
        raise ValueError(f"expected names of cells, got {min(unknown)!r}; known: {list(found)}")
    for name, cell in found.items():
        tree = cell.tree
        for transform in own.get(name, ()):
            tree = grow_cell(name, cell, tree, transform, birth)
    return grown


def grow_cell(name: str, cell: Cell, tree: Node, transform: Transform, birth: Birth) -> Node:
    """Does a transform to a cell in place and returns its new tree.

    Args:
        name: of the cell, for the message.
        cell: to be changed; if the transform does not fit, it may be left half grown.
        tree: of the cell, which its caller knows already.
        transform: what is done.
        birth: of what it adds.

    Raises:
        ValueError: if the transform does not fit; the message names the cell.
    """
    try:
        grown = transform(tree)
        transform._apply(cell, tree, grown, birth)
    except ValueError as error:
        raise ValueError(f"cell {name or '()'}: {transform}: {error}") from error
    return grown


def growth(tree: Node, start: Node = BASE_TREE) -> list[Transform]:
    """Returns the transforms that lead from a tree to another, depth first.

    Args:
        tree: to be reached, but for the order of the branches of *add* nodes if `start` is not the
            base tree; see :func:`arrange`.
        start: canonical; where they begin.

    Raises:
        ValueError: if no transforms lead there: `start` is no part of the tree, or there is a
            concat below the root that replicates its input into unlike operations; or if the tree
            is no cell's (:func:`pathnas.networks.stages.growths` leads to several).
    """
    if tree.merge == "stages":
        raise ValueError(f"expected the tree of a cell, got those of several stages: {tree}")
    if start == BASE_TREE:
        return list(_growth(tree, ()))
    found = trees.unfolded(tree, start)
    if found is None:
        raise ValueError(f"expected a tree that has grown from {start}, got {tree}")
    return list(_further(found, start, ()))


def _further(node: Node, start: Node, path: Path) -> Iterator[Transform]:
    for index, (edge, old) in enumerate(zip(node.edges, start.edges, strict=True)):
        place = (*path, index)
        if not old.child.is_leaf:
            yield from _further(edge.child, old.child, place)
        elif not edge.child.is_leaf:
            yield Insert(place)
            yield from _growth(edge.child, place)


def arrange(network: nn.Module) -> None:
    """Brings the branches of all *add* nodes into canonical order, in place.

    The output stays as it is, up to the rounding of sums.
    """
    for cell in cells(network).values():
        _arrange(cell.root)


def _arrange(node: CellNode) -> None:
    edges = [node.edge(index) for index in range(len(node.edges))]
    for edge in edges:
        _arrange(edge.child)
    if node.merge == "add":
        edges.sort(key=lambda edge: str(Edge(edge.name, edge.child.tree)))
        ordered = nn.ModuleList(edges)
        ordered.training = node.edges.training
        node.edges = ordered


def _growth(node: Node, path: Path) -> Iterator[Transform]:
    branched = [Branch(path, node.merge, len(node.edges))] if node.merge else []
    names = [edge.op for edge in node.edges]
    if path and node.merge == "concat" and node.allocation == "replicate":
        if len(set(names)) > 1 or ops.get(names[0]).splits:
            raise ValueError(
                f"no transforms lead to a concat that replicates its input into {names} at {path}"
            )
        yield Replace((*path, 0), names[0])
        yield from branched
    else:
        yield from branched
        for index, name in enumerate(names):
            if path and name != "identity":
                yield Replace((*path, index), name)
    for index, edge in enumerate(node.edges):
        if not edge.child.is_leaf:
            yield Insert((*path, index))
            yield from _growth(edge.child, (*path, index))
