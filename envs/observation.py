"""What an agent sees of a state: arrays of integers, padded to the largest tree.

Row 0 stands for the root node. Every other row stands for an edge and the node at its end, parents
before children, first branch first. A tree of limits with at most `E` edges has `N = 1 + E` rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pathnas import decisions
from pathnas import tree as trees
from pathnas.actions import KINDS, MERGES, Actions
from pathnas.decisions import Limits, State
from pathnas.tree import BASE_OP, Node

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

_ROWS = "op", "node", "parent", "position"

Columns = tuple[list[int], list[int], list[int], list[int]]
"""The arrays of `_ROWS` as they grow."""

_NODE_TYPES = {
    ("add", "replicate"): ADD,
    ("concat", "split"): CONCAT_SPLIT,
    ("concat", "replicate"): CONCAT_REPLICATE,
    ("stages", None): STAGES,
}


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
    question, focus = _fill(arrays, state, _codes(limits.ops, limits.actions.stages))
    op, node, parent, position = arrays
    return {
        "op": op,
        "node": node,
        "parent": parent,
        "position": position,
        "question": np.int64(question),
        "focus": np.int64(focus),
        "action_mask": action_mask(state, limits),
    }


def encode_all(states: Sequence[State], limits: Limits) -> dict[str, NDArray[Any]]:
    """Returns the observations of states, stacked: `[B, ...]`."""
    arrays = np.zeros((4, len(states), 1 + limits.max_edges), dtype=np.int64)
    codes = _codes(limits.ops, limits.actions.stages)
    asked = [_fill(arrays[:, row], state, codes) for row, state in enumerate(states)]
    questions, focuses = zip(*asked, strict=True)
    return {
        **dict(zip(_ROWS, arrays, strict=True)),
        "question": np.array(questions, dtype=np.int64),
        "focus": np.array(focuses, dtype=np.int64),
        "action_mask": np.array([_mask(state, limits) for state in states], dtype=np.int8),
    }


@lru_cache(maxsize=100)
def _codes(names: tuple[str, ...], stages: int) -> dict[str, int]:
    if stages > 1:
        names += tuple(trees.stage_name(number) for number in range(stages))
    return {name: BASE + 1 + index for index, name in enumerate(names)} | {BASE_OP: BASE}


def _fill(arrays: NDArray[np.int64], state: State, codes: dict[str, int]) -> tuple[int, int]:
    """Writes the rows of a tree into zeros `[4, N]`; returns the question and its focus."""
    columns: Columns = [NO_OP], [_node_type(state.tree)], [0], [0]
    _append_below(columns, state.tree, 0, codes)
    arrays[:, : len(columns[0])] = columns
    kind, path = state.agenda[0] if state.agenda else ("done", ())
    return _QUESTION_CODES[kind], _row_at(state.tree, path)


def _append_below(columns: Columns, node: Node, row: int, codes: dict[str, int]) -> None:
    ops, nodes, parents, positions = columns
    for position, edge in enumerate(node.edges):
        child = edge.child
        ops.append(codes[edge.op])
        nodes.append(_node_type(child) if child.edges else LEAF)
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


def _node_type(node: Node) -> int:
    if node.merge is None:
        return SINGLE if node.edges else LEAF
    return _NODE_TYPES[node.merge, node.allocation]
