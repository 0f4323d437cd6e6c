"""Which states a tree-LSTM must compute for a batch of observations, each of them once.

Pure structure, no weights. A *state* is what one step of the tree-LSTM yields; it is known by its
step and by the states it starts from, so equal subtrees of a batch, wherever they stand, are one
state. States of one kind and level are a :class:`Group`, which is computed in one matrix product.
Only what the questions need is listed: what stands at the focus and beside the path from the root
to it (bottom-up), and that path (top-down).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathnas.envs.observation import ADD, LEAF, QUESTIONS, SINGLE, STAGES

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
    """States that are computed together.

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
class Planting:
    """What a batch of observations adds to a forest, and where its focuses are.

    Attributes:
        groups: the new states, numbered on group by group; each comes after its sources.
        up: `[B]` the bottom-up state of each observation's focus.
        down: `[B]` its top-down state.
    """

    groups: list[Group]
    up: NDArray[np.int64]
    down: NDArray[np.int64]


class Forest:
    """The states found so far; state 0 is :data:`ZERO`.

    Args:
        adds: the most branches of a node that adds.
        concats: the most branches of a node that concatenates.
    """

    def __init__(self, adds: int, concats: int) -> None:
        self.positions = {ADD_NODE: adds, CONCAT_NODE: concats}
        # Of each state that was found, by its step: its number, in the order of discovery.
        self._edges: dict[tuple[int, int, int], int] = {}
        self._nodes: dict[tuple[int, ...], int] = {}
        self._levels = [0]
        self._places = [0]  # of each number: the state's place in the order of the groups
        self._planted = 1
        self._new: dict[tuple[int, int, int], list[tuple[int, ...]]] = {}

    def plant(self, observations: Mapping[str, Any]) -> Planting:
        """Adds the states that stacked observations need.

        Args:
            observations: the arrays of :func:`pathnas.envs.observation.encode`, `[B, ...]`.

        Raises:
            ValueError: if a node has too many branches.
        """
        merge = QUESTIONS.index("merge")
        lengths = np.count_nonzero(observations["node"], axis=1)
        names = "op", "node", "parent"
        columns = [observations[name][:, : lengths.max()].tolist() for name in names]
        asked = [observations[name].tolist() for name in ("question", "focus")]
        up, down = [], []
        for rows, question, focus, op, node, parent in zip(
            lengths.tolist(), *asked, *columns, strict=True
        ):
            path = _path(parent, focus)
            branches = self._branches(op, node, parent, path, rows)
            below = self._node(UP, node[focus], branches[focus])
            is_node = question == merge or not path
            up.append(below if is_node else self._edge(UP, op[focus], below))
            state = ZERO
            for row in path:
                state = self._node(DOWN, node[parent[row]], branches[parent[row]], state)
                state = self._edge(DOWN, op[row], state)
            down.append(state)
        groups = self._number_on()
        places = (np.array([self._places[state] for state in half]) for half in (up, down))
        return Planting(groups, *places)

    def _branches(
        self, op: list[int], node: list[int], parent: list[int], path: list[int], rows: int
    ) -> list[list[int]]:
        """Returns for each row the bottom-up states after its branches.

        On the path the slot of the child that leads to the focus is left zero.
        """
        branches: list[list[int]] = [[] for _ in range(rows)]
        for row in range(rows - 1, 0, -1):  # children come after their parents
            state = ZERO
            if row not in path:
                below = branches[row]
                state = self._edge(UP, op[row], self._node(UP, node[row], below) if below else ZERO)
            branches[parent[row]].insert(0, state)
        return branches

    def _edge(self, direction: int, op: int, source: int) -> int:
        step = direction, op, source
        number = self._edges.get(step)
        if number is None:
            level = 1 + self._levels[source]
            number = self._edges[step] = self._found(direction, level, EDGE, op, source)
        return number

    def _node(self, direction: int, kind: int, branches: list[int], parent: int = ZERO) -> int:
        if kind == LEAF:
            return ZERO
        if kind == SINGLE:
            return branches[0] if direction == UP else parent
        step = direction, kind, parent, *branches
        number = self._nodes.get(step)
        if number is None:
            place = ADD_NODE if kind in (ADD, STAGES) else CONCAT_NODE
            absent = self.positions[place] - len(branches)
            if absent < 0:
                raise ValueError(
                    f"expected at most {self.positions} branches of a node, got {len(branches)}"
                )
            sources = [*branches, *[ZERO] * absent, *[parent] * (direction == DOWN)]
            level = max(self._levels[s] for s in (branches if direction == UP else [parent]))
            number = self._nodes[step] = self._found(direction, level, place, kind, *sources)
        return number

    def _found(self, direction: int, level: int, place: int, code: int, *sources: int) -> int:
        """Notes a new state, and returns its number."""
        number = len(self._levels)
        self._levels.append(level)
        self._places.append(0)
        self._new.setdefault((direction, level, place), []).append((number, code, *sources))
        return number

    def _number_on(self) -> list[Group]:
        """Returns the new states in groups, sources first.

        An edge is one level above its source and a node on the level of its highest one, so within
        a level the edges come first. All of bottom-up comes before top-down.
        """
        groups = []
        places = self._places
        for direction, level, place in sorted(self._new):
            entries = self._new[direction, level, place]
            sources = [[places[source] for source in entry[2:]] for entry in entries]
            for number, *_ in entries:
                places[number] = self._planted
                self._planted += 1
            inputs = np.array([entry[1] for entry in entries])
            groups.append(Group(Kind(direction, place), inputs, np.array(sources)))
        self._new.clear()
        return groups


def _path(parent: list[int], row: int) -> list[int]:
    """Returns the rows from the root to a row, without the root, which is row 0."""
    path = []
    while row:
        path.append(row)
        row = parent[row]
    return path[::-1]
