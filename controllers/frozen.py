"""The controller as it acts: what its forward pass computes, in numpy and without gradients.

While it samples, the controller is asked about a few states at a time, again and again. To call an
operation then costs more than the operation itself, and torch's cost twice or thrice as much to
call as numpy's. Weights are shared with the controller, and so is the structure
(:mod:`pathnas.controllers.forest`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from pathnas.actions import KINDS, MERGES, Actions
from pathnas.controllers.forest import Forest, Group
from pathnas.controllers.tree_lstm import ChildSumStep, EdgeStep, NaryStep, Step, TreeLSTM
from pathnas.envs.observation import QUESTIONS

Array = NDArray[np.floating[Any]]

NumpyStep = Callable[[Array, Array, Array], tuple[Array, Array]]
"""A step of the tree-LSTM: as :meth:`pathnas.controllers.tree_lstm.Step.forward`, on arrays."""


class Reader:
    """Reads observations as a tree-LSTM does, and remembers the states that it has computed.

    Args:
        network: whose weights must not change meanwhile.
    """

    def __init__(self, network: TreeLSTM) -> None:
        self.forest = Forest(network.adds, network.concats)
        self._tables = {kind: _array(table) for kind, table in network.tables().items()}
        self._steps = {kind: _step(step) for kind, step in network.steps().items()}
        self._states = np.zeros((2, 1, network.hidden), dtype=_array(network.ops).dtype)  # h, c
        self._size = 1

    def __call__(self, observations: Mapping[str, Any]) -> Array:
        """Maps stacked observations `[B, ...]` to `[B, 2 hidden]`; see :meth:`TreeLSTM.forward`.

        Raises:
            ValueError: if a node has too many branches.
        """
        planting = self.forest.plant(observations)
        for group in planting.groups:
            self._compute(group)
        h = self._states[0]
        return np.concatenate([h[planting.up], h[planting.down]], axis=1)

    def _compute(self, group: Group) -> None:
        gates = self._tables[group.kind][group.inputs]
        new = self._steps[group.kind](gates, *self._states[:, group.sources])
        start, self._size = self._size, self._size + len(gates)
        if self._size > self._states.shape[1]:
            room = np.empty_like(self._states, shape=(2, self._size, self._states.shape[2]))
            self._states = np.concatenate([self._states, room], axis=1)
        self._states[:, start : self._size] = new


class FrozenPolicy:
    """The probabilities of actions as a controller's weights are now.

    Args:
        network: the tree-LSTM.
        heads: by the names that :class:`pathnas.controllers.policy.Controller` gives them.
        actions: the flat table of actions.
    """

    def __init__(self, network: TreeLSTM, heads: nn.ModuleDict, actions: Actions) -> None:
        self.actions = actions
        self._read = Reader(network)
        self._heads = {kind: _mlp(head) for kind, head in heads.items()}
        merges = dict.fromkeys(merge for merge, _ in MERGES)
        self._places = [[p for p, (name, _) in enumerate(MERGES) if name == m] for m in merges]

    def __call__(self, observations: Mapping[str, Any], allowed: NDArray[np.bool_]) -> Array:
        """Returns the probabilities `[B, A]`, those of :meth:`.policy.Controller.forward`.

        Args:
            observations: the batch.
            allowed: `[B, A]` the actions that answer the question and that the mask allows; at
                least one in a row.

        Raises:
            ValueError: if a node has too many branches.
        """
        features = self._read(observations)
        logits = np.zeros(allowed.shape, dtype=features.dtype)
        for kind in KINDS:
            rows = (observations["question"] == QUESTIONS.index(kind)).nonzero()[0]
            if len(rows):
                answers = slice(self.actions.of[kind].start, self.actions.of[kind].stop)
                asked = features[rows]
                if kind == "merge":
                    scores = self._merge_logits(asked, allowed[rows, answers])
                else:
                    scores = self._heads[kind](asked)
                logits[rows, answers] = scores
        return _softmax(logits, allowed)

    def _merge_logits(self, features: Array, allowed: NDArray[np.bool_]) -> Array:
        """Returns the logits of keep and of each entry of ``MERGES``, `[M, 1 + merges]`."""
        scores = self._heads["merge"](features)
        number = self._heads["number"](features)
        found = scores[:, [0] * allowed.shape[1]]
        for column, places in enumerate(self._places, start=1):
            entries = [1 + place for place in places]
            given = _softmax(number[:, places], allowed[:, entries])
            with np.errstate(divide="ignore"):  # what is not allowed has a logit of -inf
                found[:, entries] = scores[:, column, None] + np.log(given)
        return found


def _softmax(logits: Array, allowed: NDArray[np.bool_]) -> Array:
    """Returns probabilities of the allowed entries, 0 elsewhere; of a row without any all 0."""
    logits = np.where(allowed, logits, -np.inf)
    highest = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - np.where(highest > -np.inf, highest, 0))
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(weights.dtype).tiny)


def _mlp(head: nn.Module) -> Callable[[Array], Array]:
    first, first_bias, last, last_bias = map(_array, head.parameters())

    def apply(features: Array) -> Array:
        hidden = features @ first.T
        hidden += first_bias
        return np.maximum(hidden, 0, out=hidden) @ last.T + last_bias

    return apply


def _step(step: Step) -> NumpyStep:
    if isinstance(step, EdgeStep):
        return _edge_step(step)
    if isinstance(step, ChildSumStep):
        return _child_sum_step(step)
    assert isinstance(step, NaryStep)
    return _nary_step(step)


def _edge_step(step: EdgeStep) -> NumpyStep:
    weight, size = _array(step.weight_hh).T, step.hidden
    i, f, u, o = (slice(n * size, (n + 1) * size) for n in range(4))

    def apply(gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gates += h[:, 0] @ weight
        return _outputs(gates, c, i, o, u, f)

    return apply


def _child_sum_step(step: ChildSumStep) -> NumpyStep:
    own, forget, size, children = (
        _array(step.gates).T,
        _array(step.forget).T,
        step.hidden,
        step.branches,
    )
    parent = None if step.parent is None else _array(step.parent).T
    places = _node_gates(size)

    def apply(gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        below = h[:, :children]
        gates[:, : 3 * size] += below.sum(axis=1) @ own
        gates[:, 3 * size : (3 + children) * size] += (below.reshape(-1, size) @ forget).reshape(
            len(h), -1
        )
        if parent is not None:
            above = h[:, -1] @ parent
            gates[:, : 3 * size] += above[:, : 3 * size]
            gates[:, -size:] += above[:, 3 * size :]
        return _outputs(gates, c, *places)

    return apply


def _nary_step(step: NaryStep) -> NumpyStep:
    weight, places = _array(step.weight).T, _node_gates(step.hidden)

    def apply(gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        gates += h.reshape(len(h), -1) @ weight
        return _outputs(gates, c, *places)

    return apply


def _node_gates(size: int) -> tuple[slice, slice, slice, slice]:
    return slice(size), slice(size, 2 * size), slice(2 * size, 3 * size), slice(3 * size, None)


def _outputs(
    gates: Array, c: Array, i: slice, o: slice, u: slice, forget: slice
) -> tuple[Array, Array]:
    """Returns h and c `[M, H]` from all gates `[M, G]` before they are squashed, and their places.

    Args:
        gates: which are overwritten.
        c: `[M, S, H]` of the sources.
        i: place of the input gate.
        o: of the output gate.
        u: of the update.
        forget: of the forget gates of all sources.
    """
    update = np.tanh(gates[:, u])
    gates *= 0.5  # the logistic function by way of tanh, which cannot overflow
    np.tanh(gates, out=gates)
    gates *= 0.5
    gates += 0.5
    kept = gates[:, forget].reshape(c.shape)
    kept *= c
    state = kept.sum(axis=1)
    state += gates[:, i] * update
    return gates[:, o] * np.tanh(state), state


def _array(weights: Tensor) -> Array:
    found: Array = weights.detach().numpy()
    return found
