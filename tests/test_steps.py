"""Steps of every kind: dictionaries go round, and each says whether it is exact by law."""

from __future__ import annotations

import json

import pytest

from pathnas import steps
from pathnas.layers import Deepen, Widen
from pathnas.steps import Step
from pathnas.transforms import Birth, Branch, Insert, Replace


@pytest.mark.parametrize(
    "step",
    [
        Branch((0, 1), "add", 3),
        Insert((1,)),
        Replace((0, 0), "conv1x1"),
        Widen("a.b", 5, 3),
        Deepen("c", False, True, 5),
    ],
)
def test_steps_as_dictionaries(step: Step) -> None:
    data = json.loads(json.dumps(steps.to_dict(step)))
    assert steps.from_dict(data) == step


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "melt"}, "kind must be one of"),
        ({}, "kind must be one of .* got None"),
        ({"kind": "insert", "op": 3}, "not the fields of a insert"),
        ({"kind": "widen", "layer": "x"}, "not the fields of a widen"),
        ({"kind": "insert", "path": 3}, "path must be a tuple"),
    ],
)
def test_dictionaries_that_are_no_step_are_refused(data: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        steps.from_dict(data)


def test_what_is_exact_by_law() -> None:
    noisy, hard = Birth(noise=0.1), Birth("hard")
    pool = [Insert((0,)), Replace((0, 0), "max_pool3x3")]
    assert not steps.is_exact([Branch((), "add", 2)], noisy)
    assert steps.is_exact([Branch((), "concat", 2)], noisy)
    assert steps.is_exact(pool) and not steps.is_exact(pool, hard)
    assert steps.is_exact([Replace((0, 0), "identity")], hard)
    assert steps.is_exact([Widen("a", 2)], hard) and not steps.is_exact([Widen("a", 2)], noisy)
    assert steps.is_exact([*pool, Deepen("a")], noisy)
    assert not steps.is_exact([*pool[:1], Deepen("a")], hard)
