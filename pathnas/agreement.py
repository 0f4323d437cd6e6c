"""How far two ways of scoring the same things rank them alike, and what of a score is noise.

Kendall's tau counts pairs: 1 if all stand in the same order in both scores, 0 if no more than by
chance, -1 if all are reversed. Here it is tau-b, which leaves out what is tied (Kendall, 1945).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

DRAWS = 5000
"""Of a bootstrap."""

LEVEL = 0.95
"""Of confidence intervals."""

Scores = NDArray[np.float64]
"""`[N, S]`: of N things, S independent scores each."""


@dataclass(frozen=True)
class Agreement:
    """Kendall's tau of one score with another.

    Attributes:
        tau: in [-1, 1].
        low: lower end of its interval of :data:`LEVEL`.
        high: upper end.
        strict: the lower end that allows for as many tests as were done.
    """

    tau: float
    low: float
    high: float
    strict: float


@dataclass(frozen=True)
class Spread:
    """What scores vary by, as standard deviations.

    Attributes:
        mean: of all scores.
        things: between the things, with what seeds add taken out.
        seeds: between scores of one thing.
    """

    mean: float
    things: float
    seeds: float


def between(first: Scores, second: Scores, *, seed: int, tests: int = 1) -> Agreement:
    """Returns how one score of the first kind agrees with one of the second.

    Tau is the mean over all pairs of a column of each; things are what the bootstrap draws.

    Args:
        first: `[N, S]`, N >= 2.
        second: `[N, T]` of the same things.
        seed: of the bootstrap.
        tests: how many such intervals a decision looks at; see :attr:`Agreement.strict`.

    Raises:
        ValueError: if the two are not of the same things.
    """
    if first.ndim != 2 or second.ndim != 2 or len(first) != len(second) or len(first) < 2:
        raise ValueError(
            f"expected scores [N, S] and [N, T] of the same N >= 2 things, got shapes "
            f"{first.shape} and {second.shape}"
        )
    pairs = product(range(first.shape[1]), range(second.shape[1]))
    return _agreement(_signs(first), _signs(second), list(pairs), seed, tests)


def within(scores: Scores, *, seed: int, tests: int = 1) -> Agreement:
    """Returns how two scores of one kind agree: no other score can agree better than by chance.

    Args:
        scores: `[N, S]`, N >= 2, S >= 2.
        seed: see :func:`between`, as for `tests`.
        tests: see there.

    Raises:
        ValueError: if there are fewer than two scores.
    """
    if scores.ndim != 2 or min(scores.shape) < 2:
        raise ValueError(f"expected scores [N, S] with N >= 2 and S >= 2, got shape {scores.shape}")
    signs = _signs(scores)
    return _agreement(signs, signs, list(combinations(range(scores.shape[1]), 2)), seed, tests)


def spread(scores: Scores) -> Spread:
    """Returns what the scores vary by (analysis of variance with random effects, one way).

    Args:
        scores: `[N, S]`, N >= 2, S >= 2.
    """
    of_seeds = float(scores.var(axis=1, ddof=1).mean())
    of_means = float(scores.mean(axis=1).var(ddof=1))
    of_things = max(0.0, of_means - of_seeds / scores.shape[1])
    return Spread(float(scores.mean()), of_things**0.5, of_seeds**0.5)


def _signs(scores: Scores) -> NDArray[np.float64]:
    """The order of every two things in every score, `[S, N, N]` of -1, 0, 1."""
    columns = scores.T
    return np.sign(columns[:, :, None] - columns[:, None, :])


def _agreement(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    pairs: Sequence[tuple[int, int]],
    seed: int,
    tests: int,
) -> Agreement:
    n = first.shape[1]
    drawn = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), DRAWS)
    taus = _taus(first, second, pairs, drawn.astype(np.float64))
    [tau] = _taus(first, second, pairs, np.ones((1, n)))
    tail = (1 - LEVEL) / 2
    low, high, strict = np.quantile(taus, [tail, 1 - tail, tail / tests])
    return Agreement(float(tau), float(low), float(high), float(strict))


def _taus(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    pairs: Sequence[tuple[int, int]],
    weights: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Tau for each row of weights `[R, N]`, which tell how often a thing is there; `[R]`.

    A thing that is there twice is tied with itself, and tau-b leaves ties out.
    """

    def total(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = ((weights @ matrix) * weights).sum(axis=1)
        return found

    found = np.zeros(len(weights))
    for one, other in pairs:
        a, b = first[one], second[other]
        untied = np.sqrt(total(np.abs(a)) * total(np.abs(b)))
        found += np.divide(total(a * b), untied, out=np.zeros(len(weights)), where=untied > 0)
    return found / len(pairs)
