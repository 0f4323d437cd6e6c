"""DropPath: what it drops, and that nothing else notices."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pathnas.cell import Cell, CellNode, set_drop_path
from pathnas.drop_path import drop_paths
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Branch, grow
from pathnas.treecells import TREES


def ones(n: int, batch: int) -> list[torch.Tensor]:
    return [torch.ones(batch, 2, 3, 3) for _ in range(n)]


@given(n=st.integers(2, 4), rate=st.floats(0, 1), seed=st.integers(0, 1000))
def test_whole_branches_are_dropped_for_each_image_and_one_stays(
    n: int, rate: float, seed: int
) -> None:
    torch.manual_seed(seed)
    dropped = torch.stack(drop_paths(ones(n, 16), rate))
    share = (1 - rate) + rate**n / n
    values = dropped.unique()
    assert all(v == 0 or abs(float(v) - 1 / share) < 1e-4 / share for v in values)
    assert torch.equal(dropped, dropped[:, :, :1, :1, :1].expand_as(dropped))
    assert (dropped[:, :, 0, 0, 0] > 0).any(0).all()


@pytest.mark.parametrize(("n", "rate"), [(2, 0.3), (3, 0.6), (2, 0.95), (3, 1.0)])
def test_the_expectation_of_every_branch_is_unchanged(n: int, rate: float) -> None:
    torch.manual_seed(0)
    images = 40_000
    for branch in drop_paths([torch.ones(images, 1, 1, 1) for _ in range(n)], rate):
        error = branch.std() / images**0.5
        assert abs(branch.mean() - 1) < 4 * error


def test_no_branch_is_dropped_at_rate_0() -> None:
    assert all(torch.equal(branch, ones(3, 8)[0]) for branch in drop_paths(ones(3, 8), 0.0))


def test_a_cell_drops_in_train_mode_only_and_only_where_it_adds() -> None:
    torch.manual_seed(0)
    x = torch.randn(8, 4, 6, 6)
    cell = grow(Cell(CellSpec(Conv(4, 4))), [Branch((), "add", 2)])
    cell.eval()
    with torch.no_grad():
        plain = cell(x)
        set_drop_path(cell, 0.5)
        assert torch.equal(cell(x), plain)
        norms = [m for m in cell.modules() if isinstance(m, torch.nn.BatchNorm2d)]
        cell.train()
        for norm in norms:
            norm.eval()
        seen = cell(x)
    # Of two equal branches one or both remain: the output is scaled as a whole.
    share = 0.5 + 0.25 / 2
    scales = (seen / plain).flatten(1).median(1).values
    for scale in scales:
        assert min(abs(scale - s) for s in (0.5 / share, 1 / share)) < 1e-3
    assert len(set(scales.round(decimals=3).tolist())) == 2
    concat = grow(Cell(CellSpec(Conv(4, 4))), [Branch((), "concat", 2)]).train()
    set_drop_path(concat, 0.9)
    state = torch.get_rng_state()
    concat(x)
    assert torch.equal(state, torch.get_rng_state())


def test_the_rate_is_no_part_of_the_state() -> None:
    cell = Cell(CellSpec(Conv(4, 4)), TREES["treecell_a"])
    before = set(cell.state_dict())
    set_drop_path(cell, 0.2)
    assert {m.drop for m in cell.modules() if isinstance(m, CellNode)} == {0.2}
    assert set(cell.state_dict()) == before
