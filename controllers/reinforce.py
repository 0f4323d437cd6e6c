"""REINFORCE: how a controller improves (paper, section 3.3; Williams, 1992).

The learner is an object of its own beside the controller, which it asks about the stored decisions
again, so no graph outlives an update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pathnas.actions import Actions
from pathnas.controllers.baselines import BASELINES, SELF_CRITICAL
from pathnas.controllers.policy import Controller
from pathnas.controllers.rollout import Episode, Greedy, distinct, rollout
from pathnas.decisions import Limits
from pathnas.envs.observation import Observed

MAX_REWARD = 1e30
"""Rewards of a larger magnitude are refused: their squares would overflow."""


class Reinforce:
    """Makes decisions that led to a reward above the baseline likelier.

    The loss is the mean over episodes of ``-sum_t ((R - b) log p(a_t) + entropy H_t)``; one forward
    and one backward pass an update.

    Args:
        controller: whose weights are improved, in place.
        learning_rate: of Adam.
        entropy: weight of the entropy in the first update.
        entropy_end: weight at the end of its schedule; None: as at first.
        entropy_updates: updates over which the weight goes there along a line.
        clip: largest norm of the gradient.
        baseline: a name in :data:`pathnas.controllers.baselines.BASELINES`.
        decay: of the baseline, in [0, 1].

    Raises:
        ValueError: if the baseline is unknown or a number is out of range.
    """

    epochs = 1
    """passes over the batch in an update"""

    def __init__(
        self,
        controller: Controller,
        *,
        learning_rate: float = 6e-3,
        entropy: float = 1e-2,
        entropy_end: float | None = None,
        entropy_updates: int = 100,
        clip: float = 40.0,
        baseline: str = "paper",
        decay: float = 0.95,
    ) -> None:
        end = entropy if entropy_end is None else entropy_end
        if baseline not in BASELINES:
            raise ValueError(f"baseline must be one of {sorted(BASELINES)}, got {baseline!r}")
        weights = 0 <= entropy < math.inf and 0 <= end < math.inf and entropy_updates >= 1
        if not (0 < learning_rate < math.inf and weights and 0 < clip < math.inf):
            raise ValueError(
                "learning_rate and clip must be finite and > 0, entropy and entropy_end >= 0, "
                f"entropy_updates >= 1, but got ({learning_rate=}, {clip=}, {entropy=}, "
                f"{entropy_end=}, {entropy_updates=})"
            )
        if not 0 <= decay <= 1:
            raise ValueError(f"decay must be in [0, 1], got {decay}")
        self.controller = controller
        self.entropy = entropy
        self.entropy_end = end
        self.entropy_updates = entropy_updates
        self.clip = clip
        self.baseline = baseline
        self.decay = decay
        self.value: float | None = None
        self.updates = 0
        self._parameters = list(controller.parameters())
        self._optimizer = torch.optim.Adam(self._parameters, lr=learning_rate, fused=True)

    def propose(self, limits: Limits, episodes: int, generator: torch.Generator) -> list[Episode]:
        """Returns episodes that the controller chose; see :func:`.rollout.rollout`.

        With the baseline ``self_critical`` the last one is chosen greedily.

        Raises:
            ValueError: if fewer than one episode is asked for, or than two with that baseline.
        """
        if self.baseline != SELF_CRITICAL:
            return rollout(self.controller, limits, episodes, generator)
        if episodes < 2:
            raise ValueError(f"expected at least two episodes, one of them greedy, got {episodes}")
        sampled = rollout(self.controller, limits, episodes - 1, generator)
        return sampled + rollout(Greedy(self.controller), limits, 1, generator)

    def entropy_weight(self) -> float:
        """Returns the weight of the entropy in the next update; the budget does not matter."""
        share = min(1.0, self.updates / self.entropy_updates)
        return self.entropy + share * (self.entropy_end - self.entropy)

    def update(self, episodes: Sequence[Episode], rewards: Sequence[float]) -> dict[str, float]:
        """Improves the controller by one step.

        Args:
            episodes: as :func:`pathnas.controllers.rollout.rollout` returns them.
            rewards: one for each, finite, at most :data:`MAX_REWARD` in magnitude.

        Returns:
            ``loss``; ``entropy`` (mean of a decision, nats); ``gradient_norm`` (before clipping);
            ``baseline`` (the one used); ``advantage_mean`` and ``advantage_std`` (over episodes);
            ``frequency/<action>``, its share among the decisions of its kind.

        Raises:
            ValueError: if there is no episode, not one reward for each, a reward is not finite or
                too large, or a stored action is one that its mask forbids. Nothing has changed.
        """
        checked = check_rewards(rewards, len(episodes))
        actions = np.concatenate([episode.actions for episode in episodes])
        # What several episodes saw alike is read once.
        states, rows = distinct([state for one in episodes for state in one.observations.states])
        seen = Observed(states, episodes[0].observations.limits)
        chosen, places = torch.from_numpy(actions), torch.tensor(rows)
        used, kept = BASELINES[self.baseline](self.value, checked, self.decay)
        advantages = checked - used
        # Large advantages would overflow in float32, so the gradient of the loss over a scale is
        # taken, and multiplied by the scale as it is clipped.
        scale = max(1.0, float(np.abs(advantages).max()))
        weights = np.repeat(advantages / scale, [len(episode.actions) for episode in episodes])
        old: Tensor | None = None
        metrics: dict[str, float] = {}
        for _ in range(self.epochs):
            distribution = self.controller(seen)
            log_probs = distribution.logits[places, chosen]
            if not bool(log_probs.isfinite().all()):
                raise ValueError("an episode holds an action that its mask forbids")
            old = log_probs.detach() if old is None else old
            entropy = distribution.entropy().index_select(0, places)
            gain = self._gain(torch.from_numpy(weights).to(log_probs), log_probs, old)
            gain = gain + self.entropy_weight() / scale * entropy
            loss = -gain.sum() / len(episodes)
            self._optimizer.zero_grad()
            loss.backward()
            norm = self._clip(scale)
            self._optimizer.step()
            metrics = metrics or {
                "loss": float(loss.detach()) * scale,
                "entropy": float(entropy.detach().mean()),
                "gradient_norm": norm,
            }
        self.value = kept
        self.updates += 1
        return {
            **metrics,
            "baseline": used,
            "advantage_mean": float(advantages.mean()),
            "advantage_std": float(advantages.std()),
            **frequencies(actions, self.controller.actions),
        }

    def _gain(self, advantages: Tensor, log_probs: Tensor, old: Tensor) -> Tensor:
        """Returns what is maximized beside the entropy, a value for each decision `[T]`.

        Args:
            advantages: `[T]`.
            log_probs: `[T]` of the chosen actions, now.
            old: `[T]` the same before the update; no gradient.
        """
        return advantages * log_probs

    def _clip(self, scale: float) -> float:
        """Multiplies the gradient by a scale and clips it; returns its norm before clipping."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients))
        factor = scale if norm * scale <= self.clip else self.clip / norm
        if factor != 1.0:
            torch._foreach_mul_(gradients, factor)
        return norm * scale

    def state_dict(self) -> dict[str, Any]:
        """Returns all that an exact resume needs: weights, optimizer, baseline, number of updates.

        ``torch.load(weights_only=True)`` reads it back.
        """
        return {
            "controller": self.controller.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "baseline": {"name": self.baseline, "value": self.value},
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what :meth:`state_dict` returned.

        Raises:
            ValueError: if the state is of another kind of baseline.
            RuntimeError: if the weights do not fit the controller.
        """
        if state["baseline"]["name"] != self.baseline:
            raise ValueError(
                f"the state is of a learner with baseline {state['baseline']['name']!r}, this one "
                f"has {self.baseline!r}"
            )
        self.controller.load_state_dict(state["controller"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.value = state["baseline"]["value"]
        self.updates = state["updates"]


class NoLearning:
    """The learner of the control: leaves its controller as it is.

    Args:
        controller: any policy.
        actions: the flat table of actions.
    """

    def __init__(self, controller: Any, actions: Actions) -> None:
        self.controller = controller
        self.actions = actions

    def propose(self, limits: Limits, episodes: int, generator: torch.Generator) -> list[Episode]:
        """Returns episodes that the controller chose; see :func:`.rollout.rollout`."""
        return rollout(self.controller, limits, episodes, generator)

    def update(self, episodes: Sequence[Episode], rewards: Sequence[float]) -> dict[str, float]:
        """Returns the action frequencies of :meth:`Reinforce.update`, and changes nothing.

        Raises:
            ValueError: as :meth:`Reinforce.update` does for the rewards.
        """
        check_rewards(rewards, len(episodes))
        actions = np.concatenate([episode.actions for episode in episodes])
        return frequencies(actions, self.actions)

    def state_dict(self) -> dict[str, Any]:
        """Returns an empty state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over an empty state.

        Raises:
            ValueError: if the state is not empty, and so of another learner.
        """
        if state:
            raise ValueError(f"the control has no state, got one with {sorted(state)}")


def frequencies(chosen: NDArray[np.int64], actions: Actions) -> dict[str, float]:
    """Returns each action's share among the decisions of its kind; 0 if there was none.

    Args:
        chosen: `[T]` actions.
        actions: the flat table of actions.
    """
    counts = np.bincount(chosen, minlength=len(actions))
    shares = {}
    for answers in actions.of.values():
        total = max(1, int(counts[answers.start : answers.stop].sum()))
        for action in answers:
            shares[f"frequency/{actions.names[action]}"] = float(counts[action] / total)
    return shares


def check_rewards(rewards: Sequence[float], episodes: int) -> NDArray[np.float64]:
    """Returns the rewards of some episodes as an array `[B]`.

    Raises:
        ValueError: if there is no episode, not one reward for each, or one is not finite or larger
            than :data:`MAX_REWARD`.
    """
    checked = np.asarray(rewards, dtype=np.float64)
    if episodes < 1 or checked.shape != (episodes,):
        raise ValueError(
            f"expected at least one episode and one reward for each, got {episodes} episodes and "
            f"rewards of shape {checked.shape}"
        )
    if not (np.abs(checked) <= MAX_REWARD).all():
        raise ValueError(f"rewards must be finite and within +-{MAX_REWARD:g}, got {rewards}")
    return checked
