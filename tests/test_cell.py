"""Cells: how channels are shared out, what trees cost, gates and moments."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from pathnas import cell as cells
from pathnas import tree as trees
from pathnas.cell import Cell, cost, edge_ranges, fits, node_widths, shares
from pathnas.ops import Gate
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import grow
from pathnas.tree import BASE_TREE, Edge, Node
from tests.strategies import growths, images, specs


@given(channels=st.integers(1, 40), n=st.integers(1, 6), unit=st.integers(1, 4))
def test_shares_are_even_whole_units(channels: int, n: int, unit: int) -> None:
    if channels % unit or channels // unit < n:
        with pytest.raises(ValueError, match=f"whole groups of {unit}, got {channels}"):
            shares(channels, n, unit)
        return
    found = shares(channels, n, unit)
    assert sum(found) == channels and len(found) == n
    assert all(share % unit == 0 for share in found)
    assert max(found) - min(found) in (0, unit) and list(found) == sorted(found, reverse=True)


def test_seven_channels_in_two_are_four_and_three() -> None:
    spec = CellSpec(Conv(5, 7))
    split = Node((Edge("identity"), Edge("conv1x1")), "concat", "split")
    first, second = edge_ranges(split, 7, 7, spec)
    assert first == ((0, 4), (0, 4)) and second == ((4, 7), (4, 7))
    tree = Node((Edge("base"), Edge("base")), "concat", "replicate")
    assert [r.inputs for r in edge_ranges(tree, 5, 7, spec)] == [(0, 5), (0, 5)]
    assert node_widths(tree, (1,), spec) == (3, 3)


@given(data=st.data())
def test_multiply_adds_are_those_that_torch_counts(data: st.DataObject) -> None:
    spec = data.draw(specs())
    tree = BASE_TREE
    for transform in data.draw(growths(spec)):
        tree = transform(tree)
    x = images(spec.conv.channels_in, 0, torch.float32)[:1]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        y = Cell(spec, tree).eval()(x)
    assert 2 * cost(tree, spec).macs * y.shape[2] * y.shape[3] == counter.get_total_flops()


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (Node((Edge("conv1x1"),)), r"'base', got 'conv1x1' at path \(0,\)"),
        (Node((Edge("base", Node((Edge("base"),))),)), r"got 'base' at path \(0, 0\)"),
        (Node(), "a leaf cannot change 4 channels to 6"),
        (Node((Edge("base", Node((Edge("conv9x9"),))),)), "unknown operation 'conv9x9'"),
        (
            Node((Edge("base", Node((Edge("identity"),) * 2, "concat", "replicate")),)),
            "identity keeps its width, got 6 -> 3",
        ),
        (
            Node((Edge("base", Node((Edge("conv1x1"),) * 7, "concat", "split")),)),
            "7 branches need at least 7 channels",
        ),
    ],
)
def test_trees_that_no_cell_can_hold_are_refused(tree: Node, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cell(CellSpec(Conv(4, 6)), tree)


def test_fits_asks_for_the_width_only() -> None:
    halves = Node((Edge("base"), Edge("base")), "concat", "replicate")
    assert fits(halves, CellSpec(Conv(3, 2)))
    assert not fits(halves, CellSpec(Conv(3, 1)))


def test_edges_and_nodes_are_found_by_path() -> None:
    tree = Node((Edge("base", Node((Edge("max_pool3x3"),))), Edge("base")), "add", "replicate")
    cell = Cell(CellSpec(Conv(3, 3)), tree)
    assert cell.edge_at((0, 0)).name == "max_pool3x3"
    assert cell.node_at((1,)).tree.is_leaf
    assert "max_pool3x3" in repr(cell)
    with pytest.raises(ValueError, match="leads nowhere"):
        cell.edge_at((0, 1))


def test_gates_are_set_and_at_zero_are_gone() -> None:
    tree = trees.from_dict(
        {"edges": [{"op": "base", "child": {"edges": [{"op": "identity"}]}}]},
    )
    from pathnas.transforms import Replace

    network = nn.Sequential(grow(Cell(CellSpec(Conv(3, 3)), tree), [Replace((0, 0), "conv1x1")]))
    names = set(network.state_dict())
    gates = [m for m in network.modules() if isinstance(m, Gate)]
    cells.set_gates(network, 0.5)
    assert [gate.a for gate in gates] == [0.5]
    cells.set_gates(network, 0.0)
    assert not any(isinstance(m, Gate) for m in network.modules())
    assert set(network.state_dict()) == names


def test_moments_travel_by_name_and_stay_out_of_the_state() -> None:
    network = nn.Sequential(Cell(CellSpec(Conv(3, 3))))
    edge = network[0].root.edges[0]
    edge.moments = cells.Moments(torch.randn(3), torch.rand(3))
    found = cells.moments(network)
    assert set(found) == {"0.root.edges.0.mean", "0.root.edges.0.var"}
    assert not any("mean" in name and "running" not in name for name in network.state_dict())
    other = nn.Sequential(Cell(CellSpec(Conv(3, 3))))
    cells.set_moments(other, found)
    assert torch.equal(other[0].root.edges[0].moments.mean, edge.moments.mean)
