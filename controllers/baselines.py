"""Baselines: what REINFORCE takes from the rewards."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Baseline = Callable[[float | None, NDArray[np.float64], float], tuple[float, float]]
"""From the value so far (None at first), the batch's rewards `[B]` and `decay` to the baseline that
this update uses and the value that is kept."""

SELF_CRITICAL = "self_critical"
"""The baseline that needs a batch whose last episode was chosen greedily."""


def _paper(value: float | None, rewards: NDArray[np.float64], decay: float) -> tuple[float, float]:
    mean = float(rewards.mean())
    moved = mean if value is None else value + decay * (mean - value)
    return moved, moved


def _batch_mean(
    value: float | None, rewards: NDArray[np.float64], decay: float
) -> tuple[float, float]:
    mean = float(rewards.mean())
    return mean, mean


def _moving_average(
    value: float | None, rewards: NDArray[np.float64], decay: float
) -> tuple[float, float]:
    mean = float(rewards.mean())
    if value is None:
        return mean, mean
    return value, decay * value + (1 - decay) * mean


def _self_critical(
    value: float | None, rewards: NDArray[np.float64], decay: float
) -> tuple[float, float]:
    return float(rewards[-1]), float(rewards[-1])


def _none(value: float | None, rewards: NDArray[np.float64], decay: float) -> tuple[float, float]:
    return 0.0, 0.0


BASELINES: dict[str, Baseline] = {
    "paper": _paper,
    "batch_mean": _batch_mean,
    "moving_average": _moving_average,
    SELF_CRITICAL: _self_critical,
    "none": _none,
}
"""What is taken from the rewards, by name. All but the last two start at the first batch's mean.

- ``paper``: moves by `decay` of the distance to the batch's mean, *before* it is used: with 0.95
  nearly the batch's mean.
- ``batch_mean``: the batch's mean.
- ``moving_average``: the value before this batch; `decay` is how much of it is kept.
- ``self_critical``: the reward of the batch's last episode, in which the controller always took
  its likeliest action (Rennie et al., 2017). That episode's own advantage is zero.
- ``none``: zero.
"""
