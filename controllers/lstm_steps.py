"""The steps of the tree-LSTM on arrays, forward and backward.

They are written in numpy, whose operations cost a half or a third of torch's to call: while the
controller samples, states are computed a few at a time, and to call an operation costs more than
what it computes. The gradient is written out because that of a weight is then one product for all
states of its kind; torch's own takes one for each level of the trees.

Arrays of one step: `M` states, each from `S` source states of `H` numbers, with gates `[M, G]`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]


FEW = 32
"""Rows up to which it pays to keep the transpose of what they are multiplied by."""


class Weight:
    """A matrix of weights, as torch has it.

    Args:
        array: `[O, I]`, which must not change once it is used.
    """

    def __init__(self, array: Array) -> None:
        self.array = array

    @cached_property
    def _transposed(self) -> Array:
        return np.ascontiguousarray(self.array.T)

    def of(self, rows: Array) -> Array:
        """Maps rows `[M, I]` to `[M, O]`."""
        # For few rows OpenBLAS takes up to eight times as long if it must transpose the weights.
        return rows @ (self._transposed if len(rows) <= FEW else self.array.T)

    def gradient(self, douts: Array) -> Array:
        """Maps gradients `[M, O]` of what :meth:`of` returned to those of the rows, `[M, I]`."""
        found: Array = douts @ self.array
        return found


class Places(NamedTuple):
    """Where the gates stand among `G`: input, output, update, and the sources' forget gates."""

    input: slice
    output: slice
    update: slice
    forget: slice


class Step:
    """One kind of step, with its weights.

    Args:
        table: `[K, G]` what each of `K` inputs adds to the gates.
        places: of the gates.
    """

    def __init__(self, table: Array, places: Places) -> None:
        self.table = table
        self.places = places

    def forward(self, gates: Array, h: Array, c: Array) -> tuple[Array, Array]:
        """Maps states `[M, S, H]` to new ones, h and c `[M, H]`.

        Args:
            gates: `[M, G]` rows of the table, which are overwritten by the squashed gates.
            h: of the sources.
            c: of the sources.
        """
        self.add_states(gates, h)
        i, o, u, forget = self.places
        update = np.tanh(gates[:, u])
        gates *= 0.5  # the logistic function by way of tanh, which cannot overflow
        np.tanh(gates, out=gates)
        gates *= 0.5
        gates += 0.5
        gates[:, u] = update
        state = (gates[:, forget].reshape(c.shape) * c).sum(axis=1)
        state += gates[:, i] * update
        return gates[:, o] * np.tanh(state), state

    def backward(
        self, gates: Array, c: Array, state: Array, dh: Array, dc: Array
    ) -> tuple[Array, Array, Array]:
        """Returns the gradients of the gates before they are squashed, and of the sources' h and c.

        Args:
            gates: as :meth:`forward` left them.
            c: `[M, S, H]` of the sources.
            state: c of the new states, `[M, H]`.
            dh: the gradient of their h.
            dc: of their c.
        """
        i, o, u, forget = self.places
        squashed = np.tanh(state)
        slopes = gates * (1 - gates)
        slopes[:, u] = 1 - gates[:, u] ** 2
        dc = dc + dh * gates[:, o] * (1 - squashed**2)
        dgates = np.empty_like(gates)
        dgates[:, i] = dc * gates[:, u]
        dgates[:, o] = dh * squashed
        dgates[:, u] = dc * gates[:, i]
        dgates[:, forget] = (dc[:, None] * c).reshape(len(c), -1)
        dgates *= slopes
        dsources = dc[:, None] * gates[:, forget].reshape(c.shape)
        return dgates, self.states_gradient(dgates), dsources

    def add_states(self, gates: Array, h: Array) -> None:
        """Adds to gates what the sources contribute."""
        raise NotImplementedError

    def states_gradient(self, dgates: Array) -> Array:
        """Maps gradients of gates to those of the sources' h, `[M, S, H]`."""
        raise NotImplementedError

    def weight_gradients(self, dgates: Array, h: Array) -> list[Array]:
        """Returns the gradients of the weights that states go through, in order."""
        raise NotImplementedError

    def table_gradient(self, dgates: Array, inputs: NDArray[np.int64]) -> Array:
        """Returns the gradient of the table.

        Args:
            dgates: of the gates, `[M, G]`.
            inputs: `[M]` rows of the table.
        """
        chosen = np.zeros((len(self.table), len(inputs)), dtype=self.table.dtype)
        chosen[inputs, np.arange(len(inputs))] = 1
        return chosen @ dgates


class EdgeStep(Step):
    """The step of an ordinary LSTM cell, with torch's order of gates; S is 1.

    Args:
        table: see :class:`Step`.
        weight: `[4 H, H]`.
    """

    def __init__(self, table: Array, weight: Array) -> None:
        i, f, u, o = _blocks(weight.shape[1], 4)
        super().__init__(table, Places(i, o, u, f))
        self._weight = Weight(weight)

    def add_states(self, gates: Array, h: Array) -> None:
        """See :meth:`Step.add_states`."""
        gates += self._weight.of(h[:, 0])

    def states_gradient(self, dgates: Array) -> Array:
        """See :meth:`Step.states_gradient`."""
        return self._weight.gradient(dgates)[:, None]

    def weight_gradients(self, dgates: Array, h: Array) -> list[Array]:
        """See :meth:`Step.weight_gradients`."""
        return [dgates.T @ h[:, 0]]


class ChildSumStep(Step):
    """The child-sum step: gates from the sum of the children, a child's forget gate from it alone.

    Args:
        table: see :class:`Step`.
        own: `[3 H, H]` from the children's sum to input, output and update.
        forget: `[H, H]` from a child to its forget gate.
        parent: `[4 H, H]` from the parent's state, which is the last source; None: it has none.
    """

    def __init__(
        self, table: Array, own: Array, forget: Array, parent: Array | None = None
    ) -> None:
        size = own.shape[1]
        super().__init__(table, _node_places(size))
        self._size, self._own, self._forget = size, Weight(own), Weight(forget)
        self._parent = None if parent is None else Weight(parent)
        self._children = table.shape[1] // size - 3 - (parent is not None)

    def add_states(self, gates: Array, h: Array) -> None:
        """See :meth:`Step.add_states`."""
        size, children = self._size, h[:, : self._children]
        gates[:, : 3 * size] += self._own.of(children.sum(axis=1))
        forgets = self._forget.of(children.reshape(-1, size))
        gates[:, self._of_children] += forgets.reshape(len(h), -1)
        if self._parent is not None:
            above = self._parent.of(h[:, -1])
            gates[:, : 3 * size] += above[:, : 3 * size]
            gates[:, -size:] += above[:, 3 * size :]

    def states_gradient(self, dgates: Array) -> Array:
        """See :meth:`Step.states_gradient`."""
        size = self._size
        forgets = dgates[:, self._of_children].reshape(-1, size)
        found = self._forget.gradient(forgets).reshape(len(dgates), -1, size)
        found += self._own.gradient(dgates[:, : 3 * size])[:, None]
        if self._parent is None:
            return found
        above = self._parent.gradient(self._of_parent(dgates))
        return np.concatenate([found, above[:, None]], axis=1)

    def weight_gradients(self, dgates: Array, h: Array) -> list[Array]:
        """See :meth:`Step.weight_gradients`."""
        size, children = self._size, h[:, : self._children]
        forgets = dgates[:, self._of_children].reshape(-1, size)
        found = [
            dgates[:, : 3 * size].T @ children.sum(axis=1),
            forgets.T @ children.reshape(-1, size),
        ]
        if self._parent is not None:
            found.append(self._of_parent(dgates).T @ h[:, -1])
        return found

    @property
    def _of_children(self) -> slice:
        return slice(3 * self._size, (3 + self._children) * self._size)

    def _of_parent(self, dgates: Array) -> Array:
        """Returns the part of the gates `[M, 4 H]` that the parent's state contributes to."""
        size = self._size
        return np.concatenate([dgates[:, : 3 * size], dgates[:, -size:]], axis=1)


class NaryStep(Step):
    """The N-ary step: every gate, forget gates too, from all sources, with weights by position.

    Args:
        table: see :class:`Step`.
        weight: `[(3 + S) H, S H]`.
    """

    def __init__(self, table: Array, weight: Array) -> None:
        rows, columns = weight.shape
        self._size = (rows - columns) // 3
        super().__init__(table, _node_places(self._size))
        self._weight = Weight(weight)

    def add_states(self, gates: Array, h: Array) -> None:
        """See :meth:`Step.add_states`."""
        gates += self._weight.of(h.reshape(len(h), -1))

    def states_gradient(self, dgates: Array) -> Array:
        """See :meth:`Step.states_gradient`."""
        return self._weight.gradient(dgates).reshape(len(dgates), -1, self._size)

    def weight_gradients(self, dgates: Array, h: Array) -> list[Array]:
        """See :meth:`Step.weight_gradients`."""
        return [dgates.T @ h.reshape(len(h), -1)]


def _blocks(size: int, count: int) -> list[slice]:
    return [slice(n * size, (n + 1) * size) for n in range(count)]


def _node_places(size: int) -> Places:
    """Returns the places of a node's gates: its forget gates stand last, one for each source."""
    i, o, u = _blocks(size, 3)
    return Places(i, o, u, slice(3 * size, None))
