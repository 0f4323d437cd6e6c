"""How many trees a space holds, and what they cost, without training anything."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, replace
from math import comb

import torch

from pathnas import decisions
from pathnas import tree as trees
from pathnas.cell import Cost
from pathnas.decisions import MERGES, Limits
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Node


@dataclass(frozen=True)
class Space:
    """What is known of a space before anything is trained; costs are of all cells together.

    Attributes:
        counts: distinct canonical trees by depth limit, from 1 to that of the limits; with stages,
            distinct choices of a tree for each.
        exact: whether they are; otherwise some cell is too narrow for some of these trees, and the
            counts are upper bounds.
        smallest: cost of the base tree, below which no tree lies.
        median: costs in the middle of random trees under no cost limit.
        largest: an upper bound of the costs if every cell holds the fullest tree, which then has
            them; otherwise the largest of what was looked at.
        within: share of these random trees that the limits allow.
    """

    counts: tuple[int, ...]
    exact: bool
    smallest: Cost
    median: Cost
    largest: Cost
    within: float


def count(depth: int, ops: int, stages: int = 1) -> int:
    """Returns the number of distinct canonical trees in cells that hold them all.

    Below an edge stands a leaf, a node with one edge whose op is no identity (an identity gives way
    to what is below it), a multiset of edges under *add*, or a sequence under *concat*.

    Args:
        depth: most edges on a path, at least 1.
        ops: operations that are searched, identity among them.
        stages: of the network, each with a tree of its own.
    """
    below = 1
    for _ in range(depth - 1):
        edges = ops * below
        below = 1 + (ops - 1) * below + _merged(edges)
    return (below + _merged(below)) ** stages  # the root's edges are all the base convolution


def _merged(edges: int) -> int:
    """Returns the number of nodes of several branches, of so many distinct edges."""
    return sum(comb(edges + n - 1, n) if merge == "add" else edges**n for merge, n in MERGES)


def is_wide(limits: Limits) -> bool:
    """Tells whether every tree of the space can be reached where nothing limits the costs.

    Concats make cells narrow, so what is looked at is the tree that concatenates everywhere, once
    with each operation.
    """
    free = replace(limits, macs=None, parameters=None, nanoseconds=None)
    actions = free.actions
    for op in actions.of["op"]:
        state = decisions.begin(free)
        while not state.done:
            kind, offered = state.agenda[0].kind, decisions.mask(state, free)
            answers = actions.of[kind]
            if kind != "insert" and not all(offered[answers.start : answers.stop]):
                return False
            chosen = {"merge": actions.names.index("concat2"), "op": op}
            action = chosen.get(kind, actions.names.index("insert"))
            state = decisions.step(state, action, free)
    return True


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
    ops, stages = len(limits.ops), len(limits.stages) or 1
    return Space(
        tuple(count(depth, ops, stages) for depth in range(1, limits.depth + 1)),
        is_wide(limits),
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
