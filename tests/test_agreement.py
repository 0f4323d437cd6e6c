"""Kendall's tau with its interval, against scipy, and the components of variance."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import kendalltau

from pathnas import agreement

SCORES = arrays(np.float64, (6, 2), elements=st.integers(0, 4).map(float))


def mean_tau(first: np.ndarray, second: np.ndarray, pairs: list[tuple[int, int]]) -> float:
    found = [kendalltau(first[:, i], second[:, j]).statistic for i, j in pairs]
    return float(np.mean(np.nan_to_num(found)))


@settings(max_examples=30)
@given(SCORES, SCORES)
def test_tau_is_that_of_scipy_over_all_pairs_of_columns(
    first: np.ndarray, second: np.ndarray
) -> None:
    pairs = list(product(range(2), repeat=2))
    found = agreement.between(first, second, seed=0)
    assert found.tau == pytest.approx(mean_tau(first, second, pairs))
    assert -1 <= found.low <= found.high <= 1 + 1e-9
    assert agreement.between(second, first, seed=0).tau == pytest.approx(found.tau)


def test_the_ceiling_compares_every_two_seeds_once() -> None:
    scores = np.random.default_rng(0).normal(size=(12, 3))
    expected = mean_tau(scores, scores, list(combinations(range(3), 2)))
    assert agreement.within(scores, seed=0).tau == pytest.approx(expected)


def test_a_perfect_score_has_tau_1_and_one_that_ties_all_has_tau_0() -> None:
    scores = np.arange(10.0)[:, None]
    perfect = agreement.between(scores, scores**3, seed=0)
    assert perfect.tau == perfect.low == perfect.high == pytest.approx(1)
    assert agreement.between(scores, np.ones((10, 1)), seed=0).tau == 0


def test_intervals_cover_the_truth_and_the_strict_end_lies_below() -> None:
    """For normal scores of correlation r, tau is 2 / pi asin r (Greiner)."""
    generator, covered = np.random.default_rng(1), 0
    truth = 2 / np.pi * np.arcsin(0.6)
    for seed in range(40):
        x = generator.normal(size=(30, 1))
        y = 0.6 * x + 0.8 * generator.normal(size=(30, 1))
        found = agreement.between(x, y, seed=seed, tests=6)
        assert found.strict < found.low < found.tau < found.high
        covered += found.low <= truth <= found.high
    assert covered >= 34  # of 38 expected


def test_equal_seeds_draw_the_same_interval() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 20, 1))
    assert agreement.between(x, y, seed=3) == agreement.between(x, y, seed=3)
    assert agreement.between(x, y, seed=3) != agreement.between(x, y, seed=4)


def test_spread_takes_what_seeds_add_out_of_what_things_differ_by() -> None:
    generator = np.random.default_rng(0)
    things = 3.0 * generator.normal(size=(2000, 1))
    found = agreement.spread(5 + things + 2.0 * generator.normal(size=(2000, 2)))
    assert found.mean == pytest.approx(5, abs=0.2)
    assert (found.things, found.seeds) == pytest.approx((3, 2), rel=0.05)
    assert agreement.spread(np.array([[0.0, 1.0], [1.0, 0.0]])).things == 0


def test_scores_of_other_things_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got shapes \(3, 1\) and \(4, 1\)"):
        agreement.between(np.zeros((3, 1)), np.zeros((4, 1)), seed=0)
    with pytest.raises(ValueError, match=r"got shape \(3, 1\)"):
        agreement.within(np.zeros((3, 1)), seed=0)
