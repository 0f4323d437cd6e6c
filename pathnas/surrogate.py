"""A stand-in for training: a closed formula of the tree, in microseconds, with a known optimum.

The formula imitates what is known of good cells and means nothing beyond that. It exists for tests,
benchmarks and research on the search itself. All its terms lie in [0, 1]:

- an *edge* below the root is worth ``0.7 fit + 0.3 node``: how well its operation follows the
  operation above it, and the node at its end. A root edge, the base convolution, is worth
  ``0.1 + 0.9 node``;
- ``fit = (kinds + reaches) / 2``: `kinds` is read from :data:`FOLLOWS` (pooling after a convolution
  and the reverse are good, pooling twice is not), and `reaches` is 1 if the kernels of the two
  operations add up to 8 and falls to 0 as they differ from that by 6 (wide after narrow);
- a *node* of `n` branches is worth ``(1 - 0.4^n)`` times the mean of its edges, times
  ``(1 + harmony) / 2`` below the root. Its harmony is the share of pairs of branches that suit its
  merge: *add* wants unlike operations, *concat* operations of one kind (a lone branch: 1/2). A leaf
  is worth nothing.

The accuracy is the worth of the root; where each stage of a network has a tree of its own, the mean
of them. The best subtree below an operation does not depend on what
stands beside it, except through the operations themselves, which is why the optimum can be had by
dynamic programming.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import combinations, combinations_with_replacement
from statistics import fmean
from typing import Literal, NamedTuple

from pathnas import tree as trees
from pathnas.actions import MERGES
from pathnas.limits import Limits
from pathnas.outcomes import Candidate, Outcome
from pathnas.tree import BASE_OP, Edge, Merge, Node


class Trait(NamedTuple):
    """What the surrogate knows of an operation: its kind, and the side of its kernel in pixels."""

    kind: Literal["conv", "pool", "identity"]
    reach: int


TRAITS = {
    "identity": Trait("identity", 1),
    "conv1x1": Trait("conv", 1),
    "sep_conv5x5": Trait("conv", 5),
    "sep_conv7x7": Trait("conv", 7),
    "avg_pool3x3": Trait("pool", 3),
    "max_pool3x3": Trait("pool", 3),
}
"""Operations that are not listed, the base too, count as a 3x3 convolution."""

FOLLOWS = {
    "conv": {"conv": 0.7, "pool": 1.0, "identity": 0.3},
    "pool": {"conv": 1.0, "pool": 0.0, "identity": 0.4},
    "identity": {"conv": 0.8, "pool": 0.5, "identity": 0.0},
}
"""How well a kind of operation (inner key) follows another (outer key)."""


def trait(op: str) -> Trait:
    """Returns the kind and the reach of an operation, known or not."""
    return TRAITS.get(op, Trait("conv", 3))


def fit(above: str, op: str) -> float:
    """Returns how well an operation follows the one above it, in [0, 1]."""
    (kind_above, reach_above), (kind, reach) = trait(above), trait(op)
    reaches = max(0.0, 1 - abs(reach_above + reach - 8) / 6)
    return (FOLLOWS[kind_above][kind] + reaches) / 2


def harmony(merge: Merge | None, ops: Sequence[str]) -> float:
    """Returns the share of pairs of branches whose operations suit the merge."""
    pairs = list(combinations(ops, 2))
    if not pairs:
        return 0.5
    if merge == "add":
        return fmean(a != b for a, b in pairs)
    return fmean(trait(a).kind == trait(b).kind for a, b in pairs)


@lru_cache(maxsize=100_000)
def worth(node: Node, above: str | None = None) -> float:
    """Returns what a node is worth below an operation (None: as the root), in [0, 1)."""
    if node.is_leaf:
        return 0.0
    names = [edge.op for edge in node.edges]
    worths = [edge_worth(above, edge.op, worth(edge.child, edge.op)) for edge in node.edges]
    return _node_worth(above, node.merge, names, worths)


def edge_worth(above: str | None, op: str, below: float) -> float:
    """Returns what an edge is worth, from the worth of the node at its end."""
    return 0.1 + 0.9 * below if above is None else 0.7 * fit(above, op) + 0.3 * below


def _node_worth(
    above: str | None, merge: Merge | None, names: Sequence[str], worths: Sequence[float]
) -> float:
    value = (1 - 0.4 ** len(names)) * fmean(worths)
    return value if above is None else value * (1 + harmony(merge, names)) / 2


class Best(NamedTuple):
    """The best node below an operation, and its worth."""

    worth: float
    node: Node


@dataclass(frozen=True)
class Surrogate:
    """An evaluator without training: the accuracy is the formula of this module.

    It answers for any tree that the cells can hold, of any depth and with any operations, and does
    not depend on how the tree is written: a :class:`Candidate` is canonical.

    Attributes:
        limits: `sites` give the multiply-adds and parameters; `depth` and `ops` say over which
            trees the optimum is taken.
    """

    limits: Limits = field(default_factory=Limits)

    def __call__(self, candidate: Candidate) -> Outcome:
        """Returns the outcome, always ``"ok"``; `parameters` counts those of all cells.

        Raises:
            ValueError: if the cells of the limits cannot hold the tree.
        """
        cost = self.limits.costs(candidate.tree)
        return Outcome(
            status="ok",
            accuracy=fmean(map(worth, trees.stages(candidate.tree))),
            macs=cost.macs,
            parameters=cost.parameters,
        )

    @property
    def optimum(self) -> float:
        """The largest accuracy of all trees of the limits' depth and operations.

        Multiply-adds and channels are left out of account: where they forbid `best_tree`, this is
        an upper bound.
        """
        return self._best.worth

    @property
    def best_tree(self) -> Node:
        """A canonical tree of that accuracy."""
        stages = len(self.limits.stages) or 1
        return trees.canonical(trees.staged([self._best.node] * stages))

    @property
    def _best(self) -> Best:
        return _best_node(None, (BASE_OP,), self.limits.ops, self.limits.depth)


@lru_cache(maxsize=1_000)
def _best_node(
    above: str | None, offered: tuple[str, ...], searched: tuple[str, ...], depth: int
) -> Best:
    """Returns the best node of at most `depth` edges below it, whose own edges are `offered`."""
    if not depth:
        return Best(0.0, Node())
    below = {op: _best_node(op, searched, searched, depth - 1) for op in offered}
    options = [Best(0.0, Node())]
    for merge, names in _branchings(offered):
        worths = [edge_worth(above, op, below[op].worth) for op in names]
        edges = tuple(Edge(op, below[op].node) for op in names)
        options.append(Best(_node_worth(above, merge, names, worths), _node(above, merge, edges)))
    return max(options, key=lambda best: best.worth)


def _branchings(offered: tuple[str, ...]) -> Iterator[tuple[Merge | None, tuple[str, ...]]]:
    # A lone identity is no option of its own: the canonical tree lacks it.
    yield from ((None, (op,)) for op in offered if op != "identity")
    for merge, n in MERGES:
        yield from ((merge, names) for names in combinations_with_replacement(offered, n))


def _node(above: str | None, merge: Merge | None, edges: tuple[Edge, ...]) -> Node:
    if merge is None:
        return Node(edges)
    # Branching an identity by concat splits the input; the base convolution replicates it.
    splits = merge == "concat" and above is not None
    return Node(edges, merge, "split" if splits else "replicate")
