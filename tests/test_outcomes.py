"""Candidates and rewards."""

from __future__ import annotations

import json
import math
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathnas.outcomes import Candidate, Outcome, Reward, Trained, measure
from pathnas.transforms import Branch, Insert, Replace
from pathnas.tree import BASE_TREE, Edge, Node


def test_candidates_are_canonical() -> None:
    a, b = Edge("base", Node((Edge("conv1x1"),))), Edge("base")
    one, other = (Candidate(Node(edges, "add", "replicate")) for edges in ((a, b), (b, a)))
    assert one == other and one.key == "add(base, base > conv1x1)"
    assert one.transforms == [Branch((), "add", 2), Insert((1,)), Replace((1, 0), "conv1x1")]
    assert Candidate(BASE_TREE).transforms == []


def test_what_json_made_of_an_outcome_is_that_outcome() -> None:
    outcome = Outcome("ok", accuracy=0.5, curve=(1.5, 0.1 + 0.2))
    assert Outcome(**json.loads(json.dumps(asdict(outcome)))) == outcome
    trained = Trained(0.5, 3, 4, 0.5, (1.5, 0.1 + 0.2))
    assert Trained(**json.loads(json.dumps(asdict(trained)))) == trained
    assert hash(outcome) == hash(Outcome("ok", accuracy=0.5, curve=[1.5, 0.1 + 0.2]))  # type: ignore


def test_the_papers_reward() -> None:
    reward = Reward(ceiling=Reward.ceiling_for(5000))
    assert reward(Outcome("ok", accuracy=0.5)) == pytest.approx(1.0)
    assert reward(Outcome("ok", accuracy=1.0)) == pytest.approx(math.tan(0.9999 * math.pi / 2))
    assert Reward("accuracy")(Outcome("ok", accuracy=0.25)) == 0.25


def test_metrics_are_shares_of_what_is_known() -> None:
    of = Outcome("ok", accuracy=0.5, loss=math.log(2), curve=(5.0, 3.0, 2.0, 1.5, 0.5))
    assert measure("accuracy", of) == 0.5
    assert measure("likelihood", of) == pytest.approx(0.5)
    assert measure("fit", of) == pytest.approx(math.exp(-12 / 5))
    assert measure("late_fit", of) == pytest.approx(math.exp(-1.0))  # two of five epochs
    assert measure("late_fit", Trained(0.5, 1, 1, 1.0, (3.0, 1.0))) == pytest.approx(math.exp(-1))
    falling = Trained(0.5, 1, 1, 1.0, (2.0, 1.0, 2 / 3))
    assert measure("extrapolated_fit", falling, 40) == pytest.approx(math.exp(-2 / 40))
    assert measure("extrapolated_fit", falling) is None  # nobody has said how long is in full
    assert measure("extrapolated_fit", Outcome("ok", accuracy=0.5), 40) is None
    assert measure("likelihood", Outcome("ok", accuracy=0.5)) is None
    assert measure("fit", Outcome("ok", accuracy=0.5)) is None


def test_the_reward_is_of_its_metric() -> None:
    reward = Reward("accuracy", metric="likelihood")
    assert reward(Outcome("ok", accuracy=1.0, loss=math.log(4))) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="the reward needs the metric 'likelihood'"):
        reward(Outcome("ok", accuracy=1.0))


def test_the_reward_knows_the_length_of_a_full_training() -> None:
    outcome = Outcome("ok", accuracy=0.5, curve=(2.0, 1.0, 2 / 3))
    reward = Reward("accuracy", metric="extrapolated_fit", epochs=20)
    assert reward(outcome) == pytest.approx(math.exp(-0.1))
    with pytest.raises(ValueError, match="the reward needs the metric 'extrapolated_fit'"):
        Reward("accuracy", metric="extrapolated_fit")(outcome)


@given(curve=st.lists(st.floats(0, 1e308), min_size=1, max_size=9), epochs=st.integers(0, 10_000))
def test_metrics_of_the_curve_are_in_the_unit_interval(curve: list[float], epochs: int) -> None:
    of = Outcome("ok", accuracy=0.5, curve=tuple(curve))
    for metric in ("late_fit", "extrapolated_fit"):
        value = measure(metric, of, epochs)
        assert value is not None and 0 <= value <= 1


def test_failed_trials_earn_the_fixed_reward() -> None:
    assert Reward(failure=-2.0)(Outcome("timed_out", error="too long")) == -2.0


def test_cost_lowers_the_reward_of_what_costs_more_than_the_target() -> None:
    reward = Reward("accuracy", cost_weight=-0.5, cost_target=100.0)
    assert reward(Outcome("ok", accuracy=0.5, macs=400)) == pytest.approx(0.25)
    assert reward(Outcome("ok", accuracy=0.5, macs=100)) == 0.5
    with pytest.raises(ValueError, match="needs multiply-adds and a target"):
        reward(Outcome("ok", accuracy=0.5))


@given(
    accuracy=st.floats(allow_nan=True, allow_infinity=True),
    macs=st.integers(1, 2**60),
    weight=st.floats(-10, 0),
)
def test_rewards_are_finite_whatever_the_accuracy(
    accuracy: float, macs: int, weight: float
) -> None:
    reward = Reward(cost_weight=weight, cost_target=1e6)
    assert math.isfinite(reward(Outcome("ok", accuracy=accuracy, macs=macs)))
