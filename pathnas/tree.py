"""Trees: the architecture of a cell as a pure value (paper, section 3.2).

A tree is a rooted, ordered :class:`Node`. Every :class:`Edge` carries one primitive operation to a
child node; a node allocates its input to its edges and merges what comes back. Nothing here knows
of weights, channels or torch.

A *path* is a tuple of branch indices from the root: ``()`` is the root node, ``(0, 1)`` is the
second edge below the first edge of the root, and also the node at the end of that edge.

Where each stage of a network has a tree of its own, :func:`staged` makes one value of them: a root
with one edge to each stage's tree. Keys, JSON, pictures and a controller's eyes know no difference.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any, Literal, get_args

import networkx as nx

Merge = Literal["add", "concat", "stages"]
Allocation = Literal["replicate", "split"]
Path = tuple[int, ...]

MERGES: tuple[Merge, ...] = ("add", "concat")
"""Of the branches of a cell; ``"stages"`` merges nothing, see :func:`staged`."""
ALLOCATIONS: tuple[Allocation, ...] = get_args(Allocation)

# What is read from a file is bounded before anything is built from it.
MAX_DEPTH = 64
MAX_EDGES = 100_000


@dataclass(frozen=True)
class Node:
    """A place where an input is allocated to branches and their outputs are merged.

    Attributes:
        edges: the branches, in order. None: a leaf, which hands its input on.
        merge: ``"add"`` (the mean of the branches) or ``"concat"``; None with fewer than two edges;
            ``"stages"`` for the root of :func:`staged`, which has no allocation.
        allocation: ``"replicate"`` (every branch reads the whole input) or ``"split"`` (the
            branches share out its channels); None with fewer than two edges.

    Raises:
        ValueError: if merge and allocation do not fit the number of edges.
    """

    edges: tuple[Edge, ...] = ()
    merge: Merge | None = None
    allocation: Allocation | None = None

    def __post_init__(self) -> None:
        kind = (self.merge, self.allocation)
        if len(self.edges) < 2:
            if kind != (None, None):
                raise ValueError(
                    f"a node with {len(self.edges)} edges has no merge or allocation, got {kind}"
                )
        elif self.merge not in MERGES or self.allocation not in ALLOCATIONS:
            if kind != ("stages", None):
                raise ValueError(
                    f"a node with {len(self.edges)} edges needs a merge of {MERGES} and an "
                    f"allocation of {ALLOCATIONS}, got {kind}"
                )
            _check_stages(self.edges)
        elif kind == ("add", "split"):
            raise ValueError("a node that adds its branches replicates its input, got 'split'")

    def __hash__(self) -> int:
        return self.__dict__.get("_hash") or hash_once(
            self, self.edges, self.merge, self.allocation
        )

    def __reduce__(self) -> tuple[type[Node], tuple[Any, ...]]:
        # The hash of a string differs between processes, so it must not travel with a pickle.
        return Node, (self.edges, self.merge, self.allocation)

    def __str__(self) -> str:
        """Writes the tree on one line, as in ``add(base > conv1x1, base)``."""
        if self.merge == "stages":
            return " | ".join(str(edge.child) for edge in self.edges)
        inner = ", ".join(str(edge) for edge in self.edges)
        if len(self.edges) < 2:
            return inner
        name = "concat_replicate" if self.allocation != "split" else "concat"
        return f"{name if self.merge == 'concat' else 'add'}({inner})"

    @property
    def is_leaf(self) -> bool:
        """Whether the node has no branch."""
        return not self.edges


@dataclass(frozen=True)
class Edge:
    """A branch: one primitive operation, by name, and the node at its end."""

    op: str
    child: Node = Node()

    def __hash__(self) -> int:
        return self.__dict__.get("_hash") or hash_once(self, self.op, self.child)

    def __reduce__(self) -> tuple[type[Edge], tuple[Any, ...]]:
        return Edge, (self.op, self.child)

    def __str__(self) -> str:
        return self.op if self.child.is_leaf else f"{self.op} > {self.child}"


def hash_once(value: object, *parts: object) -> int:
    """Returns the hash of a value's parts, and keeps it in the value's attribute ``_hash``."""
    found = hash(parts)
    object.__setattr__(value, "_hash", found)
    return found


BASE_OP = "base"
BASE_TREE = Node((Edge(BASE_OP),))
"""The tree of a cell that has not grown: one branch, the convolution that it replaces."""


def stage_name(number: int) -> str:
    """Returns the name of a stage, counted from 0: ``stage1`` is the first."""
    return f"stage{number + 1}"


def _check_stages(edges: tuple[Edge, ...]) -> None:
    names = [edge.op for edge in edges]
    inner = [edge.child.merge == "stages" or edge.child.is_leaf for edge in edges]
    if names != [stage_name(number) for number in range(len(edges))] or any(inner):
        raise ValueError(
            f"stages are named {stage_name(0)}, {stage_name(1)} and so on, and each has the tree "
            f"of its cells, got {[str(edge) for edge in edges]}"
        )


def staged(trees: Sequence[Node]) -> Node:
    """Returns the trees of a network's stages as one value; of a single stage, its tree.

    Args:
        trees: of the cells of each stage, the first one first.

    Raises:
        ValueError: if there are none, or one is no tree of a cell.
    """
    if not trees:
        raise ValueError("expected the trees of at least one stage, got none")
    if len(trees) == 1:
        return trees[0]
    edges = [Edge(stage_name(number), tree) for number, tree in enumerate(trees)]
    return Node(tuple(edges), "stages")


def stages(tree: Node, count: int = 1) -> tuple[Node, ...]:
    """Returns the tree of each stage, the first one first.

    Args:
        tree: one of :func:`staged`, or one that stands in all stages.
        count: how many stages there are if it stands in all.
    """
    if tree.merge == "stages":
        return tuple(edge.child for edge in tree.edges)
    return (tree,) * count


def walk(tree: Node, prefix: Path = ()) -> Iterator[tuple[Path, Edge]]:
    """Yields every edge with its path, parents before children, first branch first."""
    for index, edge in enumerate(tree.edges):
        path = (*prefix, index)
        yield path, edge
        yield from walk(edge.child, path)


def depth(tree: Node) -> int:
    """Returns the largest number of edges between the root and a leaf."""
    return max((1 + depth(edge.child) for edge in tree.edges), default=0)


def edge_at(tree: Node, path: Path) -> Edge:
    """Returns the edge at a path of at least one index.

    Raises:
        ValueError: if the path leads nowhere.
    """
    if not path:
        raise ValueError("an edge's path has at least one index, got ()")
    node = tree
    for place, index in enumerate(path):
        if not 0 <= index < len(node.edges):
            raise ValueError(
                f"path {path} leads nowhere: the node at {path[:place]} has {len(node.edges)} "
                f"branches, got index {index}"
            )
        edge = node.edges[index]
        node = edge.child
    return edge


def node_at(tree: Node, path: Path) -> Node:
    """Returns the node at a path; ``()`` is the root.

    Raises:
        ValueError: if the path leads nowhere.
    """
    return edge_at(tree, path).child if path else tree


def with_edge(tree: Node, path: Path, edge: Edge) -> Node:
    """Returns the tree with another edge at a path that exists."""
    edge_at(tree, path)
    above, index = path[:-1], path[-1]
    return with_node(tree, above, _with_branch(node_at(tree, above), index, edge))


def with_node(tree: Node, path: Path, node: Node) -> Node:
    """Returns the tree with another node at a path that exists; ``()`` gives the node itself."""
    if not path:
        return node
    index = path[0]
    if not 0 <= index < len(tree.edges):
        edge_at(tree, path)  # raises
    old = tree.edges[index]
    return _with_branch(tree, index, Edge(old.op, with_node(old.child, path[1:], node)))


def _with_branch(node: Node, index: int, edge: Edge) -> Node:
    edges = (*node.edges[:index], edge, *node.edges[index + 1 :])
    return Node(edges, node.merge, node.allocation)


def canonical(tree: Node) -> Node:
    """Returns the one tree that stands for all that differ in writing only.

    The branches of *add* nodes are sorted, and a node below an edge whose only branch is an
    identity gives way to that branch's child. Equal canonical trees compute the same function;
    the converse does not hold.
    """
    edges = [Edge(edge.op, _without_identity(canonical(edge.child))) for edge in tree.edges]
    if tree.merge == "add":
        edges.sort(key=str)
    return Node(tuple(edges), tree.merge, tree.allocation)


def _without_identity(node: Node) -> Node:
    while len(node.edges) == 1 and node.edges[0].op == "identity":
        node = node.edges[0].child
    return node


def unfolded(tree: Node, start: Node) -> Node | None:
    """Returns a tree with the branches of its *add* nodes in the order that they have in another.

    Args:
        tree: that may have grown from `start`.
        start: canonical; what stands below its leaves is free.

    Returns:
        None if the tree has not grown from `start`.
    """
    if start.is_leaf:
        return tree
    if (tree.merge, tree.allocation, len(tree.edges)) != (
        start.merge,
        start.allocation,
        len(start.edges),
    ):
        return None
    orders = permutations(tree.edges) if tree.merge == "add" else [tree.edges]
    for edges in orders:
        found = []
        for edge, old in zip(edges, start.edges, strict=True):
            child = unfolded(edge.child, old.child) if edge.op == old.op else None
            if child is None:
                break
            found.append(Edge(edge.op, child))
        else:
            return Node(tuple(found), tree.merge, tree.allocation)
    return None


def key(tree: Node) -> str:
    """Returns the canonical tree's line: trees with equal keys are the same architecture."""
    return str(canonical(tree))


def indented(tree: Node, prefix: str = "") -> str:
    """Draws the tree over several lines, one edge a line."""
    lines = []
    for index, edge in enumerate(tree.edges):
        last = index == len(tree.edges) - 1
        kind = f"  [{edge.child.merge}]" if edge.child.merge else ""
        lines.append(f"{prefix}{'└─' if last else '├─'} {edge.op}{kind}")
        if edge.child.edges:
            lines.append(indented(edge.child, prefix + ("   " if last else "│  ")))
    if not prefix:
        root = "network" if tree.merge == "stages" else "cell"
        lines.insert(0, f"{root}  [{tree.merge}]" if tree.merge else root)
    return "\n".join(lines)


def to_dict(tree: Node) -> dict[str, Any]:
    """Returns the tree as nested dictionaries that JSON can hold; a leaf is empty."""
    if tree.is_leaf:
        return {}
    edges = []
    for edge in tree.edges:
        child = {} if edge.child.is_leaf else {"child": to_dict(edge.child)}
        edges.append({"op": edge.op, **child})
    kind = {"merge": tree.merge, "allocation": tree.allocation} if tree.merge else {}
    return {**kind, "edges": edges}


def from_dict(data: Any) -> Node:
    """Returns the tree that :func:`to_dict` wrote.

    Raises:
        ValueError: if the data is no tree, deeper than 64 or larger than 100,000 edges; the message
            names the place.
    """
    budget = iter(range(MAX_EDGES))
    return _node_from_dict(data, (), budget)


def _node_from_dict(data: Any, path: Path, budget: Iterator[int]) -> Node:
    if len(path) > MAX_DEPTH:
        raise ValueError(f"a tree is at most {MAX_DEPTH} edges deep, got more at {path[:4]}...")
    _expect(data, path, {"merge", "allocation", "edges"})
    edges = []
    items = data.get("edges", [])
    if not isinstance(items, list):
        raise ValueError(f"node {path}: edges must be a list, got {items!r:.60}")
    for index, item in enumerate(items):
        if next(budget, None) is None:
            raise ValueError(f"a tree has at most {MAX_EDGES} edges, got more")
        place = (*path, index)
        _expect(item, place, {"op", "child"})
        if not isinstance(item.get("op"), str):
            raise ValueError(f"edge {place}: op must be a name, got {item.get('op')!r:.60}")
        edges.append(Edge(item["op"], _node_from_dict(item.get("child", {}), place, budget)))
    try:
        return Node(tuple(edges), data.get("merge"), data.get("allocation"))
    except (ValueError, TypeError) as error:
        raise ValueError(f"node {path}: {error}") from None


def _expect(data: Any, path: Path, known: set[str]) -> None:
    if not isinstance(data, dict):
        raise ValueError(f"tree at {path}: expected a mapping, got {data!r:.60}")
    unknown = sorted(map(str, set(data) - known))
    if unknown:
        raise ValueError(f"tree at {path}: unknown keys {unknown}; known: {sorted(known)}")


def to_json(tree: Node) -> str:
    """Returns the tree as JSON text."""
    return json.dumps(to_dict(tree), indent=1)


def from_json(text: str) -> Node:
    """Returns the tree of a JSON text.

    Raises:
        ValueError: if the text is not JSON or not a tree.
    """
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError(f"a tree is at most {MAX_DEPTH} edges deep, got far more") from None
    return from_dict(data)


def to_networkx(tree: Node) -> nx.DiGraph:
    """Returns the tree as a directed graph.

    Nodes are paths, with attributes ``merge`` and ``allocation``; edges have ``op`` and
    ``position``, the index of the branch.
    """
    graph = nx.DiGraph()
    graph.add_node((), merge=tree.merge, allocation=tree.allocation)
    for path, edge in walk(tree):
        graph.add_node(path, merge=edge.child.merge, allocation=edge.child.allocation)
        graph.add_edge(path[:-1], path, op=edge.op, position=path[-1])
    return graph
