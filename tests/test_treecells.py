"""The paper's trees."""

from __future__ import annotations

import pytest

from pathnas import tree as trees
from pathnas.cell import Cell, cost, fits
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import grow, growth
from pathnas.tree import BASE_TREE
from pathnas.treecells import TREES

A = (
    "add(base > add(conv1x1 > concat(avg_pool3x3, sep_conv7x7), max_pool3x3 > add(sep_conv3x3, "
    "sep_conv5x5)), base > add(sep_conv5x5 > add(sep_conv5x5, avg_pool3x3, avg_pool3x3), "
    "sep_conv3x3 > add(avg_pool3x3, sep_conv3x3)))"
)
B = (
    "add(base > add(conv1x1 > sep_conv5x5, sep_conv7x7 > avg_pool3x3), base > add(avg_pool3x3 > "
    "add(sep_conv7x7, conv1x1), sep_conv7x7 > avg_pool3x3))"
)


def test_the_trees_are_those_of_the_papers_figures() -> None:
    assert {name: str(tree) for name, tree in TREES.items()} == {"treecell_a": A, "treecell_b": B}


@pytest.mark.parametrize("name", TREES)
def test_transforms_lead_to_a_tree_and_a_json_text_holds_it(name: str) -> None:
    tree = TREES[name]
    assert trees.depth(tree) == 3 and trees.from_json(trees.to_json(tree)) == tree
    grown = grow(Cell(CellSpec(Conv(4, 6, groups=2))), growth(tree))
    assert grown.tree == tree


def test_the_cost_of_treecell_a_is_that_of_its_layers_by_hand() -> None:
    spec, w = CellSpec(Conv(8, 8, groups=2)), 8
    base = 9 * w * w // 2
    first = w * w + (w // 2) * (49 + w // 2) + w * (9 + w) + w * (25 + w)
    second = 2 * w * (25 + w) + 2 * w * (9 + w)
    assert cost(TREES["treecell_a"], spec).macs == 2 * base + first + second
    norms = 2 * (2 * w) + 2 * (w + w // 2 + w + w) + 2 * (4 * w)
    assert cost(TREES["treecell_a"], spec).parameters == 2 * base + first + second + norms


def test_a_cell_of_one_channel_holds_only_what_does_not_split() -> None:
    spec = CellSpec(Conv(1, 1))
    assert fits(BASE_TREE, spec) and fits(TREES["treecell_b"], spec)
    assert not fits(TREES["treecell_a"], spec)
