"""The controller as it acts: probabilities of actions, in numpy and without gradients.

The tree-LSTM is read as in the update. The heads are written here once more, since they cost least
in numpy where few states are asked about (as :mod:`pathnas.controllers.lstm_steps` explains) and in
torch where the gradient is wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pathnas.actions import KINDS, MERGES, Actions
from pathnas.controllers.lstm_steps import Array, transposed
from pathnas.controllers.tree_lstm import TreeLSTM
from pathnas.envs.observation import QUESTIONS, decode


class FrozenPolicy:
    """The probabilities of actions as a controller's weights are now.

    Args:
        network: the tree-LSTM.
        heads: by the names that :class:`pathnas.controllers.policy.Controller` gives them.
        actions: the flat table of actions.
    """

    def __init__(self, network: TreeLSTM, heads: nn.ModuleDict, actions: Actions) -> None:
        self.actions = actions
        self._read = network.reader()
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
        features = self._read(decode(observations, self.actions))
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
    weights: list[Array] = [weight.detach().numpy() for weight in head.parameters()]
    first, first_bias, last, last_bias = weights
    first, last = transposed(first), transposed(last)

    def apply(features: Array) -> Array:
        hidden = features @ first
        hidden += first_bias
        return np.maximum(hidden, 0, out=hidden) @ last + last_bias

    return apply
