"""The benchmark that compares the spread of trees with that of seeds."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from benchmarks import spread
from pathnas.decisions import Limits

SMOKE = Path(__file__).parent.parent / "experiments" / "smoke.yaml"


def test_random_candidates_are_distinct_and_of_their_seed() -> None:
    first, again, other = (spread.random_candidates(Limits(), 5, seed) for seed in (0, 0, 1))
    assert len({candidate.key for candidate in first}) == 5
    assert first == again != other


def test_the_benchmark_runs(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["spread", str(SMOKE), "--trees", "3", "--seeds", "2"])
    spread.main()
    numbers = re.findall(r"\d\.\d+", capsys.readouterr().out)
    assert len(numbers) == 4 and all(0 < float(number) < 1 for number in numbers)
