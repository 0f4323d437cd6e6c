"""What a growth did to the tree of a trial, and whom it is related to: worked out from trees alone.

No weights are read, so this can be told of every trial of a run at any time. What a growth did to
a network's output is measured by :func:`pathnas.growth.transform`; here it is told by law.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

from pathnas import cell, rounds, transforms
from pathnas import config as configs
from pathnas import tree as trees
from pathnas.cell import Site
from pathnas.facts import Facts
from pathnas.transforms import Birth, Branch, Insert, Transform
from pathnas.tree import BASE_TREE, Node, Path

LEFT = 34
"""Letters for a transform at least, before what it adds."""


class Family:
    """Tells of the trials of a run.

    Args:
        facts: of the run.
        sites: places of the cells in its network; without them no costs are told.
    """

    def __init__(self, facts: Facts, sites: Sequence[Site] = ()) -> None:
        self._sites = sites
        self._start = _start(facts)
        self._rows = {
            name: {row["key"]: row for row in rows} for name, rows in facts.trials.items()
        }
        trial = facts.config["search"]["trial"]
        mode: Literal["gated", "hard"] = "gated" if trial["birth"] == "gated" else "hard"
        self._birth = Birth(mode, trial["noise"])
        self._plugins = bool(facts.config["plugins"])

    def line(self, row: dict[str, Any], tree: Node) -> str:
        """Returns the trials whose trees stand on the way from the base network's tree to this one.

        Args:
            row: of the trial.
            tree: of the trial.
        """
        if self._start is not None and tree == self._from(tree, self._start):
            return "the base network itself"
        parts = ["base network"]
        known = self._rows.get(row["search"], {})
        for key in map(trees.key, self._way(tree)[1:-1]):
            other = known.get(key)
            if other is not None and other["key"] != row["key"]:
                part = f"trial {other['number']}"
                if other["accuracy"] is not None:
                    part += f" ({other['accuracy']:.2%})"
                if part not in parts:
                    parts.append(part)
        return " > ".join([*parts, "this tree"])

    def receipt(self, tree: Node) -> list[str]:
        """Returns a heading, one line for each transform that led to a tree, and one for all.

        Each says what is added to the network's parameters and multiply-adds, and whether the law
        promises that the output stays as it is at birth.

        Returns:
            Nothing if no transform did, or if that is not known.
        """
        way = self._way(tree)
        named = [
            (f"{trees.stage_name(path[0])} " if path else "", step)
            for path, step in self._steps(tree)
        ]
        steps = [step for _, step in named]
        if not steps:
            return []
        written = [f"  {where}{_written(step)}" for where, step in named]
        left = max(LEFT, *map(len, written))
        costs = f"{'parameters':>11}{'multiply-adds':>15}  " if self._sites else ""
        lines = [f"{'receipt':<{left}}{costs}at birth"]
        lines += [
            f"{words:<{left}}{self._added(*pair)}{self._law([step])}"
            for words, step, pair in zip(written, steps, pairwise(way), strict=True)
        ]
        if len(steps) > 1:
            whole = f"  all {len(steps)} together"
            lines.append(f"{whole:<{left}}{self._added(way[0], way[-1])}{self._law(steps)}")
        return lines

    def _from(self, tree: Node, start: Node) -> Node:
        """Returns what a tree has grown from, for each stage if each has a tree of its own."""
        if tree.merge != "stages":
            return start
        return trees.staged(trees.stages(start, len(tree.edges)))

    def _steps(self, tree: Node) -> list[tuple[Path, Transform]]:
        """Returns the transforms, each with the path of the stage's tree that it changes."""
        if self._plugins or self._start is None:  # only the user's own code knows the operations
            return []
        start = self._from(tree, self._start)
        paths: list[Path] = [()]
        if tree.merge == "stages":
            paths = [(number,) for number in range(len(tree.edges))]
        return [
            (path, step)
            for path in paths
            for step in transforms.growth(trees.node_at(tree, path), trees.node_at(start, path))
        ]

    def _way(self, tree: Node) -> list[Node]:
        """Returns the trees that the transforms lead through, both ends included."""
        if self._start is None:
            return [tree]
        way = [self._from(tree, self._start)]
        for path, step in self._steps(tree):
            way.append(trees.with_node(way[-1], path, step(trees.node_at(way[-1], path))))
        return way

    def _added(self, before: Node, after: Node) -> str:
        if not self._sites:
            return ""
        old, new = self._cost(before), self._cost(after)
        parameters, macs = new[0] - old[0], new[1] - old[1]
        return f"{parameters:>+11,}{macs:>+15,}  "

    def _cost(self, tree: Node) -> tuple[int, int]:
        parts = [tuple(self._sites)]
        if tree.merge == "stages":
            parts = cell.by_stage(self._sites)
        costs = [
            (cell.cost(own, spec), positions)
            for own, sites in zip(trees.stages(tree), parts, strict=True)
            for spec, positions in sites
        ]
        return (
            sum(one.parameters for one, _ in costs),
            sum(one.macs * positions for one, positions in costs),
        )

    def _law(self, steps: Sequence[Transform]) -> str:
        exact = all(step.is_exact(self._birth) for step in steps)
        return "exact" if exact else "near"


def _start(facts: Facts) -> Node | None:
    """Returns the tree that all have grown from; None if the folder that tells is gone."""
    if not facts.ancestors:
        return BASE_TREE
    try:
        start = rounds.start(configs.restore(facts.config).base)
    except (OSError, ValueError):
        return None
    return start if str(start) == facts.ancestors[-1]["tree"] else None


def _written(step: Transform) -> str:
    if isinstance(step, Branch):
        return f"Branch({step.path}, {step.merge}, {step.n})"
    return (
        f"Insert({step.path})" if isinstance(step, Insert) else f"Replace({step.path}, {step.op})"
    )
