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

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from pathnas import cell, ops
from pathnas import tree as trees
from pathnas.actions import MERGES, SEARCHED_OPS, Actions, Kind
from pathnas.cell import Cost, Site
from pathnas.latency import Latencies
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Replace, Transform
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Node, Path

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_MEMORY = 100_000
"""Entries of a memo before it starts anew."""

_MEMORY_OF_STEPS = 20_000
"""Steps of episodes that are remembered before all are forgotten: some 20 MB."""


def _remember(memo: dict[Key, Value], key: Key, value: Value) -> None:
    if len(memo) >= _MEMORY:
        memo.clear()
    memo[key] = value


@dataclass(frozen=True)
class Limits:
    """What a candidate may be.

    Attributes:
        depth: the most edges on a path.
        ops: the operations that are searched; ``identity`` must be among them.
        sites: the cells that will all hold the tree.
        macs: the most multiply-adds that all cells together may cost for one image; None: any.
        parameters: the most parameters of all cells together; None: any.
        nanoseconds: the most that all cells together may take by `latencies`; None: any.
        latencies: table of the cells.
        start: the canonical tree that episodes begin with; all candidates grow from it. One of
            :func:`pathnas.tree.staged` gives each stage of the network a tree of its own: to all
            sites of as many output positions, the stages in the order of their first sites.

    Raises:
        ValueError: if the ops lack ``identity`` or are unknown, the tree at the start exceeds
            `macs`, `parameters` or `nanoseconds`, the depth leaves nothing to grow there, there are
            not so many stages, or latencies are limited without a table.
    """

    depth: int = 3
    ops: tuple[str, ...] = SEARCHED_OPS
    sites: tuple[Site, ...] = (Site(CellSpec(Conv(16, 16)), 64),)
    macs: int | None = None
    parameters: int | None = None
    start: Node = BASE_TREE
    nanoseconds: int | None = None
    latencies: Latencies | None = None

    def __post_init__(self) -> None:
        for name in self.ops:
            ops.get(name)
        if "identity" not in self.ops or len(set(self.ops)) < len(self.ops):
            raise ValueError(f"ops must be distinct and hold 'identity', got {self.ops}")
        starts = trees.stages(self.start)
        missing = {edge.op for one in starts for _, edge in trees.walk(one)}
        missing -= {BASE_OP, *self.ops}
        if missing:
            raise ValueError(
                f"ops must hold those of the tree to grow from: {sorted(missing)} are missing"
            )
        if self.depth < 1 or not self.sites:
            raise ValueError(f"expected depth >= 1 and sites, got {self.depth=}, {self.sites=}")
        if len(starts) not in (1, len(cell.by_stage(self.sites))):
            raise ValueError(
                f"start: expected a tree for each of {len(cell.by_stage(self.sites))} stages, got "
                f"{self.start}"
            )
        if self.nanoseconds is not None and self.latencies is None:
            raise ValueError(f"nanoseconds={self.nanoseconds} need a table of latencies, got None")
        if not self.allows(self.start):
            least = self.costs(self.start)
            raise ValueError(
                f"macs must be at least the base tree's {least.macs:,}, got {self.macs}; "
                f"parameters at least {least.parameters:,}, got {self.parameters}; nanoseconds at "
                f"least {least.latency:,}, got {self.nanoseconds}"
            )
        if not begin(self).agenda:
            raise ValueError(
                f"expected a depth at which {self.start} has a leaf to grow from, got {self.depth}"
            )

    def __reduce__(self) -> tuple[type[Limits], tuple[Any, ...]]:
        # What was remembered stays behind: it may be large, and is soon found out again.
        return Limits, tuple(getattr(self, field.name) for field in fields(self))

    @cached_property
    def actions(self) -> Actions:
        """The flat table of actions."""
        return Actions(self.ops, len(trees.stages(self.start)))

    @cached_property
    def stages(self) -> tuple[Limits, ...]:
        """What each stage's tree may be, its cost aside; empty where all cells hold one tree."""
        if self.start.merge != "stages":
            return ()
        parts = zip(trees.stages(self.start), cell.by_stage(self.sites), strict=True)
        return tuple(
            Limits(self.depth, self.ops, sites, start=one, latencies=self.latencies)
            for one, sites in parts
        )

    @cached_property
    def positions(self) -> dict[CellSpec, int]:
        """Output positions of all cells of equal spec together."""
        found: dict[CellSpec, int] = {}
        for spec, positions in self.sites:
            found[spec] = found.get(spec, 0) + positions
        return found

    @cached_property
    def max_edges(self) -> int:
        """Edges of the largest tree."""
        if self.stages:
            return sum(1 + stage.max_edges for stage in self.stages)
        widest = max(n for _, n in MERGES)
        return sum(widest**level for level in range(1, self.depth + 1))

    @cached_property
    def _specs(self) -> dict[CellSpec, int]:
        """How many cells are of each spec."""
        return dict(Counter(site.spec for site in self.sites))

    @cached_property
    def _walked(self) -> _Walked:
        return _Walked(_beginning(self))

    @cached_property
    def _costs(self) -> dict[Node, Cost]:
        return {}

    @cached_property
    def _known_changes(self) -> dict[Hashable, _Changes]:
        return {}

    @cached_property
    def _insert_masks(self) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
        """The masks where one may stop or insert, and where one must insert; neither costs."""
        free = tuple(name in ("stop", "insert") for name in self.actions.names)
        return free, tuple(name == "insert" for name in self.actions.names)

    def costs(self, tree: Node) -> Cost:
        """Returns the parameters and multiply-adds of the tree in all cells, for one image.

        Raises:
            ValueError: if a cell cannot hold the tree.
        """
        if self.stages:
            each_stage = [stage.costs(one) for stage, one in self._apart(tree)]
            return Cost(*map(sum, zip(*each_stage, strict=True)))
        if tree not in self._costs:
            each = [
                (cell.cost(tree, spec), count, self.positions[spec])
                for spec, count in self._specs.items()
            ]
            total = Cost(
                parameters=sum(one.parameters * count for one, count, _ in each),
                macs=sum(one.macs * positions for one, _, positions in each),
                latency=self.latencies.of(tree, self.sites) if self.latencies else 0,
            )
            _remember(self._costs, tree, total)
        return self._costs[tree]

    def _apart(self, tree: Node) -> Iterator[tuple[Limits, Node]]:
        """Yields the limits and the tree of each stage; one tree may stand in all of them."""
        return zip(self.stages, trees.stages(tree, len(self.stages)), strict=True)

    def cost(self, tree: Node) -> int:
        """Returns the multiply-adds alone of :meth:`costs`."""
        return self.costs(tree).macs

    def size(self, tree: Node) -> int:
        """Returns the parameters alone of :meth:`costs`."""
        return self.costs(tree).parameters

    def holds(self, tree: Node) -> bool:
        """Tells whether every cell can hold the tree, whatever it costs."""
        if self.stages:
            return all(stage.holds(one) for stage, one in self._apart(tree))
        return all(cell.fits(tree, spec) for spec in self.positions)

    def allows(self, tree: Node) -> bool:
        """Tells whether every cell can hold the tree, within all limits on costs."""
        if not self.holds(tree):
            return False
        return all(one >= 0 for one in self.left(tree))

    @property
    def limited(self) -> bool:
        """Whether any cost is limited."""
        return (self.parameters, self.macs, self.nanoseconds) != (None, None, None)

    def left(self, tree: Node) -> tuple[float, float, float]:
        """Returns what a tree leaves of parameters, multiply-adds and nanoseconds.

        Negative where it exceeds a limit, infinite where there is none.
        """
        if not self.limited:
            return math.inf, math.inf, math.inf
        limits = self.parameters, self.macs, self.nanoseconds
        pairs = zip(limits, self.costs(tree), strict=True)
        parameters, macs, latency = (math.inf if m is None else m - used for m, used in pairs)
        return parameters, macs, latency


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


@dataclass
class _Walked:
    """Where episodes under some limits have led: each state knows those that follow it.

    Attributes:
        beginning: of all episodes.
        steps: that are known.
    """

    beginning: State
    steps: int = 0


class _Known(NamedTuple):
    """What was found out about a state under some limits; it is kept with the state.

    Attributes:
        limits: under which it holds.
        mask: of the actions.
        following: by action, the state that it leads to.
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
    """Returns the state that episodes begin with; it remembers where they led.

    At the base tree the first question is how its branch is merged. A tree that has grown is asked,
    for each of its leaf edges above the depth limit, whether to insert; the last must if no other
    did.
    """
    if limits._walked.steps > _MEMORY_OF_STEPS:
        del vars(limits)["_walked"]
    return limits._walked.beginning


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
    edges = trees.walk(limits.start)
    leaves = [path for path, edge in edges if edge.child.is_leaf and len(path) < limits.depth]
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
        return limits._insert_masks[_must_insert(stage)]
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
    found = limits._known_changes.get(place)
    if found is None:
        answers = limits.actions.of[question.kind]
        costs = tuple(
            _change(tree, action, question.path, limits) if action in answers else None
            for action in range(len(limits.actions))
        )
        found = _Changes(costs, tuple(cost is not None for cost in costs))
        _remember(limits._known_changes, place, found)
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
    known = _known(state, limits)
    found = known.following.get(action)
    if found is None:
        found = known.following[action] = _step(state, action, limits)
        limits._walked.steps += 1
    return found


def _step(state: State, action: int, limits: Limits) -> State:
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
