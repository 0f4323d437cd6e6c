from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pathnas import cell, costs
from pathnas import tree as trees
from pathnas.cell import Site
from pathnas.specs import CellSpec, Conv
from tests import strategies

SITES = (Site(CellSpec(Conv(24, 24)), 64), Site(CellSpec(Conv(24, 24, stride=2)), 16))


@given(seed=st.integers(0, 1000))
def test_edges_together_cost_what_the_cells_cost(seed):
    tree = trees.BASE_TREE
    for transform in strategies.random_growth([site.spec for site in SITES], seed=seed):
        tree = transform(tree)
    found = costs.edges(tree, SITES)
    assert set(found) == {path for path, _ in trees.walk(tree)}
    whole = [cell.cost(tree, site.spec) for site in SITES]
    assert sum(cost.parameters for cost in found.values()) == sum(c.parameters for c in whole)
    positions = [site.positions for site in SITES]
    macs = sum(c.macs * n for c, n in zip(whole, positions, strict=True))
    assert sum(cost.macs for cost in found.values()) == macs


def test_a_cell_that_cannot_hold_the_tree():
    tree = trees.Node((trees.Edge("base"),) * 3, "concat", "replicate")
    with pytest.raises(ValueError, match="at least 3 channels"):
        costs.edges(tree, [Site(CellSpec(Conv(2, 2)), 1)])
