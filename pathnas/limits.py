"""What a candidate may be: how deep, of which operations, in which cells, and at what cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any, TypeVar

from pathnas import cell, ops
from pathnas import tree as trees
from pathnas.actions import MERGES, SEARCHED_OPS, Actions
from pathnas.cell import Cost, Site
from pathnas.latency import Latencies
from pathnas.specs import CellSpec, Conv
from pathnas.tree import BASE_OP, BASE_TREE, Node, Path

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

_MEMORY = 100_000
"""Entries of a memo before it starts anew."""


def remember(memo: dict[Key, Value], key: Key, value: Value) -> None:
    """Enters a value into a memo, which is emptied when it has become too large."""
    if len(memo) >= _MEMORY:
        memo.clear()
    memo[key] = value


def open_leaves(tree: Node, depth: int) -> list[Path]:
    """Returns the paths of the leaf edges below which a depth leaves room, first branch first."""
    edges = trees.walk(tree)
    return [path for path, edge in edges if edge.child.is_leaf and len(path) < depth]


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
        if not any(one == BASE_TREE or open_leaves(one, self.depth) for one in starts):
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
    def _costs(self) -> dict[Node, Cost]:
        return {}

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
            remember(self._costs, tree, total)
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
