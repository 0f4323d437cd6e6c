"""Baselines: what REINFORCE takes from the rewards."""

from __future__ import annotations

from collections.abc import Callable

Baseline = Callable[[float | None, float, float], tuple[float, float]]
"""From the value so far (None at first), the batch's mean reward and `decay` to the baseline that
this update uses and the value that is kept."""


def _paper(value: float | None, mean: float, decay: float) -> tuple[float, float]:
    moved = mean if value is None else value + decay * (mean - value)
    return moved, moved


def _batch_mean(value: float | None, mean: float, decay: float) -> tuple[float, float]:
    return mean, mean


def _moving_average(value: float | None, mean: float, decay: float) -> tuple[float, float]:
    if value is None:
        return mean, mean
    return value, decay * value + (1 - decay) * mean


def _none(value: float | None, mean: float, decay: float) -> tuple[float, float]:
    return 0.0, 0.0


BASELINES: dict[str, Baseline] = {
    "paper": _paper,
    "batch_mean": _batch_mean,
    "moving_average": _moving_average,
    "none": _none,
}
"""What is taken from the rewards, by name. All but ``none`` start at the first batch's mean.

- ``paper``: moves by `decay` of the distance to the batch's mean, *before* it is used: with 0.95
  nearly the batch's mean.
- ``batch_mean``: the batch's mean.
- ``moving_average``: the value before this batch; `decay` is how much of it is kept.
- ``none``: zero.
"""
