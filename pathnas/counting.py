"""How many trees a space holds, and what they cost, without training anything."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import comb, prod

import torch

from pathnas import cell, decisions, ops
from pathnas import tree as trees
from pathnas.actions import MERGES
from pathnas.cell import Cost
from pathnas.limits import Limits
from pathnas.specs import CellSpec
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Node


@dataclass(frozen=True)
class Space:
    """What is known of a space before anything is trained; costs are of all cells together.

    Attributes:
        counts: distinct canonical trees by depth limit, from 1 to that of the limits; with stages,
            distinct choices of a tree for each.
        smallest: cost of the base tree, below which no tree lies.
        median: costs in the middle of random trees under no cost limit.
        largest: an upper bound of the costs if every cell holds the fullest tree, which then has
            them; otherwise the largest of what was looked at.
        within: share of these random trees that the limits allow.
    """

    counts: tuple[int, ...]
    smallest: Cost
    median: Cost
    largest: Cost
    within: float


def count(limits: Limits, depth: int) -> int:
    """Returns the number of distinct canonical trees of a space without limits on costs.

    Below an edge stands a leaf, a node with one edge whose op is no identity (an identity gives way
    to what is below it), a multiset of edges under *add*, or a sequence under *concat*. Concats
    share the channels out: what a cell is too narrow for is left out.

    Args:
        limits: say which operations there are, and how wide the cells are.
        depth: most edges on a path, at least 1.
    """
    if limits.stages:
        return prod(count(stage, depth) for stage in limits.stages)
    specs = tuple(limits.positions)
    widths = tuple(spec.conv.channels_out for spec in specs)
    space = _Widths(specs, limits.ops)
    found = below = space.below(widths, depth - 1)
    groups = [spec.conv.groups for spec in specs]
    units = tuple(w // g if g > 1 else 1 for w, g in zip(widths, groups, strict=True))
    for merge, n in MERGES:  # the root's edges are all the base convolution
        if merge == "add":
            found += comb(below + n - 1, n)
        elif parts := _shared(widths, n, units):
            found += prod(space.below(part, depth - 1) for part in parts)
    return found


Widths = tuple[int, ...]
"""Channels of one place of a tree, in each of the cells that differ."""


class _Widths:
    """Counts what can stand where the cells have some channels."""

    def __init__(self, specs: Sequence[CellSpec], searched: Sequence[str]) -> None:
        self.groups = tuple(spec.group_width for spec in specs)
        self.free = [op for op in searched if not ops.get(op).grouped]
        self.grouped = [op for op in searched if ops.get(op).grouped]
        self._below: dict[tuple[Widths, int], int] = {}

    def below(self, widths: Widths, depth: int) -> int:
        """Returns how many trees of so many edges can stand at the end of an edge."""
        if not depth:
            return 1
        if (widths, depth) not in self._below:
            self._below[widths, depth] = self._count(widths, depth)
        return self._below[widths, depth]

    def _count(self, widths: Widths, depth: int) -> int:
        further = self.below(widths, depth - 1)
        edges = self._ops(widths) * further
        found = 1 + edges - further  # the identity is not alone
        for merge, n in MERGES:
            if merge == "add":
                found += comb(edges + n - 1, n)
            elif parts := _shared(widths, n, (1,) * len(widths)):
                # A grouped operation must leave the borders where they are.
                whole = _shared(widths, n, self.groups) == parts
                found += prod(
                    (self._ops(part) if whole else len(self.free)) * self.below(part, depth - 1)
                    for part in parts
                )
        return found

    def _ops(self, widths: Widths) -> int:
        whole = not any(w % group for w, group in zip(widths, self.groups, strict=True))
        return len(self.free) + (len(self.grouped) if whole else 0)


def _shared(widths: Widths, n: int, units: Widths) -> list[Widths] | None:
    """Returns the channels of each of some branches; None if a cell is too narrow."""
    try:
        each = [cell.shares(w, n, unit) for w, unit in zip(widths, units, strict=True)]
    except ValueError:
        return None
    return list(zip(*each, strict=True))


def measure(limits: Limits, samples: list[Node]) -> Space:
    """Returns what is known of the space of some limits.

    Args:
        limits: what a candidate may be.
        samples: random trees of the same space without limits on costs; at least one.

    Raises:
        ValueError: if trees grow from another one than the base tree.
    """
    if set(trees.stages(limits.start)) != {BASE_TREE}:
        raise ValueError(f"only what grows from the base tree is counted, got {limits.start}")
    costs = [limits.costs(tree) for tree in samples]
    parameters, macs, latencies = zip(*costs, strict=True)
    fullest = [_costs(limits, _fullest(limits.depth, op)) for op in limits.ops]
    return Space(
        tuple(count(limits, depth) for depth in range(1, limits.depth + 1)),
        limits.costs(limits.start),
        Cost(
            parameters=int(statistics.median(parameters)),
            macs=int(statistics.median(macs)),
            latency=int(statistics.median(latencies)),
        ),
        Cost(
            parameters=max(*parameters, *(cost.parameters for cost in fullest)),
            macs=max(*macs, *(cost.macs for cost in fullest)),
            latency=max(*latencies, *(cost.latency for cost in fullest)),
        ),
        statistics.fmean(limits.allows(tree) for tree in samples),
    )


def _costs(limits: Limits, tree: Node) -> Cost:
    return limits.costs(tree) if limits.holds(tree) else Cost(0, 0)


def _fullest(depth: int, op: str) -> Node:
    """Returns the tree that adds as many branches as there can be, everywhere."""
    widest = max(n for merge, n in MERGES if merge == "add")
    node = Node()
    for level in range(depth, 0, -1):
        edge = Edge(op if level > 1 else BASE_OP, node)
        node = Node((edge,) * widest, "add", "replicate")
    return trees.canonical(node)


def random_trees(limits: Limits, number: int, generator: torch.Generator) -> list[Node]:
    """Returns the canonical trees of random episodes, costs unlimited."""
    free = replace(limits, macs=None, parameters=None, nanoseconds=None)
    found = []
    for _ in range(number):
        state = decisions.begin(free)
        while not state.done:
            legal = [a for a, allowed in enumerate(decisions.mask(state, free)) if allowed]
            drawn = int(torch.randint(len(legal), (), generator=generator))
            state = decisions.step(state, legal[drawn], free)
        found.append(trees.canonical(state.tree))
    return found
