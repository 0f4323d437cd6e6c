"""Reads trees as the tree-LSTM does, and takes the gradient of what was read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pathnas.controllers.forest import ZERO, Forest, Group, Kind, Planting
from pathnas.controllers.lstm_steps import Array, Step
from pathnas.decisions import State


class Reader:
    """Computes each state that trees and questions need once, and remembers it.

    Attributes:
        count: of the states that it has, with the one that is all zeros.

    Args:
        forest: that tells which states there are.
        steps: the kinds of steps, whose weights must not change meanwhile.
        hidden: size of a state, H.
    """

    def __init__(self, forest: Forest, steps: Mapping[Kind, Step], hidden: int) -> None:
        self._forest = forest
        self._places = {ZERO: 0}
        self._steps = steps
        dtype = next(iter(steps.values())).table.dtype
        self._states = np.zeros((2, 1, hidden), dtype)  # h, c; there may be room for more
        self.count = 1

    def __call__(self, observed: Sequence[State]) -> Array:
        """Maps `B` states of the decision process to `[B, 2 H]`; see :meth:`.TreeLSTM.forward`.

        Raises:
            ValueError: if a node has too many branches.
        """
        planting = self._forest.plant(observed, self._places)
        for group in planting.groups:
            self._compute(group)
        return self._features(planting)

    def _compute(self, group: Group) -> Array:
        """Computes the states of a group; returns their squashed gates."""
        step = self._steps[group.kind]
        gates = step.table[group.inputs]
        new = step.forward(gates, *self._states[:, group.sources])
        start, self.count = self.count, self.count + len(gates)
        if self.count > self._states.shape[1]:
            room = max(self.count, 2 * start)  # doubled, so that copying it stays linear
            more = np.empty_like(self._states, shape=(2, room - start, self._states.shape[2]))
            self._states = np.concatenate([self._states, more], axis=1)
        self._states[:, start : self.count] = new
        return gates

    def _features(self, planting: Planting) -> Array:
        h = self._states[0]
        return np.concatenate([h[planting.up], h[planting.down]], axis=1)


class LearningReader(Reader):
    """A reader that is called once, and keeps what the gradient needs."""

    def __call__(self, observed: Sequence[State]) -> Array:
        """See :meth:`Reader.__call__`."""
        self._planting = self._forest.plant(observed, self._places)
        self._gates = [self._compute(group) for group in self._planting.groups]
        return self._features(self._planting)

    def gradients(self, features: Array) -> dict[Kind, list[Array]]:
        """Returns the gradients of each kind of step that was taken: its table's, its weights'.

        Args:
            features: the gradient of what the call returned, `[B, 2 H]`.
        """
        hidden = self._states.shape[2]
        gradients = np.zeros_like(self._states[:, : self.count])
        up, down = self._planting.up, self._planting.down
        _add(gradients[:1], up, features[None, :, :hidden])
        _add(gradients[:1], down, features[None, :, hidden:])
        end = self.count
        found: dict[Kind, list[tuple[Group, Array]]] = {}
        for group, gates in zip(self._planting.groups[::-1], self._gates[::-1], strict=True):
            start = end - len(gates)
            state, c = self._states[1, start:end], self._states[1, group.sources]
            step = self._steps[group.kind]
            dgates, *sources = step.backward(gates, c, state, *gradients[:, start:end])
            _add(gradients, group.sources.ravel(), np.stack(sources).reshape(2, -1, hidden))
            found.setdefault(group.kind, []).append((group, dgates))
            end = start
        return {kind: self._of_weights(kind, entries) for kind, entries in found.items()}

    def _of_weights(self, kind: Kind, entries: list[tuple[Group, Array]]) -> list[Array]:
        groups, parts = zip(*entries, strict=True)
        dgates, step = np.concatenate(parts), self._steps[kind]
        inputs = np.concatenate([group.inputs for group in groups])
        h = self._states[0, np.concatenate([group.sources for group in groups])]
        return [step.table_gradient(dgates, inputs), *step.weight_gradients(dgates, h)]


def _add(sums: Array, rows: NDArray[np.int64], values: Array) -> None:
    """Adds values `[D, M, H]` to rows `[M]`, which may repeat, of sums `[D, N, H]`."""
    # torch's is some thirty times as fast as numpy's
    torch.from_numpy(sums).index_add_(1, torch.from_numpy(rows), torch.from_numpy(values))
