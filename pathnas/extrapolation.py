"""Where a learning curve is going: a power law through the losses of its epochs.

``loss(t) = c + a t^-alpha``, the form "pow3" of Domhan et al., "Speeding up automatic
hyperparameter optimization of deep neural networks by extrapolation of learning curves", 2015;
Viering and Loog, "The shape of learning curves: a review", 2022, compare it with others. Nothing is
drawn or iterated: for each of a few exponents, the `a` and `c` of least squares that are not
negative have a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

EXPONENTS = (0.125, 0.25, 0.5, 1.0, 2.0)
"""Those that are tried; the first of equally good ones counts."""

LEAST = 3
"""Epochs that a curve must have, since any two lie on many power laws."""


def power_law(losses: Sequence[float], epoch: int) -> float:
    """Returns the loss that a power law through a curve expects of a later epoch.

    Args:
        losses: of the epochs, from the first; what is below 0 counts as 0. Of fewer than
            :data:`LEAST` epochs, the last loss is what is expected.
        epoch: from 1; one that the curve has passed stands for its last.

    Returns:
        A finite number, from 0 to the highest loss.

    Raises:
        ValueError: if there is no loss, or one is not finite.
    """
    y = np.array(losses, dtype=np.float64).clip(min=0)
    if not len(y) or not np.isfinite(y).all():
        raise ValueError(f"expected finite losses of at least one epoch, got {list(losses)}")
    highest = float(y.max())
    if len(y) < LEAST or highest == 0:
        return float(y[-1])
    y /= highest  # squares of large losses would not be finite
    t = np.arange(1.0, len(y) + 1)
    found = [(*_least_squares(t**-alpha, y), alpha) for alpha in EXPONENTS]
    _, c, a, alpha = min(found, key=lambda one: one[0])
    return highest * min(1.0, c + a * float(max(epoch, len(y))) ** -alpha)


def _least_squares(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Returns the sum of squares, intercept and slope of the best line with neither below 0."""
    centred = x - x.mean()
    slope = max(0.0, float(centred @ y / (centred @ centred)))
    intercept = float(y.mean() - slope * x.mean())
    if intercept < 0:
        slope, intercept = float(x @ y / (x @ x)), 0.0
    residuals = y - intercept - slope * x
    return float(residuals @ residuals), intercept, slope
