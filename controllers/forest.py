"""Which states a tree-LSTM must compute for a batch of observations, each of them once.

Pure structure, no weights. A *state* is what one step of the tree-LSTM yields; it is known by its
step and by the states it starts from, so equal subtrees of a batch, wherever they stand, are one
state. States of one kind and level are a :class:`Group`, which is computed in one matrix product.
Only what the question needs is listed: what stands at the focus and beside the path from the root
to it (bottom-up), and that path (top-down).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathnas.envs.observation import ADD, LEAF, QUESTIONS, SINGLE

ZERO = 0
"""The state that is all zeros: below a leaf, in an absent position, above the root."""

UP, DOWN = range(2)
EDGE, ADD_NODE, CONCAT_NODE = range(3)


class Kind(NamedTuple):
    """A kind of step, with weights of its own: the direction and the place."""

    direction: int
    place: int


@dataclass(frozen=True)
class Group:
    """States that one matrix product yields.

    Attributes:
        kind: of the step.
        inputs: `[M]` the op of an edge, or the type of a node.
        sources: `[M, S]` the states from which the step starts; S is 1 for an edge, the number
            of positions for a node, and one more (the parent's state, last) for a node top-down.
    """

    kind: Kind
    inputs: NDArray[np.int64]
    sources: NDArray[np.int64]


@dataclass(frozen=True)
class Forest:
    """The states of a batch, in an order in which each comes after its sources.

    Attributes:
        groups: the states after :data:`ZERO`, numbered group by group.
        up: `[B]` the bottom-up state of each observation's focus.
        down: `[B]` its top-down state.
    """

    groups: list[Group]
    up: NDArray[np.int64]
    down: NDArray[np.int64]


def plant(observations: Mapping[str, Any], positions: int) -> Forest:
    """Returns the forest of stacked observations.

    Args:
        observations: the arrays of :func:`pathnas.envs.observation.encode`, stacked `[B, ...]`.
        positions: the most branches of a node.

    Raises:
        ValueError: if a node has more branches.
    """
    widest = int(observations["position"].max(initial=0)) + 1
    if widest > positions:
        raise ValueError(f"a node has at most {positions} branches, got {widest}")
    seeds = _Seeds(positions)
    merge = QUESTIONS.index("merge")
    lengths = np.count_nonzero(observations["node"], axis=1).tolist()
    columns = [observations[name] for name in ("op", "node", "parent", "position")]
    questions, focuses = observations["question"].tolist(), observations["focus"].tolist()
    up, down = [], []
    for index, (rows, question, focus) in enumerate(zip(lengths, questions, focuses, strict=True)):
        op, node, parent, position = (column[index, :rows].tolist() for column in columns)
        path = _path(parent, focus)
        below, branches = seeds.bottom_up(op, node, parent, position, path)
        up.append(below if question == merge or focus == 0 else seeds.edge(UP, op[focus], below))
        down.append(seeds.top_down(op, node, parent, path, branches))
    return seeds.forest(up, down)


def _path(parent: list[int], row: int) -> list[int]:
    """Returns the rows from the root to a row, without the root, which is row 0."""
    path = []
    while row:
        path.append(row)
        row = parent[row]
    return path[::-1]


class _Seeds:
    """The states found so far, numbered as they are found."""

    def __init__(self, positions: int) -> None:
        self.positions = positions
        self.numbers: dict[tuple[int, ...], int] = {}
        self.levels = [0]
        self.groups: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}

    def bottom_up(
        self,
        op: list[int],
        node: list[int],
        parent: list[int],
        position: list[int],
        path: list[int],
    ) -> tuple[int, list[list[int]]]:
        """Returns the state of the node at the path's end, and those after each row's branches.

        On the path to the focus the child's own slot is left zero.
        """
        branches = [[ZERO] * self.positions for _ in node]
        on_path = {0, *path}
        focus = path[-1] if path else 0
        for row in range(len(node) - 1, 0, -1):  # children come after their parents
            if row not in on_path:
                below = self.node(UP, node[row], branches[row])
                branches[parent[row]][position[row]] = self.edge(UP, op[row], below)
        return self.node(UP, node[focus], branches[focus]), branches

    def top_down(
        self,
        op: list[int],
        node: list[int],
        parent: list[int],
        path: list[int],
        branches: list[list[int]],
    ) -> int:
        """Returns the top-down state at the path's end."""
        state = ZERO
        for row in path:
            above = parent[row]
            if node[above] != SINGLE:
                state = self.node(DOWN, node[above], [*branches[above], state])
            state = self.edge(DOWN, op[row], state)
        return state

    def edge(self, direction: int, op: int, source: int) -> int:
        """Returns the state after an edge."""
        return self._number(direction, EDGE, 1 + self.levels[source], op, (source,))

    def node(self, direction: int, kind: int, sources: list[int]) -> int:
        """Returns the state at a node; one with a single branch hands its child's on."""
        if kind == LEAF:
            return ZERO
        if kind == SINGLE:
            return sources[0]
        if direction == UP:
            level = max([self.levels[source] for source in sources])
        else:
            level = self.levels[sources[-1]]
        place = ADD_NODE if kind == ADD else CONCAT_NODE
        return self._number(direction, place, level, kind, tuple(sources))

    def _number(
        self, direction: int, place: int, level: int, code: int, sources: tuple[int, ...]
    ) -> int:
        key = (direction, place, code, *sources)
        number = self.numbers.get(key)
        if number is None:
            number = self.numbers[key] = len(self.levels)
            self.levels.append(level)
            entry = (number, code, *sources)
            self.groups.setdefault((direction, level, place), []).append(entry)
        return number

    def forest(self, up: list[int], down: list[int]) -> Forest:
        """Returns what was found, renumbered group by group."""
        place_of = np.zeros(len(self.levels), dtype=np.int64)
        groups, start = [], 1
        # An edge is one level above its source and a node on the level of its highest one, so
        # within a level the edges come first. All of bottom-up comes before top-down.
        for direction, level, place in sorted(self.groups):
            entries = np.array(self.groups[direction, level, place], dtype=np.int64)
            place_of[entries[:, 0]] = np.arange(start, start + len(entries))
            start += len(entries)
            groups.append(
                Group(Kind(direction, place), entries[:, 1].copy(), place_of[entries[:, 2:]])
            )
        return Forest(groups, place_of[up], place_of[down])
