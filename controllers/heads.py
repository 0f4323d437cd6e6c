"""The heads of the controller on arrays, forward and backward: from features to logits.

In numpy for the reasons of :mod:`pathnas.controllers.lstm_steps`. Each kind of decision has a head
with one hidden layer. A merge is decided first (keep, add, concat), then the number of branches by
a head of its own: ``log p(add2) = log p(add) + log p(2 | add)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pathnas.actions import KINDS, MERGES, Actions, Kind
from pathnas.controllers.lstm_steps import Array, Weight
from pathnas.envs.observation import QUESTIONS

MERGE_NAMES = tuple(dict.fromkeys(merge for merge, _ in MERGES))
"""What the head of merges decides between, beside keeping the single branch."""


def outputs(actions: Actions) -> dict[str, int]:
    """Returns how many numbers each head yields."""
    return {
        "merge": 1 + len(MERGE_NAMES),
        "number": len(MERGES),
        "insert": len(actions.of["insert"]),
        "op": len(actions.of["op"]),
    }


class Head:
    """A hidden layer with ReLU, and a linear one.

    Args:
        weights: `[U, I]`, `[U]`, `[O, U]`, `[O]`, of U hidden units.
    """

    def __init__(self, *weights: Array) -> None:
        first, self._first_bias, last, self._last_bias = weights
        self._first, self._last = Weight(first), Weight(last)

    def forward(self, features: Array) -> tuple[Array, Array]:
        """Maps features `[M, I]` to scores `[M, O]`, and returns the hidden units `[M, U]` too."""
        hidden = self._first.of(features)
        hidden += self._first_bias
        np.maximum(hidden, 0, out=hidden)
        scores = self._last.of(hidden)
        scores += self._last_bias
        return scores, hidden

    def backward(
        self, features: Array, hidden: Array, dscores: Array
    ) -> tuple[Array, tuple[Array, ...]]:
        """Returns the gradients of the features, and of the weights in the order of those."""
        dhidden = self._last.gradient(dscores)
        dhidden *= hidden > 0
        of_weights = (
            dhidden.T @ features,
            dhidden.sum(axis=0),
            dscores.T @ hidden,
            dscores.sum(axis=0),
        )
        return self._first.gradient(dhidden), of_weights


class Asked(NamedTuple):
    """What the gradient needs of the rows that one kind of question is asked in.

    Attributes:
        rows: `[M]`.
        features: `[M, I]`.
        hidden: by head, `[M, U]`.
        given: `[M, merges]` the probability of each entry of ``MERGES`` given its kind; of other
            questions, empty.
    """

    rows: NDArray[np.intp]
    features: Array
    hidden: dict[str, Array]
    given: Array


class Heads:
    """All heads, whose weights must not change meanwhile.

    Attributes:
        names: of the heads, in order.

    Args:
        modules: by the names of :func:`outputs`.
        actions: the flat table of actions.
    """

    def __init__(self, modules: nn.ModuleDict, actions: Actions) -> None:
        self._actions = actions
        self.names = tuple(modules)
        self._inputs = next(modules.parameters()).shape[1]
        self._heads = {
            name: Head(*(weight.detach().numpy() for weight in head.parameters()))
            for name, head in modules.items()
        }

    def forward(
        self, features: Array, question: NDArray[np.int64], allowed: NDArray[np.bool_]
    ) -> tuple[Array, dict[Kind, Asked]]:
        """Maps features to the logits of the flat table, `[B, A]`; 0 for what is not answered.

        Args:
            features: `[B, I]`.
            question: `[B]` codes of :data:`pathnas.envs.observation.QUESTIONS`.
            allowed: `[B, A]`.
        """
        logits = np.zeros(allowed.shape, dtype=features.dtype)
        asked: dict[Kind, Asked] = {}
        for kind in KINDS:
            [rows] = (question == QUESTIONS.index(kind)).nonzero()
            if len(rows):
                own = features[rows]
                answers = slice(self._actions.of[kind].start, self._actions.of[kind].stop)
                scores, hidden = self._heads[kind].forward(own)
                found = Asked(rows, own, {kind: hidden}, scores[:, :0])
                if kind == "merge":
                    number, found.hidden["number"] = self._heads["number"].forward(own)
                    scores, given = _merge_logits(scores, number, allowed[rows, answers])
                    found = found._replace(given=given)
                logits[rows, answers] = scores
                asked[kind] = found
        return logits, asked

    def backward(
        self, asked: Mapping[Kind, Asked], dlogits: Array
    ) -> tuple[Array, dict[str, tuple[Array, ...]]]:
        """Returns the gradients of the features `[B, I]`, and by head of its weights.

        Args:
            asked: as :meth:`forward` returned it.
            dlogits: of the logits `[B, A]`; 0 where an action is not allowed.
        """
        dfeatures = np.zeros((len(dlogits), self._inputs), dtype=dlogits.dtype)
        of_weights: dict[str, tuple[Array, ...]] = {}
        for kind, own in asked.items():
            answers = self._actions.of[kind]
            dscores = dlogits[own.rows, answers.start : answers.stop]
            parts: dict[str, Array] = {kind: dscores}
            if kind == "merge":
                parts["merge"], parts["number"] = _merge_gradients(dscores, own.given)
            for name, part in parts.items():
                head = self._heads[name]
                found, of_weights[name] = head.backward(own.features, own.hidden[name], part)
                dfeatures[own.rows] += found
        return dfeatures, of_weights


_ENTRIES = [[p for p, (name, _) in enumerate(MERGES) if name == merge] for merge in MERGE_NAMES]
"""By name of a merge, its places in ``MERGES``."""

_OF_ENTRY = [1 + MERGE_NAMES.index(name) for name, _ in MERGES]
"""By place in ``MERGES``, the column of its name among the scores of merges."""


def _merge_logits(scores: Array, number: Array, allowed: NDArray[np.bool_]) -> tuple[Array, Array]:
    """Returns the logits of keep and of each entry of ``MERGES``, and what entries are given.

    Args:
        scores: `[M, 1 + names]` of keep and of each name of a merge.
        number: `[M, merges]` of the number of branches.
        allowed: `[M, 1 + merges]`.

    Returns:
        Logits `[M, 1 + merges]`, of no meaning where not allowed; the probabilities `[M, merges]`
        of the entries given their names, 0 where not allowed.
    """
    logits = scores[:, [0, *_OF_ENTRY]]
    given = allowed[:, 1:].astype(number.dtype)  # 1 where a name has one entry
    for places in _ENTRIES:
        if len(places) > 1:
            given[:, places] = softmax(number[:, places], allowed[:, 1:][:, places])
    logits[:, 1:] += np.log(np.maximum(given, np.finfo(given.dtype).tiny))
    return logits, given


def _merge_gradients(dlogits: Array, given: Array) -> tuple[Array, Array]:
    """Returns the gradients of the two heads' scores of :func:`_merge_logits`."""
    of_entries = dlogits[:, 1:]
    dscores = np.empty((len(dlogits), 1 + len(MERGE_NAMES)), dtype=dlogits.dtype)
    dscores[:, 0] = dlogits[:, 0]
    for column, places in enumerate(_ENTRIES, start=1):
        dscores[:, column] = of_entries[:, places].sum(axis=1)
    return dscores, of_entries - given * dscores[:, _OF_ENTRY]


def softmax(logits: Array, allowed: NDArray[np.bool_]) -> Array:
    """Returns probabilities of the allowed entries, 0 elsewhere; of a row without any all 0."""
    logits = np.where(allowed, logits, -np.inf)
    highest = logits.max(axis=1, keepdims=True)
    weights = np.exp(logits - np.where(highest > -np.inf, highest, 0))
    return weights / np.maximum(weights.sum(axis=1, keepdims=True), np.finfo(weights.dtype).tiny)
