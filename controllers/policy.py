"""Controllers: from observations to a distribution over the actions that the mask allows.

A rollout samples from ``controller.frozen()``, which takes no gradients; the update calls
``controller(observations)`` on what was stored.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Categorical

from pathnas.actions import KINDS, Actions
from pathnas.controllers.frozen import FrozenPolicy
from pathnas.controllers.heads import Heads, outputs
from pathnas.controllers.tree_lstm import TreeLSTM, linear
from pathnas.decisions import Limits, State
from pathnas.envs.observation import QUESTIONS, Observed
from pathnas.tree import Node

Observations = Mapping[str, Any]
"""The arrays of :func:`pathnas.envs.observation.encode` for a batch, stacked: `[B, ...]`; best as
:class:`pathnas.envs.observation.Observed`, which spares writing and reading them."""

Policy = Callable[[Observations], NDArray[np.floating[Any]]]
"""From a batch of observations to the probabilities of the flat table of actions, `[B, A]`."""


class Acting(Protocol):
    """What can be rolled out."""

    def frozen(self) -> Policy:
        """Returns the policy as it is now; it is called many times without a change."""
        ...


class MaskedCategorical(Categorical):
    """A categorical distribution whose logits may be minus infinity.

    torch's own entropy multiplies such logits, clamped, with zero: its gradient overflows as soon
    as the entropy's weight is above 1.
    """

    def entropy(self) -> Tensor:
        """Returns the entropy in nats, `[B]`; 0 where a single action is allowed."""
        finite = self.logits.masked_fill(self.logits == -torch.inf, 0.0)
        return -(finite * self.probs).sum(dim=-1)


def masked(logits: Tensor, allowed: Tensor) -> MaskedCategorical:
    """Returns the distribution over the allowed actions; others have probability 0, gradient 0.

    Args:
        logits: `[B, A]` finite.
        allowed: `[B, A]` bool.

    Raises:
        ValueError: if a row allows nothing.
    """
    require_some(allowed.numpy())
    return MaskedCategorical(logits=logits.masked_fill(~allowed, -torch.inf), validate_args=False)


def require_some(allowed: NDArray[np.bool_]) -> None:
    """Checks that every row of `[B, A]` allows an action.

    Raises:
        ValueError: if a row allows nothing.
    """
    some = allowed.any(axis=1)
    if not some.all():
        rows = np.flatnonzero(~some).tolist()
        raise ValueError(f"the mask must allow at least one action, got none in rows {rows}")


def allowed_actions(observations: Observations, actions: Actions) -> NDArray[np.bool_]:
    """Returns where the mask allows an action, `[B, A]` bool.

    Raises:
        ValueError: if the mask is not as wide as the table of actions.
    """
    mask: NDArray[np.bool_] = observations["action_mask"] != 0
    if mask.ndim != 2 or mask.shape[1] != len(actions):
        raise ValueError(
            f"expected masks [B, {len(actions)}] for the actions {actions.names}, got "
            f"{list(mask.shape)}"
        )
    return mask


class Controller(nn.Module):
    """The paper's controller: a tree-LSTM and one head for each kind of decision.

    The number of a merge's branches is decided by a head of its own (see
    :mod:`pathnas.controllers.heads`), and the entropy is that of the joint. When the episode is
    done and nothing is asked, the distribution is uniform over what the mask allows.

    Args:
        actions: the flat table of actions.
        embedding: size of the embeddings of operations and of node types.
        hidden: size of the tree-LSTM's state in each direction.
        head: hidden units of each head.
        seed: of the initial weights; torch's global random state is neither read nor changed.
    """

    def __init__(
        self,
        actions: Actions | None = None,
        *,
        embedding: int = 10,
        hidden: int = 100,
        head: int = 500,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.actions = actions or Actions()
        generator = torch.Generator().manual_seed(seed)
        self.tree_lstm = TreeLSTM(self.actions, embedding, hidden, generator)
        self.heads = nn.ModuleDict(
            {
                kind: _head(2 * hidden, head, n, generator)
                for kind, n in outputs(self.actions).items()
            }
        )
        self._answers = _answers(self.actions)

    def frozen(self) -> Policy:
        """Returns the same policy as it acts while its weights do not change.

        It takes no gradients, and remembers what it has read: the subtrees of one call are not
        read again in the next.
        """
        frozen = FrozenPolicy(self.tree_lstm, self.heads, self.actions)

        return lambda observations: frozen(observations, self._allowed(observations))

    def forward(self, observations: Observations) -> MaskedCategorical:
        """Returns the distribution over the flat table of actions, `[B, A]`.

        Args:
            observations: the batch.

        Raises:
            ValueError: if a row's mask allows no answer to its question, the mask is not as wide
                as the table of actions, or a node has more branches than any merge makes.
        """
        allowed = self._allowed(observations)
        features = self.tree_lstm(observations)
        asked = Heads(self.heads, self.actions), observations["question"], allowed
        logits: Tensor = _Answer.apply(features, asked, *self.heads.parameters())
        return masked(logits, torch.from_numpy(allowed))

    def _allowed(self, observations: Observations) -> NDArray[np.bool_]:
        """Returns what answers the question and is allowed, `[B, A]`; something in every row."""
        answers = self._answers[observations["question"]]
        allowed = allowed_actions(observations, self.actions) & answers
        require_some(allowed)
        return allowed

    @torch.inference_mode()
    def encode(self, trees: Sequence[Node], limits: Limits) -> Tensor:
        """Returns how the tree-LSTM reads whole trees: the root's state bottom-up, `[N, hidden]`.

        Args:
            trees: at least one.
            limits: under which they may stand.
        """
        observations = Observed([State(tree, ()) for tree in trees], limits)
        features: Tensor = self.tree_lstm(observations)
        return features[:, : self.tree_lstm.hidden]


class _Answer(torch.autograd.Function):
    """What the heads compute, as one operation of torch's graph."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        asked: tuple[Heads, NDArray[np.int64], NDArray[np.bool_]],
        *weights: Tensor,
    ) -> Tensor:
        ctx.heads, question, allowed = asked
        logits, ctx.asked = ctx.heads.forward(features.detach().numpy(), question, allowed)
        ctx.save_for_backward(*weights)
        return torch.from_numpy(logits)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dlogits: Tensor) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises if a weight, which the heads share, has changed since
        dfeatures, of_weights = ctx.heads.backward(ctx.asked, dlogits.numpy())
        found: list[Tensor | None] = [torch.from_numpy(dfeatures), None]
        for name in ctx.heads.names:
            own = of_weights.get(name)
            found += [None] * 4 if own is None else map(torch.from_numpy, own)
        return tuple(found)


def _answers(actions: Actions) -> NDArray[np.bool_]:
    """Returns which actions answer which question, `[questions, A]`; any, when none is asked."""
    table = np.ones((len(QUESTIONS), len(actions)), dtype=np.bool_)
    for kind in KINDS:
        row = table[QUESTIONS.index(kind)]
        row[:] = False
        row[actions.of[kind].start : actions.of[kind].stop] = True
    return table


def _head(inputs: int, hidden: int, outputs: int, generator: torch.Generator) -> nn.Sequential:
    return nn.Sequential(
        linear(inputs, hidden, generator), nn.ReLU(), linear(hidden, outputs, generator)
    )
