from __future__ import annotations

import copy

import numpy as np

from pathnas import decisions
from pathnas.controllers.forest import DOWN, EDGE, ZERO, Forest
from pathnas.decisions import Question, State
from pathnas.envs.observation import ADD, LEAF, QUESTIONS
from pathnas.tree import BASE_OP, Edge, Node
from tests.test_tree_lstm import LIMITS, encode, walk


def test_equal_subtrees_are_planted_once():
    limits = LIMITS["default"]
    state = State()
    for name in ("add3", "insert"):  # three equal branches; a node below the first
        state = decisions.step(state, limits.actions.names.index(name), limits)
    forest, places = Forest(3, 2), {ZERO: 0}
    first = forest.plant(encode([state] * 5, limits), places)
    # bottom-up: a sibling's base edge and the focus's identity; top-down: the root's step, one edge
    assert [len(group.inputs) for group in first.groups] == [2, 1, 1]
    assert len(set(first.up)) == len(set(first.down)) == 1
    assert forest.plant(encode([state], limits), places).groups == []


def test_groups_come_after_their_sources():
    limits = LIMITS["deep"]
    forest, planted, places = Forest(3, 2), 1, {ZERO: 0}
    for seed in range(6):
        for group in forest.plant(encode(walk(limits, seed, 3), limits), places).groups:
            assert group.sources.max() < planted and group.sources.min() >= ZERO
            planted += len(group.inputs)


def test_what_a_forest_has_seen_before_does_not_show():
    limits = LIMITS["default"]
    experienced = Forest(3, 2)
    for seed in range(20):
        experienced.plant(encode(walk(limits, seed, 2), limits), {ZERO: 0})
    for seed in range(10, 30):
        batch = encode(walk(limits, seed), limits)
        fresh, known = (f.plant(batch, {ZERO: 0}) for f in (Forest(3, 2), experienced))
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
    [group] = Forest(3, 2).plant(encode([root_merge], limits), {ZERO: 0}).groups
    assert group.kind.place == EDGE and len(group.inputs) == 1
    for state in states:
        planting = Forest(3, 2).plant(encode([state], limits), {ZERO: 0})
        down = sum(g.kind == (DOWN, EDGE) and len(g.inputs) for g in planting.groups)
        path = state.agenda[0].path if state.agenda else ()
        assert down == len(path)


def test_equal_rows_with_other_parents_are_other_trees():
    leaf = Edge("identity")

    def add(*edges: Edge) -> Node:
        return Node(edges, "add", "replicate")

    left = add(Edge(BASE_OP, add(leaf, leaf, leaf)), leaf)
    right = add(Edge(BASE_OP, add(leaf, leaf)), leaf, leaf)
    question = Question("op", (0, 0))
    one, two = (encode([State(tree, (question,))], LIMITS["default"]) for tree in (left, right))
    for name in ("op", "node", "question", "focus"):
        np.testing.assert_array_equal(one[name], two[name])
    forest, places = Forest(3, 2), {ZERO: 0}
    assert forest.plant(one, places).down != forest.plant(two, places).down


def test_rows_beyond_the_16_bits_of_a_short_integer_are_told_apart():
    rows = 70_000
    parent = np.array([0] + [(row - 1) // 3 for row in range(1, rows)])
    node = np.where(np.isin(np.arange(rows), parent), ADD, LEAF)
    op = np.arange(rows) % 7 + 2
    forest = Forest(3, 2)
    pairs = set()
    for focus in (69_000, 69_000 - 2**16):
        asked = {"question": np.array([QUESTIONS.index("op")]), "focus": np.array([focus])}
        tree = {"op": op[None], "node": node[None], "parent": parent[None]}
        planted = forest.plant({**tree, **asked}, {ZERO: 0})
        pairs.add((int(planted.up[0]), len(planted.groups)))
    assert len(pairs) == 2


def test_a_copy_of_a_forest_has_seen_nothing():
    forest = Forest(3, 2)
    forest.plant(encode(walk(LIMITS["default"], 0), LIMITS["default"]), {ZERO: 0})
    copied = copy.deepcopy(forest)
    assert len(copied) == 1 < len(forest) and copied.positions == forest.positions
