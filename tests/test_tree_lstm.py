from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pathnas import decisions
from pathnas import tree as trees
from pathnas.actions import Actions
from pathnas.cell import Site
from pathnas.controllers.tree_lstm import TreeLSTM
from pathnas.decisions import Limits, Question, State
from pathnas.envs import observation
from pathnas.specs import CellSpec, Conv
from pathnas.tree import Edge, Node

LIMITS = {
    "default": Limits(),
    "deep": Limits(depth=4, ops=("identity", "conv1x1", "max_pool3x3")),
    "flat": Limits(depth=1),
    "grouped": Limits(
        ops=("identity", "group_conv3x3", "sep_conv5x5"),
        sites=(Site(CellSpec(Conv(8, 8, groups=4)), 16),),
    ),
    "staged": Limits(
        depth=2,
        sites=tuple(Site(CellSpec(Conv(8, 8)), positions) for positions in (64, 16, 4, 2)),
        start=trees.staged([trees.BASE_TREE] * 4),
    ),
}
HIDDEN = 12


def walk(limits: Limits, seed: int, episodes: int = 1) -> list[State]:
    """All states of some random episodes, the last ones without a question included."""
    choose = random.Random(seed)
    states = []
    for _ in range(episodes):
        state = decisions.begin(limits)
        while not state.done:
            states.append(state)
            legal = [a for a, allowed in enumerate(decisions.mask(state, limits)) if allowed]
            state = decisions.step(state, choose.choice(legal), limits)
        states.append(state)
    return states


def encode(states: list[State], limits: Limits) -> dict:
    """The arrays alone, from which the trees must be read."""
    return dict(observation.Observed(states, limits))


def build(limits: Limits, seed: int = 0) -> TreeLSTM:
    generator = torch.Generator().manual_seed(seed)
    network = TreeLSTM(limits.actions, 10, HIDDEN, generator)
    with torch.no_grad():  # larger than they start, so that a wrong term shows
        network.ops.mul_(10)
        network.nodes.mul_(10)
    return network


class Reference:
    """The tree-LSTM as one would write it down: one tree at a time, one gate after another."""

    def __init__(self, network: TreeLSTM, limits: Limits) -> None:
        stages = map(trees.stage_name, range(limits.actions.stages))
        self.network, self.ops = network, ("", trees.BASE_OP, *limits.ops, *stages)
        self.zero = torch.zeros(HIDDEN), torch.zeros(HIDDEN)

    def features(self, state: State) -> torch.Tensor:
        kind, path = state.agenda[0] if state.agenda else ("merge", ())
        if kind == "merge":
            up, _ = self.up_node(trees.node_at(state.tree, path))
        else:
            up, _ = self.up_edge(trees.edge_at(state.tree, path))
        down, _ = self.down(state.tree, path)
        return torch.cat([up, down])

    def up_edge(self, edge: Edge):
        return self.cell(self.network.up_edge, edge.op, self.up_node(edge.child))

    def up_node(self, node: Node):
        if not node.edges:
            return self.zero
        children = [self.up_edge(edge) for edge in node.edges]
        return self.merge(node, children, None) if node.merge else children[0]

    def down(self, tree: Node, path: trees.Path):
        state = self.zero
        for depth, index in enumerate(path):
            node = trees.node_at(tree, path[:depth])
            if node.merge:
                children = [self.up_edge(edge) for edge in node.edges]
                children[index] = self.zero
                state = self.merge(node, children, state)
            state = self.cell(self.network.down_edge, node.edges[index].op, state)
        return state

    def cell(self, cell, op: str, state):
        h, c = state
        x = self.network.ops[self.ops.index(op)]
        gates = cell.weight_ih @ x + cell.bias_ih + cell.weight_hh @ h + cell.bias_hh
        i, f, g, o = gates.chunk(4)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c

    def merge(self, node: Node, children, parent):
        names = {
            ("add", "replicate"): observation.ADD,
            ("concat", "split"): observation.CONCAT_SPLIT,
            ("concat", "replicate"): observation.CONCAT_REPLICATE,
            ("stages", None): observation.STAGES,
        }
        x = self.network.nodes[names[node.merge, node.allocation]]
        direction = "up" if parent is None else "down"
        merge = "add" if node.merge == "stages" else node.merge
        step = getattr(self.network, f"{direction}_{merge}")
        i, o, u, f = (step.input.weight @ x + step.input.bias).chunk(4)
        sources = children if parent is None else [*children, parent]
        if merge == "add":
            total = sum(h for h, _ in children)
            added = list((step.gates @ total).chunk(3))
            forgets = [f + step.forget @ h for h, _ in children]
            if parent is not None:
                *of_parent, forget = (step.parent @ parent[0]).chunk(4)
                added = [a + p for a, p in zip(added, of_parent, strict=True)]
                forgets.append(f + forget)
        else:
            added_all = 0
            for position, (h, _) in enumerate(sources):
                columns = slice(position * HIDDEN, (position + 1) * HIDDEN)
                added_all = added_all + step.weight[:, columns] @ h
            *added, forget = added_all.split([HIDDEN] * 3 + [HIDDEN * len(sources)])
            forgets = [f + own for own in forget.chunk(len(sources))]
        i, o, u = (gate + more for gate, more in zip((i, o, u), added, strict=True))
        c = i.sigmoid() * u.tanh()
        for gate, (_, state) in zip(forgets, sources, strict=True):
            c = c + gate.sigmoid() * state
        return o.sigmoid() * c.tanh(), c


def gradients(network: TreeLSTM, features: torch.Tensor) -> list[torch.Tensor]:
    network.zero_grad()
    weights = torch.linspace(-1, 1, features.numel()).view_as(features)
    (features * weights).sum().backward()
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in network.parameters()]


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
@given(st.integers(0, 10**6))
@settings(max_examples=8)
def test_agrees_with_the_recursive_reference(limits, seed):
    states = walk(limits, seed, episodes=2)
    network, reference = build(limits), Reference(build(limits), limits)
    batched = network(encode(states, limits))
    one_by_one = torch.stack([reference.features(state) for state in states])
    torch.testing.assert_close(batched, one_by_one, rtol=1e-5, atol=1e-5)
    assert one_by_one[:-1].abs().max() > 0.05 and one_by_one.std(dim=0).max() > 0.01
    for ours, theirs in zip(
        gradients(network, batched), gradients(reference.network, one_by_one), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("limits", LIMITS.values(), ids=LIMITS.keys())
def test_arrays_say_what_states_say(limits):
    states = walk(limits, 3, episodes=4)
    network = build(limits)
    found = network(observation.Observed(states, limits))
    torch.testing.assert_close(network(encode(states, limits)), found, rtol=0, atol=0)


def test_the_states_of_the_comparison_use_every_weight():
    limits = LIMITS["default"]
    network = build(limits)
    states = [state for seed in range(30) for state in walk(limits, seed)]
    found = gradients(network, network(encode(states, limits)))
    for (name, _), gradient in zip(network.named_parameters(), found, strict=True):
        assert gradient.abs().max() > 0, name
    types = np.unique(encode(states, limits)["node"])
    assert set(types) == set(range(observation.CONCAT_REPLICATE + 1))


@given(st.integers(0, 10**6))
@settings(max_examples=15)
def test_a_row_does_not_depend_on_the_rest_of_the_batch(seed):
    limits = LIMITS["default"]
    network = build(limits)
    states = walk(limits, seed, episodes=3)
    random.Random(seed).shuffle(states)
    together = network(encode(states, limits))
    for index in range(0, len(states), 7):
        alone = network(encode([states[index]], limits))
        torch.testing.assert_close(together[index : index + 1], alone, rtol=0, atol=1e-6)


def test_the_order_of_added_siblings_does_not_matter_that_of_concatenated_ones_does():
    limits = LIMITS["default"]
    network = build(limits)
    left, right = Edge("conv1x1"), Edge("max_pool3x3")
    for merge, allocation, equal in (("add", "replicate", True), ("concat", "split", False)):
        features = []
        for edges in ((left, right), (right, left)):
            inner = Edge(trees.BASE_OP, Node(edges, merge, allocation))
            tree = Node((inner, Edge(trees.BASE_OP)), "add", "replicate")
            state = State(tree, (Question("insert", (1,)),))
            features.append(network(encode([state], limits)))
        assert torch.allclose(*features, rtol=0, atol=1e-6) == equal


def test_kinds_of_concat_differ_by_their_embedding_alone():
    limits = LIMITS["default"]
    network = build(limits)
    found = []
    for allocation in ("split", "replicate"):
        inner = Node((Edge("conv1x1"),) * 2, "concat", allocation)
        tree = Node((Edge(trees.BASE_OP, inner), Edge(trees.BASE_OP)), "add", "replicate")
        found.append(encode([State(tree, (Question("insert", (1,)),))], limits))
    assert not torch.allclose(network(found[0]), network(found[1]))
    with torch.no_grad():
        network.nodes[observation.CONCAT_SPLIT] = network.nodes[observation.CONCAT_REPLICATE]
    torch.testing.assert_close(network(found[0]), network(found[1]))


def test_works_in_double_precision():
    limits = LIMITS["default"]
    states = walk(limits, 2)
    single = build(limits)(encode(states, limits))
    double = build(limits).double()(encode(states, limits))
    assert double.dtype == torch.float64
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-5)


def test_too_many_branches_are_named():
    limits = LIMITS["default"]
    tree = Node((Edge(trees.BASE_OP),) * 3, "concat", "replicate")
    with pytest.raises(ValueError, match=r"at most .* branches of a node, got 3"):
        build(limits)(encode([State(tree, ())], limits))


def test_initial_weights():
    network = TreeLSTM(Actions(), 10, 100, torch.Generator().manual_seed(0))
    eye = torch.eye(100)
    for weight in (network.up_edge.weight_hh, network.down_concat.weight, network.up_add.gates):
        for rows in weight.split(100):
            for block in rows.split(100, dim=1):
                torch.testing.assert_close(block @ block.t(), eye, rtol=0, atol=1e-5)
    for embedding in (network.ops, network.nodes):
        assert embedding.shape[1] == 10
        assert 0.08 < embedding.abs().max() <= 0.1
