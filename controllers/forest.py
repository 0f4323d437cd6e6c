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

from pathnas.envs.observation import ADD, LEAF, NO_OP, QUESTIONS, SINGLE, STAGES

ZERO = 0
"""The state that is all zeros: below a leaf, in an absent position, above the root."""

UP, DOWN = range(2)
EDGE, ADD_NODE, CONCAT_NODE = range(3)

_MERGE = QUESTIONS.index("merge")


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
    """What a batch of observations adds to the states that are kept, and where its focuses are.

    Attributes:
        groups: the new states, which take the next places, group by group; each comes after its
            sources, which are places too.
        up: `[B]` the place of the bottom-up state of each observation's focus.
        down: `[B]` the place of its top-down state.
    """

    groups: list[Group]
    up: NDArray[np.int64]
    down: NDArray[np.int64]


class Forest:
    """Which states observations stand for; state 0 is :data:`ZERO`.

    What was seen once is known again, so a forest that lives through sampling and the update is
    asked for everything once. Neither the groups nor their order depend on what it knows.

    Args:
        adds: the most branches of a node that adds.
        concats: the most branches of a node that concatenates.
    """

    def __init__(self, adds: int, concats: int) -> None:
        self.positions = {ADD_NODE: adds, CONCAT_NODE: concats}
        self._edges: dict[tuple[int, int, int], int] = {}  # numbers of states, by their steps
        self._nodes: dict[tuple[int, ...], int] = {}
        self._states: list[_State] = [_State((UP, 0, EDGE), NO_OP, ())]
        self._seen: dict[tuple[int, int, bytes], tuple[int, int]] = {}

    def __reduce__(self) -> tuple[type[Forest], tuple[int, int]]:
        # What was seen stays behind: it may be large, and is soon seen again.
        return Forest, (self.positions[ADD_NODE], self.positions[CONCAT_NODE])

    def __len__(self) -> int:
        """Returns how many states and observations are known."""
        return len(self._states) + len(self._seen)

    def plant(self, observations: Mapping[str, Any], places: dict[int, int]) -> Planting:
        """Returns the states that stacked observations need.

        Args:
            observations: the arrays of :func:`pathnas.envs.observation.encode`, `[B, ...]`.
            places: where the caller keeps the states that it has, by their numbers here, from
                `{ZERO: 0}` on; the new ones are added.

        Raises:
            ValueError: if a node has too many branches.
        """
        found = self._find(observations)
        groups = self._groups([number for pair in found for number in pair], places)
        up, down = ([places[number] for number in half] for half in zip(*found, strict=True))
        return Planting(groups, np.array(up), np.array(down))

    def _find(self, observations: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Returns the numbers of each observation's states, bottom-up and top-down."""
        # Padding is left out: the largest tree of deep limits has many thousand rows.
        used = np.count_nonzero(observations["node"], axis=1)
        columns = [observations[name][:, : used.max()] for name in ("op", "node", "parent")]
        trees = np.stack(columns, axis=1).astype(np.int32)
        asked = (observations[name].tolist() for name in ("question", "focus"))
        found = []
        for question, focus, rows, tree in zip(*asked, used.tolist(), trees, strict=True):
            tree = tree[:, :rows]
            key = question, focus, tree.tobytes()
            pair = self._seen.get(key)
            if pair is None:
                pair = self._seen[key] = self._read(question, focus, *tree.tolist())
            found.append(pair)
        return found

    def _read(
        self, question: int, focus: int, op: list[int], node: list[int], parent: list[int]
    ) -> tuple[int, int]:
        path = _path(parent, focus)
        branches = self._branches(op, node, parent, path)
        up = self._node(UP, node[focus], branches[focus])
        if path and question != _MERGE:
            up = self._edge(UP, op[focus], up)
        down = ZERO
        for row in path:
            down = self._node(DOWN, node[parent[row]], branches[parent[row]], down)
            down = self._edge(DOWN, op[row], down)
        return up, down

    def _branches(
        self, op: list[int], node: list[int], parent: list[int], path: list[int]
    ) -> list[list[int]]:
        """Returns for each row the bottom-up states after its branches.

        On the path the slot of the child that leads to the focus is left zero.
        """
        branches: list[list[int]] = [[] for _ in op]
        for row in range(len(op) - 1, 0, -1):  # children come after their parents
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
            level = 1 + self._states[source].step[1]
            number = self._edges[step] = self._add((direction, level, EDGE), op, (source,))
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
            below = branches if direction == UP else [parent]
            level = max(self._states[source].step[1] for source in below)
            sources = *branches, *[ZERO] * absent, *[parent] * (direction == DOWN)
            number = self._nodes[step] = self._add((direction, level, place), kind, sources)
        return number

    def _add(self, step: tuple[int, int, int], code: int, sources: tuple[int, ...]) -> int:
        self._states.append(_State(step, code, sources))
        return len(self._states) - 1

    def _groups(self, wanted: list[int], places: dict[int, int]) -> list[Group]:
        """Returns the states that are wanted, and those they start from, but for those known.

        Sources come first: an edge is one level above its source and a node on the level of its
        highest one, so within a level the edges come first. All of bottom-up comes before top-down.
        """
        place = len(places)
        alike: dict[tuple[int, int, int], list[int]] = {}
        for number in wanted:  # which grows meanwhile
            if number not in places:
                places[number] = -1
                state = self._states[number]
                alike.setdefault(state.step, []).append(number)
                wanted += state.sources
        groups = []
        for step in sorted(alike):
            states = [self._states[number] for number in alike[step]]
            sources = np.array([[places[source] for source in s.sources] for s in states])
            for number in alike[step]:
                places[number] = place
                place += 1
            inputs = np.array([state.input for state in states])
            groups.append(Group(Kind(step[0], step[2]), inputs, sources))
        return groups


class _State(NamedTuple):
    """What is known of a state.

    Attributes:
        step: direction, level and place.
        input: the op of an edge, or the type of a node.
        sources: numbers of the states that it starts from, as in :class:`Group`.
    """

    step: tuple[int, int, int]
    input: int
    sources: tuple[int, ...]


def _path(parent: list[int], row: int) -> list[int]:
    """Returns the rows from the root to a row, without the root, which is row 0."""
    path = []
    while row:
        path.append(row)
        row = parent[row]
    return path[::-1]
