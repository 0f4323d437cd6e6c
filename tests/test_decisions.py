from __future__ import annotations

import copy
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import cell, decisions, transforms
from pathnas import tree as trees
from pathnas.cell import Cell, Site
from pathnas.decisions import Limits, Question, State
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Branch, Insert, Replace
from pathnas.tree import BASE_OP, BASE_TREE, Edge, Node

GROUPED = ("identity", "group_conv3x3", "sep_conv5x5", "max_pool3x3", "conv3x3")


def sites(*convs, **spec):
    return tuple(Site(CellSpec(conv, **spec), 16) for conv in convs)


LIMITS = {
    "default": Limits(),
    "depth 1": Limits(depth=1),
    "depth 2": Limits(depth=2),
    "depth 4": Limits(depth=4),
    "groups": Limits(ops=GROUPED, sites=sites(Conv(8, 8, groups=4))),
    "odd groups": Limits(ops=GROUPED, sites=sites(Conv(10, 15, groups=5), Conv(9, 9, groups=3))),
    "group op alone": Limits(ops=GROUPED, sites=sites(Conv(3, 6), groups=2)),
    "odd widths": Limits(sites=sites(Conv(3, 7), Conv(5, 5, stride=2), Conv(7, 9))),
    "narrow": Limits(sites=sites(Conv(1, 1), Conv(4, 2))),
    "macs": Limits(sites=sites(Conv(8, 8), Conv(8, 16)), macs=16 * (64 + 128) * 12),
    "macs and groups": Limits(ops=GROUPED, sites=sites(Conv(6, 6, groups=2)), macs=16 * 400),
}
any_limits = pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
DEFAULT = LIMITS["default"]
LAW = settings(deadline=None, derandomize=True, max_examples=25)
seeds = st.integers(0, 2**32 - 1)


def allowed(state, limits):
    return [action for action, legal in enumerate(decisions.mask(state, limits)) if legal]


def episode(rng, limits):
    """Yields the states of an episode of random allowed actions, the last one too."""
    state = State()
    yield state
    while not state.done:
        state = decisions.step(state, rng.choice(allowed(state, limits)), limits)
        yield state


def last(states):
    *_, state = states
    return state


def replay(answers, limits=DEFAULT):
    """Takes actions by name from the start; returns the questions that were asked and the state."""
    state, asked = State(), []
    for name in answers:
        asked.append(state.agenda[0])
        state = decisions.step(state, limits.actions.names.index(name), limits)
    return asked, state


# The table of actions


def test_table_of_actions():
    actions = DEFAULT.actions
    assert actions.names == (
        *("keep", "add2", "add3", "concat2", "stop", "insert"),
        *("sep_conv3x3", "sep_conv5x5", "sep_conv7x7", "conv1x1", "identity"),
        *("max_pool3x3", "avg_pool3x3"),
    )
    assert len(actions) == 13
    assert dict(actions.of) == {"merge": range(4), "insert": range(4, 6), "op": range(6, 13)}


def test_actions_as_transforms():
    found = [DEFAULT.actions.transform(action, (0, 1)) for action in range(13)]
    assert found == [
        None,
        Branch((0, 1), "add", 2),
        Branch((0, 1), "add", 3),
        Branch((0, 1), "concat", 2),
        None,
        Insert((0, 1)),
        *(
            None if op == "identity" else Replace((0, 1), op)
            for op in ("sep_conv3x3", "sep_conv5x5", "sep_conv7x7", "conv1x1", "identity")
        ),
        Replace((0, 1), "max_pool3x3"),
        Replace((0, 1), "avg_pool3x3"),
    ]


# The agenda


def test_agenda_of_a_written_out_example():
    asked, state = replay(
        [
            *("add2", "insert", "add2", "sep_conv3x3", "identity"),
            *("insert", "keep", "max_pool3x3", "stop", "stop"),
        ]
    )
    assert asked == [
        ("merge", ()),
        ("insert", (0,)),  # the copies of the base convolution are not asked for an op
        ("merge", (0,)),
        ("op", (0, 0)),  # all ops of a node first,
        ("op", (0, 1)),
        ("insert", (0, 0)),  # then its branches, depth first
        ("merge", (0, 0)),
        ("op", (0, 0, 0)),  # three edges deep: not asked whether to insert
        ("insert", (0, 1)),
        ("insert", (1,)),  # may stop, as another branch of the root did insert
    ]
    assert state.done
    assert str(state.tree) == "add(base > add(sep_conv3x3 > max_pool3x3, identity), base)"


def test_agenda_lists_all_that_waits():
    _, state = replay(["keep", "insert", "add3"])
    assert state.agenda == (
        *(Question("op", (0, index)) for index in range(3)),
        *(Question("insert", (0, index)) for index in range(3)),
    )
    assert state.tree == Branch((0,), "add", 3)(Insert((0,))(BASE_TREE))


@pytest.mark.parametrize(("merge", "n"), [("keep", 1), ("add2", 2), ("add3", 3), ("concat2", 2)])
def test_last_branch_of_the_root_must_insert(merge, n):
    names = DEFAULT.actions.names
    stop, insert = names.index("stop"), names.index("insert")
    _, state = replay([merge])
    for index in range(n - 1):
        assert state.agenda[0] == ("insert", (index,)) and allowed(state, DEFAULT) == [stop, insert]
        state = decisions.step(state, stop, DEFAULT)
    assert state.agenda == (("insert", (n - 1,)),) and allowed(state, DEFAULT) == [insert]
    with pytest.raises(ValueError, match=r"the mask forbids action 4 at .*insert.*\(\d,\)"):
        decisions.step(state, stop, DEFAULT)


@any_limits
def test_every_candidate_has_a_node_below_the_root(limits):
    rng = random.Random(1)
    for _ in range(30):
        found = last(episode(rng, limits)).tree
        assert trees.depth(found) >= min(2, limits.depth)


def test_index_0_is_a_decision():
    first = decisions.step(State(), 0, DEFAULT)
    assert first.agenda == (Question("insert", (0,)),) and first.tree == BASE_TREE
    limits = Limits(ops=("conv1x1", "identity"))
    _, state = replay(["keep", "insert", "keep", "conv1x1", "stop"], limits)
    assert state.done and str(state.tree) == "base > conv1x1"


@any_limits
def test_depth_limit(limits):
    names = limits.actions.names
    state, deepest = State(), 0
    while not state.done:
        wanted = {"merge": "add3", "insert": "insert", "op": "identity"}[state.agenda[0].kind]
        action = names.index(wanted)
        action = action if decisions.mask(state, limits)[action] else allowed(state, limits)[0]
        state = decisions.step(state, action, limits)
        deepest = max(deepest, trees.depth(state.tree))
    assert deepest == limits.depth


def test_largest_tree():
    _, state = replay(["add3"])
    while not state.done:
        name = {"merge": "add3", "insert": "insert", "op": "conv1x1"}[state.agenda[0].kind]
        state = decisions.step(state, DEFAULT.actions.names.index(name), DEFAULT)
    assert sum(1 for _ in trees.walk(state.tree)) == DEFAULT.max_edges == 39


# The mask


def brute_force(state, limits):
    """What the mask must be: the action is carried out on real cells, if it can be."""
    kind, path = state.agenda[0]
    answers = {
        "merge": {
            "keep": None,
            "add2": Branch(path, "add", 2),
            "add3": Branch(path, "add", 3),
            "concat2": Branch(path, "concat", 2),
        },
        "insert": {"stop": None, "insert": Insert(path) if path else None},
        "op": {op: None if op == "identity" else Replace(path, op) for op in limits.ops},
    }[kind]
    legal = []
    for name in limits.actions.names:
        if name == "stop" and kind == "insert":
            inserted = any(edge.child.edges for edge in state.tree.edges)
            legal.append(inserted or path[0] + 1 < len(state.tree.edges))
        else:
            legal.append(name in answers and grows(state.tree, answers[name], limits))
    return tuple(legal)


def grows(tree, transform, limits):
    if transform is None:
        return True
    macs = 0
    for spec, positions in limits.sites:
        try:
            grown = transform.grow(Cell(spec, tree)).tree
        except ValueError:
            return False
        assert grown == transform(tree)
        macs += positions * cell.cost(grown, spec).macs
    return limits.macs is None or macs <= limits.macs


@any_limits
@pytest.mark.parametrize("seed", range(3))
def test_mask_equals_brute_force(limits, seed):
    rng = random.Random(seed)
    for state in episode(rng, limits):
        if not state.done:
            assert decisions.mask(state, limits) == brute_force(state, limits), state


def test_mask_of_grouped_ops_by_hand():
    """Width 6 in groups of 2: two halves of 3 hold no group; three channels hold none at all."""
    limits = Limits(ops=GROUPED, sites=sites(Conv(6, 6), groups=3))
    group = limits.actions.names.index("group_conv3x3")
    _, alone = replay(["keep", "insert", "keep"], limits)
    _, halved = replay(["keep", "insert", "concat2"], limits)
    assert decisions.mask(alone, limits)[group] and not decisions.mask(halved, limits)[group]


def test_mask_of_narrow_cells_by_hand():
    assert not decisions.mask(State(), LIMITS["narrow"])[3]  # one channel cannot be shared out
    limits = Limits(sites=sites(Conv(4, 3)))
    _, state = replay(["concat2", "insert"], limits)
    assert allowed(state, limits) == [0, 1, 2, 3]  # the larger half has two channels
    state = decisions.step(state, 0, limits)
    while state.agenda[0] != ("insert", (1,)):
        state = decisions.step(state, allowed(state, limits)[0], limits)
    state = decisions.step(state, limits.actions.names.index("insert"), limits)
    assert allowed(state, limits) == [0, 1, 2]  # the smaller one has one


def test_same_places_in_unlike_trees_are_told_apart():
    """One Limits answers for trees in any order: what it remembers must not leak."""
    shared = LIMITS["groups"]
    rng = random.Random(5)
    states = [state for _ in range(20) for state in episode(rng, shared) if not state.done]
    rng.shuffle(states)
    for state in states:
        fresh = Limits(ops=shared.ops, sites=shared.sites)
        assert decisions.mask(state, shared) == decisions.mask(state, fresh)


@pytest.mark.parametrize("name", ["macs", "macs and groups"])
def test_macs_cannot_be_exceeded(name):
    limits, rng, closest = LIMITS[name], random.Random(0), 0.0
    for _ in range(1000):
        for state in episode(rng, limits):
            assert state.done or any(decisions.mask(state, limits))
        macs = sum(cell.cost(state.tree, spec).macs * places for spec, places in limits.sites)
        assert macs <= limits.macs
        closest = max(closest, macs / limits.macs)
    assert closest > 0.9  # the limit was felt


@any_limits
def test_mask_is_never_empty_before_the_end_and_only_then(limits):
    rng = random.Random(2)
    for _ in range(50):
        for state in episode(rng, limits):
            assert any(decisions.mask(state, limits)) != state.done
            assert len(decisions.mask(state, limits)) == len(limits.actions)


# What comes out


@any_limits
@given(seed=seeds)
@LAW
def test_growth_leads_to_the_canonical_tree(limits, seed):
    tree = trees.canonical(last(episode(random.Random(seed), limits)).tree)
    grown = BASE_TREE
    for transform in transforms.growth(tree):
        grown = transform(grown)
        assert limits.holds(grown)
    assert grown == tree
    assert limits.allows(tree)


@any_limits
def test_growth_can_be_done_to_cells(limits):
    rng = random.Random(3)
    for _ in range(3):
        tree = trees.canonical(last(episode(rng, limits)).tree)
        for spec in limits.positions:
            grown = transforms.grow(Cell(spec), transforms.growth(tree))
            assert grown.tree == tree


@given(seeds)
@LAW
def test_base_edges_are_those_of_the_root_alone(seed):
    for state in episode(random.Random(seed), DEFAULT):
        for path, edge in trees.walk(state.tree):
            assert (edge.op == BASE_OP) == (len(path) == 1)


@given(seeds)
@LAW
def test_episodes_are_pure_values(seed):
    one, two = (list(episode(random.Random(seed), DEFAULT)) for _ in range(2))
    assert one == two and len(set(one)) == len(one)
    assert pickle.loads(pickle.dumps(one)) == one


def test_limits_travel_light():
    used, fresh = (Limits(sites=sites(Conv(5, 6))) for _ in range(2))
    last(episode(random.Random(0), used))
    assert pickle.dumps(used) == pickle.dumps(fresh)
    for again in (pickle.loads(pickle.dumps(used)), copy.deepcopy(used)):
        assert again == fresh and hash(again) == hash(fresh)


# Errors


@pytest.mark.parametrize("action", [4, 6, 13, -1])
def test_action_that_does_not_answer(action):
    with pytest.raises(ValueError, match=f"the mask forbids action {action} at .*merge"):
        decisions.step(State(), action, DEFAULT)


def test_action_after_the_end():
    state = last(episode(random.Random(0), DEFAULT))
    assert decisions.mask(state, DEFAULT) == (False,) * 13
    with pytest.raises(ValueError, match="an episode that is not done"):
        decisions.step(state, 0, DEFAULT)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ops": ("conv1x1",)}, "hold 'identity', got"),
        ({"ops": ("identity", "identity")}, "must be distinct"),
        ({"ops": ("identity", "conv9x9")}, "unknown operation 'conv9x9'"),
        ({"depth": 0}, "depth >= 1"),
        ({"sites": ()}, "sites"),
        ({"macs": 1}, "at least the base tree's 147,456, got 1"),
    ],
)
def test_limits_that_make_no_sense(fields, message):
    with pytest.raises(ValueError, match=message):
        Limits(**fields)


def test_cost_is_that_of_all_sites():
    spec = CellSpec(Conv(4, 8))
    limits = Limits(sites=(Site(spec, 16), Site(spec, 4), Site(CellSpec(Conv(8, 8)), 4)))
    tree = Node((Edge(BASE_OP, Node((Edge("conv1x1"),))),))
    assert limits.cost(tree) == 20 * (9 * 4 * 8 + 8 * 8) + 4 * (9 * 8 * 8 + 8 * 8)
    assert limits.allows(tree)
    assert not Limits(sites=limits.sites, macs=limits.cost(tree) - 1).allows(tree)


def test_a_state_answers_for_the_limits_that_are_asked_about():
    tight = Limits(depth=2, macs=DEFAULT.cost(BASE_TREE))
    state = State()
    free, bound = decisions.mask(state, DEFAULT), decisions.mask(state, tight)
    assert free == decisions.mask(State(), DEFAULT) == decisions.mask(state, DEFAULT)
    assert bound == decisions.mask(State(), tight) and bound != free
    for copied in (pickle.loads(pickle.dumps(state)), copy.deepcopy(state)):
        assert copied == state and vars(copied) == vars(State())


def walked(limits, seed):
    choose, states = random.Random(seed), [decisions.begin(limits)]
    while not states[-1].done:
        mask = decisions.mask(states[-1], limits)
        action = choose.choice([action for action, legal in enumerate(mask) if legal])
        states.append(decisions.step(states[-1], action, limits))
    return states


def test_equal_steps_lead_to_the_same_object_until_all_are_forgotten(monkeypatch):
    limits = Limits()
    first, again = walked(limits, 1), walked(limits, 1)
    assert all(one is other for one, other in zip(first, again, strict=True))
    monkeypatch.setattr(decisions, "_MEMORY_OF_STEPS", 5)
    for seed in range(10):
        assert walked(limits, seed) == walked(Limits(), seed)
    fresh = walked(limits, 1)
    assert fresh == first and not any(one is old for one, old in zip(fresh, first, strict=True))
