"""The controller as it acts: probabilities of actions, without gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pathnas.actions import Actions
from pathnas.controllers.heads import Heads, softmax
from pathnas.controllers.lstm_steps import Array
from pathnas.controllers.tree_lstm import TreeLSTM
from pathnas.envs.observation import decode


class FrozenPolicy:
    """The probabilities of actions as a controller's weights are now; they must not change.

    Args:
        network: the tree-LSTM.
        heads: by the names of :func:`pathnas.controllers.heads.outputs`.
        actions: the flat table of actions.
    """

    def __init__(self, network: TreeLSTM, heads: nn.ModuleDict, actions: Actions) -> None:
        self._actions = actions
        self._read = network.reader()
        self._heads = Heads(heads, actions)

    def __call__(self, observations: Mapping[str, Any], allowed: NDArray[np.bool_]) -> Array:
        """Returns the probabilities `[B, A]`, those of :meth:`.policy.Controller.forward`.

        Args:
            observations: the batch.
            allowed: `[B, A]` the actions that answer the question and that the mask allows; at
                least one in a row.

        Raises:
            ValueError: if a node has too many branches.
        """
        features = self._read(decode(observations, self._actions))
        logits, _ = self._heads.forward(features, observations["question"], allowed)
        return softmax(logits, allowed)
