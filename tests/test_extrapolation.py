"""Power laws through learning curves."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from pathnas.extrapolation import EXPONENTS, LEAST, power_law

LOSSES = st.lists(st.floats(0, 1e308), min_size=1, max_size=12)


@given(
    c=st.floats(0, 5),
    a=st.floats(0.01, 5),
    alpha=st.sampled_from(EXPONENTS),
    epochs=st.integers(LEAST, 12),
    later=st.integers(1, 500),
)
def test_a_power_law_is_continued(
    c: float, a: float, alpha: float, epochs: int, later: int
) -> None:
    curve = [c + a * t**-alpha for t in range(1, epochs + 1)]
    expected = c + a * max(epochs, later) ** -alpha
    assert power_law(curve, later) == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(losses=LOSSES, epoch=st.integers(1, 10**6))
def test_any_losses_give_a_finite_one_that_is_no_higher(losses: list[float], epoch: int) -> None:
    found = power_law(losses, epoch)
    assert math.isfinite(found) and 0 <= found <= max(losses)


@given(losses=LOSSES, epoch=st.integers(1, 1000))
def test_what_is_expected_never_rises_with_the_epochs(losses: list[float], epoch: int) -> None:
    slack = 1e-12 * max(losses)
    assert power_law(losses, epoch + 1) <= power_law(losses, epoch) + slack


@given(losses=st.lists(st.floats(0.01, 10), min_size=LEAST, max_size=12), epoch=st.integers(1, 99))
def test_it_is_the_best_of_the_exponents_least_squares(losses: list[float], epoch: int) -> None:
    t = np.arange(1, len(losses) + 1.0)
    fits = []
    for alpha in EXPONENTS:
        (c, a), residual = nnls(np.stack([np.ones_like(t), t**-alpha], axis=1), np.array(losses))
        fits.append((residual, c + a * max(epoch, len(losses)) ** -alpha))
    found = power_law(losses, epoch)
    best = min(residual for residual, _ in fits)
    near = [value for residual, value in fits if residual <= best + 1e-6 * max(losses)]
    assert min(abs(found - value) for value in near) <= 1e-4 * max(losses)


def test_curves_that_are_too_short_stay_where_they_are() -> None:
    assert power_law([2.0], 40) == 2.0 and power_law([2.0, 1.0], 40) == 1.0
    assert power_law([2.0, 1.0, 2 / 3], 40) == pytest.approx(2 / 40)


def test_curves_of_other_shapes_have_an_answer_too() -> None:
    assert power_law([1.0, 2.0, 3.0], 40) == pytest.approx(2.0)  # it does not fall: the mean
    assert power_law([-1.0, -1.0, -2.0], 40) == 0.0


@pytest.mark.parametrize("losses", [[], [1.0, float("nan")], [float("inf")]])
def test_what_is_no_curve_is_refused(losses: list[float]) -> None:
    with pytest.raises(ValueError, match="expected finite losses of at least one epoch"):
        power_law(losses, 3)
