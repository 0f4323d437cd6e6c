from __future__ import annotations

import copy

import numpy as np

from pathnas import decisions
from pathnas.actions import Actions
from pathnas.controllers.forest import DOWN, EDGE, ZERO, Forest
from pathnas.decisions import State
from tests.test_tree_lstm import LIMITS, walk


def forest_of(actions: Actions = LIMITS["default"].actions) -> Forest:
    return Forest(actions, 3, 2)


def test_equal_subtrees_are_planted_once():
    limits = LIMITS["default"]
    state = State()
    for name in ("add3", "insert"):  # three equal branches; a node below the first
        state = decisions.step(state, limits.actions.names.index(name), limits)
    forest, places = forest_of(), {ZERO: 0}
    first = forest.plant([state] * 5, places)
    # bottom-up: a sibling's base edge and the focus's identity; top-down: the root's step, one edge
    assert [len(group.inputs) for group in first.groups] == [2, 1, 1]
    assert len(set(first.up)) == len(set(first.down)) == 1
    assert forest.plant([state], places).groups == []


def test_groups_come_after_their_sources():
    limits = LIMITS["deep"]
    forest, planted, places = forest_of(limits.actions), 1, {ZERO: 0}
    for seed in range(6):
        for group in forest.plant(walk(limits, seed, 3), places).groups:
            assert group.sources.max() < planted and group.sources.min() >= ZERO
            planted += len(group.inputs)


def test_what_a_forest_has_seen_before_does_not_show():
    limits = LIMITS["default"]
    experienced = forest_of()
    for seed in range(20):
        experienced.plant(walk(limits, seed, 2), {ZERO: 0})
    for seed in range(10, 30):
        batch = walk(limits, seed)
        fresh, known = (f.plant(batch, {ZERO: 0}) for f in (forest_of(), experienced))
        assert [group.kind for group in fresh.groups] == [group.kind for group in known.groups]
        for left, right in zip(fresh.groups, known.groups, strict=True):
            np.testing.assert_array_equal(left.inputs, right.inputs)
            np.testing.assert_array_equal(left.sources, right.sources)
        np.testing.assert_array_equal(fresh.up, known.up)
        np.testing.assert_array_equal(fresh.down, known.down)


def test_only_what_the_question_needs_is_read():
    limits = LIMITS["default"]
    states = [state for seed in range(10) for state in walk(limits, seed)]
    root_merge = State()
    [group] = forest_of().plant([root_merge], {ZERO: 0}).groups
    assert group.kind.place == EDGE and len(group.inputs) == 1
    for state in states:
        planting = forest_of().plant([state], {ZERO: 0})
        down = sum(g.kind == (DOWN, EDGE) and len(g.inputs) for g in planting.groups)
        path = state.agenda[0].path if state.agenda else ()
        assert down == len(path)


def test_a_copy_of_a_forest_has_seen_nothing():
    forest = forest_of()
    forest.plant(walk(LIMITS["default"], 0), {ZERO: 0})
    copied = copy.deepcopy(forest)
    assert len(copied) == 1 < len(forest) and copied.positions == forest.positions
