"""The decision process: how a tree grows by one decision after another (paper, section 3.3).

A pure value. A :class:`State` holds the tree so far and the questions that wait; answering the
first one gives the next state. The search drives it directly, ``PathLevelEnv`` wraps it.

- *merge*, at a node with one leaf edge: keep it, or branch it (add 2, add 3, concat 2). Then each
  new branch that is an undecided identity is asked for its op, and each branch above the depth
  limit whether to insert.
- *op*, at an undecided identity: one of the searched operations.
- *insert*, at a leaf edge: stop, or insert a node, which is asked for its merge.

First branch first, depth first. The copies of the base convolution keep their op. The last branch
of the root must insert if no other did; what is inserted may still be nothing but identities.

Where each stage of the network has a tree of its own, the stages are decided one after another, the
first one first, each by these rules; paths begin with the number of the stage.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple

from pathnas import cell, ops
from pathnas import tree as trees
from pathnas.actions import Kind
from pathnas.cell import Cost
from pathnas.limits import Limits, open_leaves, remember
from pathnas.transforms import Replace, Transform
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Node, Path

_MEMORY_OF_STEPS = 20_000
"""Steps that are followed before episodes begin with a state that knows none; some 30 MB."""


class Question(NamedTuple):
    """What is asked, and where: the path of a node (merge) or of an edge (insert, op)."""

    kind: Kind
    path: Path


@dataclass(frozen=True)
class State:
    """The tree so far, and the questions that wait, the next one first."""

    tree: Node = BASE_TREE
    agenda: tuple[Question, ...] = (Question("merge", ()),)

    @property
    def done(self) -> bool:
        """Whether no question is left."""
        return not self.agenda

    def __hash__(self) -> int:
        return self.__dict__.get("_hash") or trees.hash_once(self, self.tree, self.agenda)

    def __reduce__(self) -> tuple[type[State], tuple[Any, ...]]:
        # What was found out about it stays behind, and the limits with it.
        return State, (self.tree, self.agenda)


class _Memory:
    """What was found out about episodes under some limits; it is kept with them.

    Attributes:
        beginning: of all episodes; each state knows those that were followed from it.
        steps: that are known so.
        changes: of what may be answered, by what matters of its place.
        insert_masks: where one may stop or insert, and where one must insert; neither costs.
    """

    def __init__(self, limits: Limits) -> None:
        self.beginning = _beginning(limits)
        self.steps = 0
        self.changes: dict[Hashable, _Changes] = {}
        names = limits.actions.names
        free = tuple(name in ("stop", "insert") for name in names)
        self.insert_masks = free, tuple(name == "insert" for name in names)


def _memory(limits: Limits) -> _Memory:
    found: _Memory | None = limits.__dict__.get("_memory")
    if found is None:
        found = _Memory(limits)
        object.__setattr__(limits, "_memory", found)
    return found


class _Known(NamedTuple):
    """What was found out about a state under some limits; it is kept with the state.

    Attributes:
        limits: under which it holds.
        mask: of the actions.
        following: by action, the state that :func:`follow` was led to.
    """

    limits: Limits
    mask: tuple[bool, ...]
    following: dict[int, State]


def _known(state: State, limits: Limits) -> _Known:
    known: _Known | None = state.__dict__.get("_known")
    if known is None or known.limits is not limits:
        known = _Known(limits, _mask(state, limits), {})
        object.__setattr__(state, "_known", known)
    return known


def begin(limits: Limits) -> State:
    """Returns the state that episodes begin with.

    At the base tree the first question is how its branch is merged. A tree that has grown is asked,
    for each of its leaf edges above the depth limit, whether to insert; the last must if no other
    did.
    """
    memory = _memory(limits)
    if memory.steps > _MEMORY_OF_STEPS:
        memory.beginning, memory.steps = _beginning(limits), 0
    return memory.beginning


def _beginning(limits: Limits) -> State:
    if limits.stages:
        agenda = [
            Question(kind, (number, *path))
            for number, stage in enumerate(limits.stages)
            for kind, path in begin(stage).agenda
        ]
        return State(limits.start, tuple(agenda))
    if limits.start == BASE_TREE:
        return State()
    leaves = open_leaves(limits.start, limits.depth)
    return State(limits.start, tuple(Question("insert", path) for path in leaves))


def mask(state: State, limits: Limits) -> tuple[bool, ...]:
    """Returns for each action whether it may be taken; all False when the episode is done.

    While a question waits, at least one action may be taken: an action is offered only if the
    limits hold with everything undecided left as an identity.
    """
    return _known(state, limits).mask


def _mask(state: State, limits: Limits) -> tuple[bool, ...]:
    if state.done:
        return (False,) * len(limits.actions)
    stage = _stage(state, limits)
    question = stage.agenda[0]
    if question.kind == "insert":
        return _memory(limits).insert_masks[_must_insert(stage)]
    changes = _changes(stage.tree, question, stage.limits)
    if not limits.limited:
        return changes.held
    parameters, macs, latency = limits.left(state.tree)
    return tuple(
        change is not None
        and change.macs <= macs
        and change.parameters <= parameters
        and change.latency <= latency
        for change in changes.costs
    )


class _Stage(NamedTuple):
    """What the next question is about, as if its stage were the whole network.

    Attributes:
        tree: of the stage.
        agenda: its questions.
        limits: on its tree, its cost aside.
        path: of the stage's tree in the network's; empty where all cells hold one tree.
    """

    tree: Node
    agenda: tuple[Question, ...]
    limits: Limits
    path: Path


def _stage(state: State, limits: Limits) -> _Stage:
    if not limits.stages:
        return _Stage(state.tree, state.agenda, limits, ())
    path = state.agenda[0].path[:1]
    agenda = tuple(Question(k, place[1:]) for k, place in state.agenda if place[:1] == path)
    return _Stage(trees.node_at(state.tree, path), agenda, limits.stages[path[0]], path)


class _Changes(NamedTuple):
    """What the actions add to the costs.

    Attributes:
        costs: of each action; None where it does not answer the question or a cell cannot hold it.
        held: which are not None.
    """

    costs: tuple[Cost | None, ...]
    held: tuple[bool, ...]


def _changes(tree: Node, question: Question, limits: Limits) -> _Changes:
    """Returns what each answer to a question of a merge or an op adds to the costs.

    Both depend on the widths at the question's place alone, and so on the concats above it and on
    what stands there; few such places exist, so what was found out for one is kept.
    """
    above, node = [], tree
    for index in question.path:
        if node.merge == "concat":
            above.append((node.allocation, tuple(map(_sharing, node.edges)), index))
        node = node.edges[index].child
    place = question.kind, tuple(above), tuple([edge.op for edge in node.edges])
    known = _memory(limits).changes
    found = known.get(place)
    if found is None:
        answers = limits.actions.of[question.kind]
        costs = tuple(
            _change(tree, action, question.path, limits) if action in answers else None
            for action in range(len(limits.actions))
        )
        found = _Changes(costs, tuple(cost is not None for cost in costs))
        remember(known, place, found)
    return found


def _sharing(edge: Edge) -> str | bool:
    """What matters of an edge for how the channels of its concat are shared out."""
    return edge.op if edge.op == BASE_OP else ops.get(edge.op).grouped


def _change(tree: Node, action: int, path: Path, limits: Limits) -> Cost | None:
    transform = limits.actions.transform(action, path)
    if transform is None:
        return Cost(0, 0)
    grown = transform(tree)
    if not limits.holds(grown):
        return None
    if isinstance(transform, Replace) and not all(
        cell.same_borders(tree, grown, path[:-1], spec) for spec in limits.positions
    ):
        return None
    after, before = limits.costs(grown), limits.costs(tree)
    return Cost(
        parameters=after.parameters - before.parameters,
        macs=after.macs - before.macs,
        latency=after.latency - before.latency,
    )


def _must_insert(stage: _Stage) -> bool:
    tree, start = stage.tree, stage.limits.start
    if start != BASE_TREE:
        return len(stage.agenda) == 1 and tree == start
    return stage.agenda[0].path == (len(tree.edges) - 1,) and trees.depth(tree) == 1


def step(state: State, action: int, limits: Limits) -> State:
    """Answers the first question.

    Raises:
        ValueError: if the episode is done, or the action does not answer the question or exceeds
            the limits.
    """
    if state.done:
        raise ValueError("expected an episode that is not done, got another action")
    asked, *rest = state.agenda
    if action not in limits.actions.of[asked.kind] or not mask(state, limits)[action]:
        raise ValueError(f"the mask forbids action {action} at {asked} of {state.tree}")
    stage = _stage(state, limits)
    question = stage.agenda[0]
    transform = limits.actions.transform(action, question.path)
    tree = stage.tree if transform is None else transform(stage.tree)
    follow_up = _follow_up(tree, question, transform, limits)
    if stage.path:
        follow_up = [Question(kind, stage.path + path) for kind, path in follow_up]
    return State(trees.with_node(state.tree, stage.path, tree), (*follow_up, *rest))


def follow(state: State, action: int, limits: Limits) -> State:
    """Returns what :func:`step` does, the same object for the same state again.

    For who goes the same ways many times: what is remembered takes memory until there is so much of
    it that :func:`begin` begins anew.

    Raises:
        ValueError: see :func:`step`.
    """
    known = _known(state, limits)
    found = known.following.get(action)
    if found is None:
        found = known.following[action] = step(state, action, limits)
        _memory(limits).steps += 1
    return found


def _follow_up(
    tree: Node, question: Question, transform: Transform | None, limits: Limits
) -> list[Question]:
    path = question.path
    if question.kind == "op" or (question.kind == "insert" and transform is None):
        return []
    if question.kind == "insert":
        return [Question("merge", path)]
    branches = [(*path, index) for index in range(len(trees.node_at(tree, path).edges))]
    asked = [Question("op", branch) for branch in branches] if path else []
    if len(path) + 1 < limits.depth:
        asked += [Question("insert", branch) for branch in branches]
    return asked
