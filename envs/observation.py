"""What an agent sees of a state: arrays of integers, padded to the largest tree.

Row 0 stands for the root node. Every other row stands for an edge and the node at its end, parents
before children, first branch first. A tree of limits with at most `E` edges has `N = 1 + E` rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pathnas import decisions
from pathnas import tree as trees
from pathnas.actions import KINDS, MERGES, Actions
from pathnas.decisions import Limits, Question, State
from pathnas.tree import BASE_OP, Edge, Node

Observation = dict[str, Any]

PADDING, LEAF, SINGLE, ADD, CONCAT_SPLIT, CONCAT_REPLICATE, STAGES = range(7)
"""Values of the array ``node``: what becomes of the branches below a row.

The last is the root's where each stage of the network has a tree of its own.
"""

NO_OP, BASE = range(2)
"""Values of the array ``op`` below 2: padding and the root have none; then the searched ops, then
the stages, where there are several."""

QUESTIONS = (*KINDS, "done")
"""Values of ``question``."""

_QUESTION_CODES = {kind: code for code, kind in enumerate(QUESTIONS)}
_KINDS = dict(enumerate(KINDS))

_ROWS = "op", "node", "parent", "position"

Columns = tuple[list[int], list[int], list[int], list[int]]
"""The arrays of `_ROWS` as they grow."""

_MERGES: dict[int, tuple[trees.Merge, trees.Allocation | None]] = {
    ADD: ("add", "replicate"),
    CONCAT_SPLIT: ("concat", "split"),
    CONCAT_REPLICATE: ("concat", "replicate"),
    STAGES: ("stages", None),
}
_NODE_TYPES = {kind: code for code, kind in _MERGES.items()}


def sizes(actions: Actions) -> tuple[int, int, int]:
    """Returns how many values ``op`` and ``node`` take, and the branches of any node at most."""
    stages = actions.stages if actions.stages > 1 else 0
    branches = max(n for _, n in MERGES)
    ops = BASE + 1 + len(actions.ops) + stages
    return ops, STAGES + 1 if stages else STAGES, max(branches, stages)


def space(limits: Limits) -> gymnasium.spaces.Dict:
    """Returns the space of observations under some limits."""
    rows = 1 + limits.max_edges
    ops, nodes, branches = sizes(limits.actions)
    return gymnasium.spaces.Dict(
        {
            "op": gymnasium.spaces.MultiDiscrete([ops] * rows),
            "node": gymnasium.spaces.MultiDiscrete([nodes] * rows),
            "parent": gymnasium.spaces.MultiDiscrete([rows] * rows),
            "position": gymnasium.spaces.MultiDiscrete([branches] * rows),
            "question": gymnasium.spaces.Discrete(len(QUESTIONS)),
            "focus": gymnasium.spaces.Discrete(rows),
            "action_mask": gymnasium.spaces.MultiBinary(len(limits.actions)),
        }
    )


def encode(state: State, limits: Limits) -> Observation:
    """Returns the observation of a state.

    Returns:
        op: `[N]` the operation of the row's edge; 0 for the root and for padding.
        node: `[N]` the type of the row's node.
        parent: `[N]` the row of the node from which the row's edge comes; 0 for the root.
        position: `[N]` the edge's index among its parent's branches.
        question: what is asked.
        focus: the row of the node (merge) or edge (insert, op) that the question is about.
        action_mask: `[A]` int8, 1 where an action is allowed. When the episode is done no action
            is left to choose, and the mask is all ones so that no distribution over it is empty.
    """
    arrays = np.zeros((4, 1 + limits.max_edges), dtype=np.int64)
    _fill(arrays, state.tree, op_codes(limits.actions))
    op, node, parent, position = arrays
    return {
        "op": op,
        "node": node,
        "parent": parent,
        "position": position,
        "question": np.int64(_question(state)),
        "focus": np.int64(_focus(state)),
        "action_mask": action_mask(state, limits),
    }


class Observed(Mapping[str, NDArray[Any]]):
    """The observations of states, stacked: `[B, ...]`; see :func:`encode`.

    An array is written when it is asked for: who reads trees takes them from the states, and
    needs but few.

    Args:
        states: that are seen, at least one.
        limits: under which they stand.
    """

    def __init__(self, states: Sequence[State], limits: Limits) -> None:
        self.states = states
        self.limits = limits
        self._arrays: dict[str, NDArray[Any]] = {}

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            self._write(name)
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter((*_ROWS, "question", "focus", "action_mask"))

    def __len__(self) -> int:
        return len(_ROWS) + 3

    def _write(self, name: str) -> None:
        if name in _ROWS:
            arrays = np.zeros((4, len(self.states), 1 + self.limits.max_edges), dtype=np.int64)
            codes = op_codes(self.limits.actions)
            for row, state in enumerate(self.states):
                _fill(arrays[:, row], state.tree, codes)
            self._arrays.update(zip(_ROWS, arrays, strict=True))
        elif name == "action_mask":
            masks = bytearray().join(bytes(_mask(state, self.limits)) for state in self.states)
            self._arrays[name] = np.frombuffer(masks, np.int8).reshape(len(self.states), -1)
        elif name in ("question", "focus"):
            of = _question if name == "question" else _focus
            self._arrays[name] = np.array([of(state) for state in self.states], dtype=np.int64)
        else:
            raise KeyError(name)


def decode(observations: Mapping[str, Any], actions: Actions) -> Sequence[State]:
    """Returns the states that stacked observations show, with the next question alone.

    Args:
        observations: `[B, ...]` as :func:`encode` writes them; only the tree and the question are
            looked at.
        actions: the flat table of actions.

    Raises:
        ValueError: if the arrays show no tree.
    """
    if isinstance(observations, Observed):
        return observations.states
    names = {code: name for name, code in op_codes(actions).items()}
    arrays = (np.asarray(observations[name]).tolist() for name in (*_ROWS, "question", "focus"))
    return [
        _decoded(columns, question, focus, names)
        for *columns, question, focus in zip(*arrays, strict=True)
    ]


def _decoded(columns: list[list[int]], question: int, focus: int, names: dict[int, str]) -> State:
    op, node, parent, position = columns
    rows = len(node) - node.count(PADDING)
    below: list[list[Edge]] = [[] for _ in range(rows)]
    try:
        for row in range(rows - 1, 0, -1):
            if not 0 <= parent[row] < row:
                raise ValueError(f"row {row} must come after its parent, got {parent[row]}")
            below[parent[row]].insert(0, Edge(names[op[row]], _node(node[row], below[row])))
        tree = _node(node[0], below[0])
        kind = _KINDS.get(question)
        if question not in _QUESTION_CODES.values():
            raise ValueError(f"question must be one of {_QUESTION_CODES}, got {question}")
        if not 0 <= focus < rows:
            raise ValueError(f"the focus must be one of {rows} rows, got {focus}")
        path: list[int] = []
        while focus:
            path.insert(0, position[focus])
            focus = parent[focus]
    except (KeyError, IndexError, ValueError) as error:
        raise ValueError(f"the observation {op=}, {node=} shows no tree: {error!r}") from None
    return State(tree, () if kind is None else (Question(kind, tuple(path)),))


def _node(kind: int, edges: list[Edge]) -> Node:
    node = Node(tuple(edges), *_MERGES.get(kind, (None, None)))
    if node_type(node) != kind:
        raise ValueError(f"a node of {len(edges)} branches has another type than {kind}")
    return node


def op_codes(actions: Actions) -> dict[str, int]:
    """Returns the values of the array ``op`` by the names of operations and stages."""
    return _op_codes(actions.ops, actions.stages)


@lru_cache(maxsize=100)
def _op_codes(names: tuple[str, ...], stages: int) -> dict[str, int]:
    if stages > 1:
        names += tuple(trees.stage_name(number) for number in range(stages))
    return {name: BASE + 1 + index for index, name in enumerate(names)} | {BASE_OP: BASE}


def _fill(arrays: NDArray[np.int64], tree: Node, codes: dict[str, int]) -> None:
    """Writes the rows of a tree into zeros `[4, N]`."""
    columns: Columns = [NO_OP], [node_type(tree)], [0], [0]
    _append_below(columns, tree, 0, codes)
    arrays[:, : len(columns[0])] = columns


def _question(state: State) -> int:
    return _QUESTION_CODES[state.agenda[0].kind if state.agenda else "done"]


def _focus(state: State) -> int:
    return _row_at(state.tree, state.agenda[0].path) if state.agenda else 0


def _append_below(columns: Columns, node: Node, row: int, codes: dict[str, int]) -> None:
    ops, nodes, parents, positions = columns
    for position, edge in enumerate(node.edges):
        child = edge.child
        ops.append(codes[edge.op])
        nodes.append(node_type(child) if child.edges else LEAF)
        parents.append(row)
        positions.append(position)
        if child.edges:
            _append_below(columns, child, len(ops) - 1, codes)


def _row_at(tree: Node, path: trees.Path) -> int:
    row, node = 0, tree
    for index in path:
        row += 1
        for edge in node.edges[:index]:
            row += 1 + _edges_below(edge.child)
        node = node.edges[index].child
    return row


def _edges_below(node: Node) -> int:
    total = len(node.edges)
    for edge in node.edges:
        if edge.child.edges:
            total += _edges_below(edge.child)
    return total


def action_mask(state: State, limits: Limits) -> NDArray[np.int8]:
    """Returns the mask of :func:`encode` alone, `[A]` int8."""
    return np.frombuffer(bytearray(_mask(state, limits)), dtype=np.int8)


def _mask(state: State, limits: Limits) -> tuple[bool, ...]:
    return (True,) * len(limits.actions) if state.done else decisions.mask(state, limits)


def node_type(node: Node) -> int:
    """Returns the value of the array ``node`` for a node."""
    if node.merge is None:
        return SINGLE if node.edges else LEAF
    return _NODE_TYPES[node.merge, node.allocation]
