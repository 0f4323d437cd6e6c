"""A tree for each stage of a network: decided, grown, trained, recorded, exported."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import (
    best,
    cell,
    controllers,
    costs,
    counting,
    decisions,
    draw,
    evaluators,
    networks,
    optimizer_state,
    report,
    results,
    run,
    space,
)
from pathnas import tree as trees
from pathnas.board import Board
from pathnas.cell import Site
from pathnas.controllers.evolution import mutated
from pathnas.controllers.policy import Controller
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.rollout import Episode, replay, rollout
from pathnas.decisions import Limits, State
from pathnas.envs import observation
from pathnas.envs.path_level import PathLevelEnv
from pathnas.evaluators import Training
from pathnas.export import __main__ as export
from pathnas.networks import stages
from pathnas.outcomes import Candidate, Trained
from pathnas.specs import CellSpec, Conv
from pathnas.store import RECORD
from pathnas.surrogate import Surrogate
from pathnas.transforms import Branch, Insert, Replace, grow, growth
from pathnas.tree import BASE_TREE, Edge, Node
from tests import stub_run
from tests.test_networks import TINY

SITES = (
    Site(CellSpec(Conv(8, 8)), 64),
    Site(CellSpec(Conv(8, 16)), 16),
    Site(CellSpec(Conv(16, 16)), 16),
    Site(CellSpec(Conv(16, 24)), 4),
)


def limits(depth: int = 2, count: int = 3, **more: Any) -> Limits:
    return Limits(depth, sites=SITES, start=trees.staged([BASE_TREE] * count), **more)


def grown(within: Limits, seed: int, count: int = 1) -> list[Node]:
    """Canonical trees of random episodes."""
    generator = torch.Generator().manual_seed(seed)
    rolled = rollout(RandomController(within.actions), within, count, generator)
    return [Candidate(episode.tree).tree for episode in rolled]


ONE = Node((Edge("base", Node((Edge("conv1x1"),))),))
TWO = Node((Edge("base"), Edge("base", Node((Edge("max_pool3x3"),)))), "add", "replicate")


# The value


def test_trees_of_stages_are_one_value() -> None:
    tree = trees.staged([ONE, BASE_TREE, TWO])
    assert str(tree) == "base > conv1x1 | base | add(base, base > max_pool3x3)"
    assert trees.from_json(trees.to_json(tree)) == tree
    assert trees.stages(tree) == (ONE, BASE_TREE, TWO)
    assert trees.staged([ONE]) is ONE and trees.stages(ONE, 2) == (ONE, ONE)
    assert trees.indented(tree).startswith("network  [stages]\n├─ stage1\n│  └─ base\n")
    other = trees.staged([TWO, BASE_TREE, ONE])
    assert trees.key(tree) != trees.key(other)  # their order counts
    written = Node((Edge("base", Node((Edge("identity", Node((Edge("conv1x1"),))),))),))
    assert trees.key(trees.staged([written, BASE_TREE, TWO])) == trees.key(tree)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Node((Edge("stage1", ONE), Edge("stage3", ONE)), "stages"),
        lambda: Node((Edge("stage1", ONE), Edge("stage2")), "stages"),
        lambda: Node((Edge("stage1", ONE), Edge("stage2", ONE)), "stages", "replicate"),
        lambda: trees.staged([trees.staged([ONE, TWO]), ONE]),
        lambda: trees.from_dict({"merge": "stages", "edges": [{"op": "a"}, {"op": "b"}]}),
        lambda: trees.staged([]),
    ],
)
def test_what_is_no_trees_of_stages_is_refused(make: Callable[[], Node]) -> None:
    with pytest.raises(ValueError, match="stage"):
        make()


# The decisions


@pytest.mark.parametrize(
    ("parts", "episodes"),
    [
        ({"macs": 1.2}, 30),
        ({"parameters": 1.15}, 30),
        ({"macs": 1.0}, 30),
        ({}, 30),
        pytest.param({"macs": 1.3, "parameters": 1.2}, 1000, marks=pytest.mark.slow),
    ],
)
def test_no_episode_is_stuck_or_over_the_limits(parts: dict[str, float], episodes: int) -> None:
    free = limits(3)
    base = free.costs(free.start)
    bounds = {name: int(share * getattr(base, name)) for name, share in parts.items()}
    within = limits(3, **bounds)
    generator = torch.Generator().manual_seed(0)
    found = rollout(RandomController(within.actions), within, episodes, generator)
    for episode in found:
        cost = within.costs(episode.tree)
        assert all(getattr(cost, name) <= most for name, most in bounds.items())
        for one in trees.stages(episode.tree):
            assert 2 <= trees.depth(one) <= 3
        child = replay(mutated(episode.actions.tolist(), within, generator), within)
        assert within.allows(child.tree)
    last = {str(trees.stages(Candidate(one.tree).tree)[-1]) for one in found}
    assert len(last) > (5 if parts.get("macs") != 1.0 else 0)


def test_costs_are_those_of_the_stages_together() -> None:
    tree, within = trees.staged([ONE, BASE_TREE, TWO]), limits()
    held = zip((ONE, BASE_TREE, BASE_TREE, TWO), SITES, strict=True)
    each = [(cell.cost(one, site.spec), site.positions) for one, site in held]
    assert within.cost(tree) == sum(cost.macs * positions for cost, positions in each)
    assert within.size(tree) == sum(cost.parameters for cost, _ in each)
    assert within.costs(trees.staged([ONE] * 3)) == Limits(sites=SITES).costs(ONE)
    edges = costs.edges(tree, SITES)
    assert set(edges) == {path for path, _ in trees.walk(tree)}
    assert sum(cost.macs for cost in edges.values()) == within.cost(tree)
    with pytest.raises(ValueError, match="each of 3 stages"):
        costs.edges(trees.staged([ONE, TWO]), SITES)


def test_stages_are_decided_one_after_another_each_as_if_alone() -> None:
    within, alone = limits(), Limits(2, sites=SITES[:1])
    names = ("add2", "stop", "insert", "keep", "max_pool3x3")
    answers = [within.actions.names.index(name) for name in names]
    state, single = decisions.begin(within), decisions.begin(alone)
    for answer in answers:
        [kind, path], [kind_alone, path_alone] = state.agenda[0], single.agenda[0]
        assert (kind, path) == (kind_alone, (0, *path_alone))
        assert decisions.mask(state, within) == decisions.mask(single, alone)
        state, single = (
            decisions.step(state, answer, within),
            decisions.step(single, answer, alone),
        )
    assert single.done and trees.stages(state.tree) == (single.tree, BASE_TREE, BASE_TREE)
    assert state.agenda == (("merge", (1,)), ("merge", (2,)))


def test_limits_name_a_wrong_number_of_stages() -> None:
    with pytest.raises(ValueError, match="expected a tree for each of 3 stages"):
        limits(count=2)


@settings(max_examples=5)
@given(st.integers(0, 10**6))
def test_trees_grow_further_from_grown_ones(seed: int) -> None:
    [start] = grown(limits(), seed)
    further = Limits(3, sites=SITES, start=start)
    for tree in grown(further, seed, 4):
        for one, before in zip(trees.stages(tree), trees.stages(start), strict=True):
            assert trees.unfolded(one, before) is not None and growth(one, before) is not None


def test_the_size_of_a_space_of_stages() -> None:
    within = limits()
    found = counting.measure(within, grown(within, 0, 20))
    alone = [
        [counting.count(Limits(2, sites=stage.sites), depth) for stage in within.stages]
        for depth in (1, 2)
    ]
    assert found.counts == tuple(math.prod(counts) for counts in alone)
    assert found.smallest == within.costs(within.start)
    assert found.largest.macs >= found.median.macs > found.smallest.macs
    assert "distinct choices of a tree for each of 3 stages" in space.report(found, within)


# What a controller sees


def test_without_stages_an_agent_sees_what_it_always_did() -> None:
    plain = Limits(2, sites=SITES)
    ops, nodes, branches = observation.sizes(plain.actions)
    assert (ops, nodes, branches) == (2 + len(plain.ops), 6, 3)
    names = {name: value.shape for name, value in Controller(plain.actions).state_dict().items()}
    assert names["tree_lstm.ops"] == (9, 10) and names["tree_lstm.nodes"] == (6, 10)


def test_an_agent_sees_all_stages_and_which_one_is_asked() -> None:
    env = PathLevelEnv(limits=limits())
    check_env(env, skip_render_check=True)
    within, tree = limits(), trees.staged([ONE, BASE_TREE, TWO])
    seen = observation.encode(State(tree, decisions.begin(within).agenda[1:]), within)
    assert env.observation_space.contains(seen)
    assert seen["node"][0] == observation.STAGES and seen["focus"] == 4
    first = 2 + len(within.ops)
    assert [op for op in seen["op"].tolist() if op >= first] == [first, first + 1, first + 2]
    controller = Controller(within.actions, hidden=8, head=8)
    agenda = decisions.begin(within).agenda
    states = [State(within.start, agenda[number:]) for number in range(3)]
    states.append(State(trees.staged([ONE, BASE_TREE, BASE_TREE]), agenda[1:]))
    logits = controller(observation.Observed(states, within)).logits[:, :4].detach()
    apart = torch.cdist(logits, logits) + torch.eye(4)
    assert float(apart.min()) > 1e-4  # the stage, and what became of another, make a difference


def test_it_acts_as_it_learns_with_more_stages_than_any_node_has_branches() -> None:
    sites = tuple(Site(CellSpec(Conv(8, 8)), positions) for positions in (32, 16, 8, 4, 2))
    within = Limits(2, sites=sites, start=trees.staged([BASE_TREE] * 5))
    controller = Controller(within.actions, hidden=8, head=8)
    for episode in rollout(controller, within, 2, torch.Generator().manual_seed(0)):
        acting = torch.from_numpy(controller.frozen()(episode.observations))
        learning = controller(episode.observations).probs.detach()
        torch.testing.assert_close(acting, learning, atol=1e-5, rtol=1e-5)


def learned(
    name: str, value: Callable[[Episode], float], updates: int, **own: Any
) -> tuple[list[float], float]:
    """Returns the mean reward of each update, and that of random episodes."""
    within = Limits(2, sites=SITES[:3], start=trees.staged([BASE_TREE] * 2))
    small = {"hidden": 16, "head": 16, "population": 20, "tournament": 5, **own}
    learner = controllers.make(name, within.actions, seed=1, **small)
    generator = torch.Generator().manual_seed(1)
    means = []
    for _ in range(updates):
        rolled = learner.propose(within, 10, generator)
        rewards = [value(episode) for episode in rolled]
        learner.update(rolled, rewards)
        means.append(float(np.mean(rewards)))
    chance = rollout(RandomController(within.actions), within, 80, generator)
    return means, float(np.mean([value(episode) for episode in chance]))


@pytest.mark.parametrize(
    "name",
    ["reinforce", "evolution", pytest.param("ppo", marks=pytest.mark.slow)],
)
def test_it_learns_on_the_surrogate_with_stages(name: str) -> None:
    surrogate = Surrogate(Limits(2, sites=SITES[:3], start=trees.staged([BASE_TREE] * 2)))
    means, chance = learned(name, lambda one: accuracy(surrogate, one), 12, learning_rate=2e-2)
    assert np.mean(means[-3:]) > chance + 0.08
    assert accuracy_of(surrogate, surrogate.best_tree) == pytest.approx(surrogate.optimum)


def accuracy(surrogate: Surrogate, episode: Episode) -> float:
    return accuracy_of(surrogate, episode.tree)


def accuracy_of(surrogate: Surrogate, tree: Node) -> float:
    found = surrogate(Candidate(tree)).accuracy
    assert found is not None
    return found


@pytest.mark.slow
def test_it_learns_that_stages_want_unlike_trees() -> None:
    def wanted(episode: Episode) -> float:
        counts = [len(list(trees.walk(one))) for one in trees.stages(episode.tree)]
        return (counts[0] - counts[1]) / 10

    means, chance = learned("reinforce", wanted, 50, learning_rate=2e-2)
    assert np.mean(means[-3:]) > chance + 0.5


# Networks


@pytest.mark.parametrize("name", sorted(TINY))
def test_each_stage_of_a_network_grows_by_its_own_transforms(name: str) -> None:
    shape, options = (2, 16, 16), {"channels": 2, "classes": 3, **TINY[name]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        base = networks.build(name, **options).eval()
        sizes = len(cell.by_stage(networks.sites(base, shape)))
        tree = trees.staged([ONE, BASE_TREE, ONE, BASE_TREE, ONE][:sizes])
        built = networks.build(name, tree=tree, image_shape=shape, **options)
        images = torch.randn(2, *shape)
    steps = stages.growths(base, tree, BASE_TREE, shape)
    further = grow(base, steps)
    wanted = stages.trees_of_cells(base, tree, shape)
    places = stages.places(base, shape)
    for one in (built, further):
        assert {at: own.tree for at, own in networks.cells(one).items()} == wanted
    assert list(further.state_dict()) == list(built.state_dict())
    if sizes > 1:
        assert len({wanted[at] for at in places}) > 1
    for at, site in places.items():
        equal = [wanted[other] for other, one in places.items() if one.positions == site.positions]
        assert set(equal) == {wanted[at]}
    with torch.no_grad():
        torch.testing.assert_close(further(images), base(images), atol=1e-4, rtol=1e-4)
    optimizer = torch.optim.SGD(base.parameters(), lr=0.1, momentum=0.9)
    base.train()(images).sum().backward()
    optimizer.step()
    carried = optimizer_state.carry(optimizer_state.read(optimizer, base), base, steps)
    next_ = torch.optim.SGD(further.parameters(), lr=0.1, momentum=0.9)
    optimizer_state.write(next_, further, carried)
    assert optimizer_state.read(next_, further).keys() == carried.keys()


def test_base_trees_in_all_stages_are_the_base_network_bit_for_bit() -> None:
    options: dict[str, Any] = {"channels": 1, "classes": 2, "widths": (4, 6), "cells": 1}
    found = []
    for tree in (BASE_TREE, trees.staged([BASE_TREE] * 2)):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = networks.build("chain", tree=tree, image_shape=(1, 8, 8), **options)
        found.append(network.state_dict())
    for name, tensor in found[0].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=0, atol=0)


def test_networks_say_what_they_miss() -> None:
    tree = trees.staged([ONE, TWO])
    options: dict[str, Any] = {"channels": 1, "classes": 2, "widths": (4, 6, 8), "cells": 1}
    with pytest.raises(ValueError, match="image_shape"):
        networks.build("chain", tree=tree, **options)
    with pytest.raises(ValueError, match="each of the network's 3 stages, got 2"):
        networks.build("chain", tree=tree, image_shape=(1, 8, 8), **options)
    network = networks.build("chain", **options)
    with pytest.raises(ValueError, match="expected the tree of a cell"):
        growth(tree)
    with pytest.raises(ValueError, match="expected names of cells, got 'nowhere'"):
        grow(network, {"nowhere": [Insert((0,))]})


def test_one_cell_grows_and_others_stay() -> None:
    network = networks.build("chain", channels=1, classes=2, widths=(4, 6), cells=1)
    first, second = networks.cells(network)
    steps = {second: [Branch((), "add", 2), Insert((0,)), Replace((0, 0), "conv1x1")]}
    further = grow(network, steps)
    assert networks.cells(further)[first].tree == BASE_TREE
    assert len(networks.cells(further)[second].tree.edges) == 2


# A whole run

WORDS = (str(stub_run.SMOKE), "--quiet", *stub_run.TINY)
WORDS += ("search.stages=true", "search.control=false", "search.trials=4")


def made_up(job: Training) -> Trained:
    """Stands in for a training, but what is saved is a real network."""
    if job.save is None:
        return stub_run.train(job)
    return real(replace(job, recipe=job.recipe.model_copy(update={"epochs": 0})))


real = evaluators.train


def _make_up(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(evaluators, "train", made_up)
    patch.setattr(evaluators, "score", lambda job: 0.5)
    patch.setattr(run, "_report", lambda path: None)  # pictures take most of the time
    patch.setattr(Board, "_picture", lambda *_: None)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings are made up."""
    _make_up(monkeypatch)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that was not broken off."""
    runs = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        _make_up(patch)
        assert run.main([*WORDS, f"runs={runs}"]) == 0
    return runs / "smoke"


def test_a_run_that_was_broken_off_goes_on_to_the_same_end(
    whole: Path, trained: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def breaking(job: Training) -> Trained:
        calls.append(job)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return made_up(job)

    with monkeypatch.context() as patch:
        patch.setattr(evaluators, "train", breaking)
        with pytest.raises(KeyboardInterrupt):
            run.main([*WORDS, f"runs={tmp_path}"])
    assert run.main(["--quiet", "--resume", str(tmp_path / "smoke")]) == 0
    ended, again = (stub_run.contents(one / RECORD) for one in (whole, tmp_path / "smoke"))
    for one in (ended, again):
        one["meta"] = [{**row, "digest": None} for row in one["meta"]]
    assert again == ended
    keys = [row["key"] for row in results.trials(whole)]
    assert all(key.count(" | ") == 1 for key in keys)
    found = best.load(whole / "best")
    assert str(found.tree) in keys
    summary = json.loads((whole / "summary.json").read_text())
    assert trees.from_dict(summary["best_tree"]) == found.tree
    assert summary["networks"]["base"]["tree"] == "base | base"


def test_what_a_run_with_stages_found_is_shown_and_exported(whole: Path, tmp_path: Path) -> None:
    net, tree = tmp_path / "net", best.load(whole / "best").tree
    page = report.write(whole).read_text()
    assert "stage2 Insert(" in page and "└─ stage2" in page
    assert export.main([str(whole), "--to", str(net)]) == 0  # which compares what they compute
    assert json.loads((net / "arch.json").read_text())["tree"] == trees.to_dict(tree)
    assert "The cells of each stage" in (net / "README.md").read_text()
    picture = tmp_path / "tree.svg"
    assert draw.main([str(whole), "-o", str(picture), "--width", "8"]) == 0 and picture.exists()


@pytest.mark.slow
def test_a_round_goes_on_from_the_trees_of_stages(
    trained: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*WORDS, f"runs={tmp_path}", "search.rounds=2"]
    assert run.main(words) == 0
    first, second = (best.load(tmp_path / name / "best").tree for name in ("smoke", "smoke-round2"))
    pairs = list(zip(trees.stages(second), trees.stages(first), strict=True))
    assert all(trees.unfolded(one, before) is not None for one, before in pairs)
    assert second != first
    alone = [*stub_run.TINY, f"runs={tmp_path}", "name=alone", "search.stages=false"]
    grown_from = f"base.grown={tmp_path / 'smoke' / 'best'}"
    assert run.main([str(stub_run.SMOKE), "--quiet", *alone, grown_from]) == 2
    assert "search.stages: must be true" in capsys.readouterr().err
