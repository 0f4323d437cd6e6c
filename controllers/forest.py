"""Which states a tree-LSTM must compute for a batch of observations, each of them once.

Pure structure, no weights. A *state* here is what one step of the tree-LSTM yields; it is known by
its step and by the states it starts from, so equal subtrees of a batch, wherever they stand, are
one state. States of one kind and level are a :class:`Group`, which is computed in one matrix
product.
Only what the questions need is listed: what stands at the focus and beside the path from the root
to it (bottom-up), and that path (top-down).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pathnas import decisions
from pathnas.actions import Actions
from pathnas.envs.observation import NO_OP, node_type, op_codes
from pathnas.tree import Edge, Node

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
    """Which states what is observed stands for; state 0 is :data:`ZERO`.

    What was seen once is known again, so a forest that lives through sampling and the update is
    asked for everything once. Neither the groups nor their order depend on what it knows.

    Args:
        actions: the flat table of actions.
        adds: the most branches of a node that adds, or stages.
        concats: the most branches of a node that concatenates.
    """

    def __init__(self, actions: Actions, adds: int, concats: int) -> None:
        self.positions = {ADD_NODE: adds, CONCAT_NODE: concats}
        self._actions = actions
        self._ops = op_codes(actions)
        self._edges: dict[tuple[int, int, int], int] = {}  # numbers of states, by their steps
        self._nodes: dict[tuple[int, ...], int] = {}
        self._states: list[_State] = [_State((UP, 0, EDGE), NO_OP, ())]
        self._after: dict[Edge, int] = {}  # bottom-up states after edges
        self._seen: dict[decisions.State, tuple[int, int]] = {}

    def __reduce__(self) -> tuple[type[Forest], tuple[Actions, int, int]]:
        # What was seen stays behind: it may be large, and is soon seen again.
        return Forest, (self._actions, self.positions[ADD_NODE], self.positions[CONCAT_NODE])

    def __len__(self) -> int:
        """Returns how much is known."""
        return len(self._states) + len(self._after) + len(self._seen)

    def plant(self, observed: Sequence[decisions.State], places: dict[int, int]) -> Planting:
        """Returns the states that trees and the questions about them need.

        Args:
            observed: `B` states of the decision process.
            places: where the caller keeps the states that it has, by their numbers here, from
                `{ZERO: 0}` on; the new ones are added.

        Raises:
            ValueError: if a node has too many branches.
        """
        found = [self._seen.get(one) or self._read(one) for one in observed]
        groups = self._groups([number for pair in found for number in pair], places)
        up, down = ([places[number] for number in half] for half in zip(*found, strict=True))
        return Planting(groups, np.array(up), np.array(down))

    def _read(self, observed: decisions.State) -> tuple[int, int]:
        """Returns the numbers of the states of what is asked about, bottom-up and top-down."""
        kind, path = observed.agenda[0] if observed.agenda else ("done", ())
        node, down, op = observed.tree, ZERO, NO_OP
        for index in path:
            # The slot of the child that leads to what is asked about is left zero.
            branches = [
                ZERO if place == index else self._up(edge) for place, edge in enumerate(node.edges)
            ]
            op = self._ops[node.edges[index].op]
            down = self._edge(DOWN, op, self._node(DOWN, node, branches, down))
            node = node.edges[index].child
        up = self._below(node)
        if path and kind != "merge":
            up = self._edge(UP, op, up)
        self._seen[observed] = up, down
        return up, down

    def _up(self, edge: Edge) -> int:
        """Returns the bottom-up state after an edge."""
        number = self._after.get(edge)
        if number is None:
            number = self._after[edge] = self._edge(UP, self._ops[edge.op], self._below(edge.child))
        return number

    def _below(self, node: Node) -> int:
        """Returns the bottom-up state of a node, before the edge above it."""
        if node.is_leaf:
            return ZERO
        return self._node(UP, node, [self._up(edge) for edge in node.edges])

    def _edge(self, direction: int, op: int, source: int) -> int:
        step = direction, op, source
        number = self._edges.get(step)
        if number is None:
            level = 1 + self._states[source].step[1]
            number = self._edges[step] = self._add((direction, level, EDGE), op, (source,))
        return number

    def _node(self, direction: int, node: Node, branches: list[int], parent: int = ZERO) -> int:
        if node.merge is None:
            return branches[0] if direction == UP else parent
        kind = node_type(node)
        step = direction, kind, parent, *branches
        number = self._nodes.get(step)
        if number is None:
            place = CONCAT_NODE if node.merge == "concat" else ADD_NODE
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
