"""What a trial brings is an outcome that can be recorded, whatever its job returned."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest

from pathnas.executors import Failure, Result
from pathnas.outcomes import Outcome
from pathnas.trials import outcome_of


@pytest.mark.parametrize(
    ("value", "status", "error"),
    [
        (None, "failed", "expected an outcome from the trial, got NoneType"),
        (0.5, "failed", "expected an outcome from the trial, got float"),
        (Outcome("ok"), "failed", "expected an accuracy from a trial that is ok"),
        (Outcome("great", accuracy=0.5), "failed", "expected a status out of"),  # type: ignore
        (Outcome("ok", accuracy="high"), "failed", "expected accuracy as float"),  # type: ignore
        (Outcome("ok", accuracy=True), "failed", "expected accuracy as float"),
        (Outcome("ok", accuracy=np.float64(0.5)), "failed", "expected accuracy as float"),
        (Outcome("ok", accuracy=0.5, macs=1.5), "failed", "expected macs as int"),  # type: ignore
        (Outcome("ok", accuracy=0.5, curve=(1.0, math.nan)), "failed", "curve as finite floats"),
        (Outcome("ok", accuracy=0.5, curve=(np.float64(1),)), "failed", "curve as finite floats"),
        (Outcome("ok", accuracy=0.5, loss=math.inf), "failed", "loss as a finite float"),
        (Outcome("ok", accuracy=0.5, curve="falls"), "failed", "curve as finite floats"),  # type: ignore
        (Outcome("ok", accuracy=math.nan), "diverged", "the accuracy is nan"),
        (Outcome("ok", accuracy=-math.inf), "diverged", "the accuracy is -inf"),
    ],
)
def test_garbage_is_a_failure_that_can_be_recorded(value: Any, status: str, error: str) -> None:
    found = outcome_of(Result(value, None, 1.0), seed=3)
    assert not any(map(math.isnan, found.curve))
    assert found.status == status and found.accuracy is None and error in (found.error or "")
    json.dumps(asdict(found), allow_nan=False)


def test_sound_outcomes_and_failures_are_kept() -> None:
    sound = Outcome("ok", 0.5, 3, 4, 0.1, 5, seed=3, curve=(1.5, 0.25))
    assert outcome_of(Result(sound, None, 1.0), seed=3) is sound
    failure = Failure("crashed", "killed by SIGKILL", "")
    found = outcome_of(Result(None, failure, 2.0), seed=3)
    assert (found.status, found.error, found.seconds) == ("crashed", "killed by SIGKILL", 2.0)
