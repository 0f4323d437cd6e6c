"""The size of a space against brute force, its costs, and limits that no episode breaks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pathnas import counting, decisions, space
from pathnas import tree as trees
from pathnas.actions import SEARCHED_OPS
from pathnas.cell import Site
from pathnas.controllers.evolution import mutated
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.rollout import replay, rollout
from pathnas.decisions import State
from pathnas.limits import Limits
from pathnas.ops import CellSpec, Conv
from pathnas.tree import BASE_TREE

ROOT = Path(__file__).parent.parent
SITES = (Site(CellSpec(Conv(16, 16)), 64), Site(CellSpec(Conv(16, 16)), 64))


def brute_force(limits: Limits) -> set[str]:
    """The keys of all trees that any sequence of decisions leads to."""
    waiting, seen, found = [State()], {State()}, set()
    while waiting:
        state = waiting.pop()
        if state.done:
            found.add(trees.key(state.tree))
            continue
        for action, allowed in enumerate(decisions.mask(state, limits)):
            after = decisions.step(state, action, limits) if allowed else state
            if after not in seen:
                seen.add(after)
                waiting.append(after)
    return found


@pytest.mark.parametrize(
    ("depth", "ops", "specs"),
    [
        (1, SEARCHED_OPS, [CellSpec(Conv(16, 16))]),
        (1, ("identity",), [CellSpec(Conv(4, 1))]),
        (2, ("identity",), [CellSpec(Conv(16, 16))]),
        (2, ("identity", "conv1x1"), [CellSpec(Conv(16, 16))]),
        (2, ("identity", "conv1x1"), [CellSpec(Conv(3, 3))]),
        (2, ("identity", "conv1x1"), [CellSpec(Conv(16, 16)), CellSpec(Conv(8, 2))]),
        (2, ("identity", "group_conv3x3"), [CellSpec(Conv(8, 8), groups=4)]),
        (2, ("identity", "group_conv3x3"), [CellSpec(Conv(6, 6), groups=3)]),
        (2, ("identity", "group_conv3x3"), [CellSpec(Conv(6, 6, groups=2))]),
    ],
)
def test_counts_are_those_of_brute_force(
    depth: int, ops: tuple[str, ...], specs: list[CellSpec]
) -> None:
    limits = Limits(depth, ops, tuple(Site(spec, 64) for spec in specs))
    assert counting.count(limits, depth) == len(brute_force(limits))


def test_costs_and_what_the_limits_allow() -> None:
    free = Limits()
    found = counting.random_trees(free, 60, torch.Generator().manual_seed(0))
    measured = counting.measure(free, found)
    costs = [free.cost(tree) for tree in found]
    assert measured.smallest.macs == free.cost(BASE_TREE) <= min(costs)
    assert min(costs) < measured.median.macs < max(costs) <= measured.largest.macs
    assert measured.within == 1
    limits = Limits(macs=measured.median.macs)
    assert 0.3 < counting.measure(limits, found).within < 0.8


@pytest.mark.parametrize(
    "factors", [(None, 1.0), (None, 1.7), (2.5, 1.3), (1.0, None)], ids=lambda f: str(f)
)
def test_no_random_episode_breaks_a_limit_and_none_is_stuck(
    factors: tuple[float | None, float | None],
) -> None:
    free = Limits(sites=SITES)
    of_base = free.cost(BASE_TREE), free.size(BASE_TREE)
    macs, parameters = (
        None if factor is None else int(factor * base)
        for factor, base in zip(factors, of_base, strict=True)
    )
    limits = Limits(sites=SITES, macs=macs, parameters=parameters)
    generator = torch.Generator().manual_seed(0)
    rolled = rollout(RandomController(), limits, 1000, generator)
    for episode in rolled:
        assert macs is None or free.cost(trees.canonical(episode.tree)) <= macs
        assert parameters is None or free.size(trees.canonical(episode.tree)) <= parameters
    assert len({trees.key(episode.tree) for episode in rolled}) > 1
    for episode in rolled[:50]:
        child = replay(mutated(episode.actions.tolist(), limits, generator), limits)
        assert limits.allows(child.tree)


def test_parameters_are_those_of_all_cells_together() -> None:
    one, two = Limits(sites=SITES[:1]), Limits(sites=SITES)
    assert two.size(BASE_TREE) == 2 * one.size(BASE_TREE)
    with pytest.raises(ValueError, match="parameters at least"):
        Limits(parameters=10)


def test_the_command_prints_counts_costs_and_limits(capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(ROOT / "experiments" / "surrogate.yaml"), "search.depth=2"]
    assert space.main([*words, "search.max_parameters=2.0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "depth up to 2: 847,028 distinct trees"
    assert lines[-2].split()[0] == "limit" and lines[-2].split()[1] == "-"
    assert "the limits can be met" in lines[-1]
    assert space.main([*words, "search.max_parameters=0.5"]) == 2
    assert "max_parameters" in capsys.readouterr().err
