"""What can be decided: the kinds of questions, and the flat table of actions that answer them."""

from __future__ import annotations

from typing import Literal

from pathnas.transforms import Branch, Insert, Replace, Transform
from pathnas.tree import Merge, Path

Kind = Literal["merge", "insert", "op"]
KINDS: tuple[Kind, ...] = ("merge", "insert", "op")

MERGES: tuple[tuple[Merge, int], ...] = (("add", 2), ("add", 3), ("concat", 2))
"""What a merge decision offers besides keeping the single branch."""

SEARCHED_OPS = (
    "sep_conv3x3",
    "sep_conv5x5",
    "sep_conv7x7",
    "conv1x1",
    "identity",
    "max_pool3x3",
    "avg_pool3x3",
)


class Actions:
    """The flat table of actions, the same for every question.

    ``keep``, the entries of :data:`MERGES`, ``stop``, ``insert``, then the operations.

    Args:
        searched: the operations.
        stages: how many trees are decided; controllers must tell so many apart.
    """

    def __init__(self, searched: tuple[str, ...] = SEARCHED_OPS, stages: int = 1) -> None:
        self.ops = searched
        self.stages = stages
        merges = tuple(f"{merge}{n}" for merge, n in MERGES)
        self.names: tuple[str, ...] = ("keep", *merges, "stop", "insert", *searched)
        first_op = len(merges) + 3
        self.of: dict[Kind, range] = {
            "merge": range(0, first_op - 2),
            "insert": range(first_op - 2, first_op),
            "op": range(first_op, len(self.names)),
        }
        self._transforms: dict[tuple[int, Path], Transform | None] = {}

    def __len__(self) -> int:
        return len(self.names)

    def transform(self, action: int, path: Path) -> Transform | None:
        """Returns what an action does at a path; None: it leaves the tree as it is."""
        place = action, path
        if place not in self._transforms:
            self._transforms[place] = self._transform(action, path)
        return self._transforms[place]

    def _transform(self, action: int, path: Path) -> Transform | None:
        if 0 < action < self.of["merge"].stop:
            return Branch(path, *MERGES[action - 1])
        if self.names[action] == "insert":
            return Insert(path)
        if action in self.of["op"] and self.names[action] != "identity":
            return Replace(path, self.names[action])
        return None
