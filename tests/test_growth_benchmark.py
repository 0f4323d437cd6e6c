"""The benchmark of growing measures what it says."""

from __future__ import annotations

import torchvision

from benchmarks import growth as benchmark
from pathnas import tree as trees
from pathnas.cell import Cell
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import grow


def test_its_tree_has_depth_three_and_its_figures_are_there() -> None:
    assert trees.depth(grow(Cell(CellSpec(Conv(4, 4))), benchmark.DEPTH_3).tree) == 3
    ratios = dict(benchmark.transform_ratios(4, 1))
    assert len(ratios) == 7 and "Replace sep_conv7x7" in ratios
    assert all(ratio > 0 for ratio in ratios.values())
    resnet = torchvision.models.resnet18(num_classes=2)
    assert all(ratio > 0 for _, ratio in benchmark.layer_ratios(resnet, 1, 16))
    row = benchmark.network_row("chain", {"widths": (2, 4)}, (1, 8, 8), 4, 1)
    assert all(figure > 0 for figure in row)


def test_the_clock_is_the_median_after_one_to_warm_up() -> None:
    calls: list[int] = []
    assert benchmark.milliseconds(lambda: calls.append(1), 3) >= 0
    assert len(calls) == 4
