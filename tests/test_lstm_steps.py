"""Each step's gradients against finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from pathnas.controllers.lstm_steps import ChildSumStep, EdgeStep, NaryStep, Step

H, M, INPUTS = 3, 5, 4

KINDS: dict[str, tuple[type[Any], int, list[tuple[int, int]]]] = {
    "edge": (EdgeStep, 1, [(4 * H, H)]),
    "child-sum": (ChildSumStep, 3, [(3 * H, H), (H, H)]),
    "child-sum with a parent": (ChildSumStep, 4, [(3 * H, H), (H, H), (4 * H, H)]),
    "N-ary": (NaryStep, 3, [(6 * H, 3 * H)]),
}
"""The class, the number of sources, and the shapes of the weights."""


def differences(value: Callable[[], float], array: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Returns the gradient of a value that depends on an array, which is changed meanwhile."""
    found = np.empty_like(array)
    for place in np.ndindex(array.shape):
        kept = array[place]
        sides = []
        for moved in (kept + step, kept - step):
            array[place] = moved
            sides.append(value())
        array[place] = kept
        found[place] = (sides[0] - sides[1]) / (2 * step)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    build, sources, shapes = KINDS[kind]
    draw = np.random.default_rng(0)
    width = (3 + sources) * H
    table = draw.normal(size=(INPUTS, width))
    weights = [draw.normal(size=shape) for shape in shapes]
    inputs = draw.integers(0, INPUTS, M)
    h, c = draw.normal(size=(2, M, sources, H))
    dh, dc = draw.normal(size=(2, M, H))
    step: Step = build(table, *weights)

    def value() -> float:
        new = build(table, *weights).forward(table[inputs], h, c)
        return float((dh * new[0]).sum() + (dc * new[1]).sum())

    gates = table[inputs]
    _, state = step.forward(gates, h, c)
    dgates, *of_states = step.backward(gates, c, state, dh, dc)
    ours = [
        *of_states,
        step.table_gradient(dgates, inputs),
        *step.weight_gradients(dgates, h),
    ]
    for found, array in zip(ours, [h, c, table, *weights], strict=True):
        np.testing.assert_allclose(found, differences(value, array), rtol=1e-5, atol=1e-7)
