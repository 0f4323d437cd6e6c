from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import decisions
from pathnas import tree as trees
from pathnas.cell import Site
from pathnas.decisions import Limits, State
from pathnas.envs import observation
from pathnas.specs import CellSpec, Conv
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Node

SMALL = Limits(
    depth=2,
    ops=("identity", "group_conv3x3", "max_pool3x3"),
    sites=(Site(CellSpec(Conv(6, 9, groups=3)), 16),),
)
any_limits = pytest.mark.parametrize("limits", [Limits(), SMALL, Limits(depth=4)])
LAW = settings(deadline=None, derandomize=True, max_examples=30)
seeds = st.integers(0, 2**32 - 1)
KINDS = {
    observation.ADD: ("add", "replicate"),
    observation.CONCAT_SPLIT: ("concat", "split"),
    observation.CONCAT_REPLICATE: ("concat", "replicate"),
}


def episode(seed, limits):
    """All states of an episode of random allowed actions."""
    rng, states = random.Random(seed), [State()]
    while not states[-1].done:
        mask = decisions.mask(states[-1], limits)
        action = rng.choice([action for action, legal in enumerate(mask) if legal])
        states.append(decisions.step(states[-1], action, limits))
    return states


def rebuilt(seen, limits, row=0):
    """Rebuilds the node of a row from the arrays alone."""
    below = [
        child
        for child in range(1, len(seen["op"]))
        if seen["parent"][child] == row and seen["op"][child] != observation.NO_OP
    ]
    below.sort(key=lambda child: seen["position"][child])
    assert [seen["position"][child] for child in below] == list(range(len(below)))
    names = (None, BASE_OP, *limits.ops)
    edges = tuple(Edge(names[seen["op"][child]], rebuilt(seen, limits, child)) for child in below)
    kind = int(seen["node"][row])
    assert (kind == observation.LEAF) == (not edges)
    assert (kind == observation.SINGLE) == (len(edges) == 1)
    return Node(edges, *KINDS.get(kind, (None, None)))


def path_of(seen, row):
    path = []
    while row:
        path.insert(0, int(seen["position"][row]))
        row = seen["parent"][row]
    return tuple(path)


@any_limits
@given(seed=seeds)
@LAW
def test_state_can_be_read_from_the_observation(limits, seed):
    space = observation.space(limits)
    for state in episode(seed, limits):
        seen = observation.encode(state, limits)
        assert seen in space
        assert rebuilt(seen, limits) == state.tree
        kind, path = state.agenda[0] if state.agenda else ("done", ())
        assert observation.QUESTIONS[seen["question"]] == kind
        assert path_of(seen, seen["focus"]) == path


@any_limits
@given(seed=seeds)
@LAW
def test_rows_are_edges_parents_first_and_the_rest_is_padding(limits, seed):
    for state in episode(seed, limits):
        seen = observation.encode(state, limits)
        rows = 1 + sum(1 for _ in trees.walk(state.tree))
        paths = [path for path, _ in trees.walk(state.tree)]
        assert [path_of(seen, row) for row in range(1, rows)] == paths
        assert (seen["parent"][1:rows] < np.arange(1, rows)).all()
        assert (seen["op"][1:rows] >= observation.BASE).all()
        assert (seen["node"][:rows] != observation.PADDING).all()
        for name in ("op", "node", "parent", "position"):
            assert seen[name].shape == (1 + limits.max_edges,)
            assert seen[name][0] == 0 or name == "node"
            assert not seen[name][rows:].any()


@any_limits
@given(seed=seeds)
@LAW
def test_mask_is_that_of_the_decisions(limits, seed):
    for state in episode(seed, limits):
        mask = observation.encode(state, limits)["action_mask"]
        wanted = decisions.mask(state, limits)
        assert mask.dtype == np.int8
        assert mask.tolist() == [state.done or legal for legal in wanted]
        assert (observation.action_mask(state, limits) == mask).all()


@any_limits
@given(seed=seeds)
@LAW
def test_all_at_once_are_the_observations_stacked(limits, seed):
    states = episode(seed, limits)
    together = observation.Observed(states, limits)
    names = observation.encode(states[0], limits).keys()
    assert set(together) == set(names) and len(together) == len(names)
    for row, state in enumerate(states):
        for name, seen in observation.encode(state, limits).items():
            assert together[name].dtype == seen.dtype
            assert np.array_equal(together[name][row], seen)
    with pytest.raises(KeyError, match="reward"):
        together["reward"]


@any_limits
@given(seed=seeds)
@LAW
def test_arrays_are_decoded_to_the_states_that_they_show(limits, seed):
    states = episode(seed, limits)
    together = observation.Observed(states, limits)
    shown = [State(state.tree, state.agenda[:1]) for state in states]
    assert observation.decode(dict(together), limits.actions) == shown
    assert observation.decode(together, limits.actions) is states


def test_equal_rows_with_other_parents_are_other_trees():
    leaf = Edge("identity")

    def add(*edges):
        return Node(edges, "add", "replicate")

    question = decisions.Question("op", (0, 0))
    left = State(add(Edge(BASE_OP, add(leaf, leaf, leaf)), leaf), (question,))
    right = State(add(Edge(BASE_OP, add(leaf, leaf)), leaf, leaf), (question,))
    one, two = (dict(observation.Observed([state], Limits())) for state in (left, right))
    for name in ("op", "node", "question", "focus"):
        np.testing.assert_array_equal(one[name], two[name])
    actions = Limits().actions
    assert observation.decode(one, actions) + observation.decode(two, actions) == [left, right]


@pytest.mark.parametrize(
    ("name", "row", "value"),
    [
        ("op", 1, 99),  # no such operation
        ("node", 0, observation.LEAF),  # with a branch
        ("node", 1, observation.ADD),  # without branches
        ("parent", 1, 1),  # its own
        ("parent", 1, -1),
        ("focus", None, 7),  # beyond the tree
        ("question", None, 9),
    ],
)
def test_arrays_that_show_no_tree_are_refused(name, row, value):
    seen = {key: array.copy() for key, array in observation.Observed([State()], SMALL).items()}
    seen[name][(0, row) if row is not None else 0] = value
    with pytest.raises(ValueError, match="shows no tree"):
        observation.decode(seen, SMALL.actions)


def test_first_observation_by_hand():
    limits = SMALL
    seen = observation.encode(State(), limits)
    rows = [0] * 11
    assert seen["op"].tolist() == [0, observation.BASE, *rows]
    assert seen["node"].tolist() == [observation.SINGLE, observation.LEAF, *rows]
    assert seen["parent"].tolist() == seen["position"].tolist() == [0, 0, *rows]
    assert (seen["question"], seen["focus"]) == (0, 0)
    assert seen["action_mask"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0, 0]


def test_an_observation_by_hand():
    split = Node((Edge("identity"), Edge("max_pool3x3")), "concat", "split")
    tree = Node((Edge(BASE_OP, split), Edge(BASE_OP)), "add", "replicate")
    state = State(tree, (decisions.Question("insert", (1,)),))
    seen = observation.encode(state, SMALL)
    assert seen["op"][:6].tolist() == [0, 1, 2, 4, 1, 0]
    assert seen["node"][:6].tolist() == [3, 4, 1, 1, 1, 0]
    assert seen["parent"][:6].tolist() == [0, 0, 1, 1, 0, 0]
    assert seen["position"][:6].tolist() == [0, 0, 0, 1, 1, 0]
    assert (seen["question"], seen["focus"]) == (1, 4)


def test_the_largest_tree_fills_all_rows():
    limits, state = Limits(), State()
    while not state.done:
        name = {"merge": "add3", "insert": "insert", "op": "conv1x1"}[state.agenda[0].kind]
        state = decisions.step(state, limits.actions.names.index(name), limits)
    seen = observation.encode(state, limits)
    assert (seen["node"] != observation.PADDING).all()
    assert seen in observation.space(limits)


def test_when_done_the_mask_is_full():
    state = State(BASE_TREE, ())
    seen = observation.encode(state, Limits())
    assert observation.QUESTIONS[seen["question"]] == "done"
    assert seen["focus"] == 0 and seen["action_mask"].all()


def test_observations_share_no_memory():
    one, two = (observation.encode(State(), SMALL) for _ in range(2))
    one["op"][:] = 1
    assert two["op"].sum() == 1
