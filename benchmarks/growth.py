"""What growing costs, as ratios: ``python -m benchmarks.growth``.

Each transform against a ``copy.deepcopy`` of the cell that it changes, the layer-level ones against
one of the network (torchvision's ResNet-18, followed with two images of 64 x 64); and growing every
cell of a network to a tree of depth 3 and calibrating it, against one evaluation pass of the base
network (and of the grown one) over the same images. CPU time of this process, medians. The column
"logged" is :func:`pathnas.growth.transform` without images: growing, with fingerprints and the log.
"copying", for comparison, is a bare ``copy.deepcopy`` of the grown network: as many modules.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from copy import deepcopy

import torch
import torchvision
from torch import Tensor, nn

from benchmarks import table
from benchmarks.machine import facts, rate
from benchmarks.table import Row
from pathnas import growth, networks, probing, training
from pathnas.cell import Cell
from pathnas.layers import Deepen, LayerTransform, Widen
from pathnas.specs import CellSpec, Conv
from pathnas.transforms import Branch, Insert, Replace, Transform, grow

DEPTH_3: list[Transform] = [
    Branch((), "add", 2),
    Insert((0,)),
    Replace((0, 0), "conv1x1"),
    Insert((0, 0)),
    Branch((0, 0), "concat", 2),
    Replace((0, 0, 0), "avg_pool3x3"),
    Replace((0, 0, 1), "sep_conv7x7"),
    Insert((1,)),
    Branch((1,), "add", 2),
    Replace((1, 0), "sep_conv5x5"),
    Insert((1, 0)),
    Branch((1, 0), "add", 2),
    Replace((1, 0, 0), "sep_conv3x3"),
    Replace((1, 0, 1), "max_pool3x3"),
    Replace((1, 1), "sep_conv3x3"),
    Insert((1, 1)),
]

EVALUATIONS, COPIES = 1.5, 2.0
"""The aims: evaluation passes that growing and calibrating may cost, and copies of a network that a
layer-level transform may."""

NETWORKS = (
    ("chain 8, 16 on 8x8", "chain", {"widths": (8, 16)}, (1, 8, 8)),
    ("chain 16, 32, 64 on 28x28", "chain", {"widths": (16, 32, 64)}, (1, 28, 28)),
    (
        "residual 3 x (16, 32, 64) on 32x32",
        "residual",
        {"widths": (16, 32, 64), "cells": 3},
        (3, 32, 32),
    ),
)


def milliseconds(function: Callable[[], object], repetitions: int) -> float:
    """Returns the median CPU time of a call, after one to warm up."""
    found = []
    for _ in range(1 + repetitions):
        start = time.process_time()
        function()
        found.append(time.process_time() - start)
    return 1e3 * statistics.median(found[1:])


def transform_ratios(width: int, repetitions: int) -> list[tuple[str, float]]:
    """Returns the cost of each transform of a cell, in deepcopies of it."""
    base = Cell(CellSpec(Conv(width, width))).eval()
    inserted = grow(base, [Insert((0,))])
    todo: list[tuple[Cell, Transform]] = [
        (base, Branch((), "add", 2)),
        (base, Branch((), "concat", 2)),
        (base, Insert((0,))),
        (inserted, Replace((0, 0), "conv1x1")),
        (inserted, Replace((0, 0), "conv3x3")),
        (inserted, Replace((0, 0), "sep_conv7x7")),
        (inserted, Replace((0, 0), "max_pool3x3")),
    ]
    found = []
    for cell, transform in todo:
        # Two at once: the second is memory that the allocator must first get from the system, as
        # it must for a transform's second set of weights.
        pair = milliseconds(lambda c=cell: (deepcopy(c), deepcopy(c)), repetitions)  # type: ignore[misc]
        done = milliseconds(lambda c=cell, t=transform: t.grow(c), repetitions)  # type: ignore[misc]
        name = getattr(transform, "op", getattr(transform, "merge", ""))
        found.append((f"{type(transform).__name__} {name}".strip(), 2 * done / pair))
    return found


def layer_ratios(network: nn.Module, repetitions: int, size: int = 64) -> list[tuple[str, float]]:
    """Returns the cost of layer-level transforms of a ResNet, in deepcopies of it."""
    x = torch.randn(2, 3, size, size)
    width = network.get_submodule("layer1.0.conv1").weight.shape[0]
    pair = milliseconds(lambda: (deepcopy(network), deepcopy(network)), repetitions)
    todo: list[tuple[str, LayerTransform, Tensor | None]] = [
        ("Widen", Widen("layer1.0.conv1", width + 6), x),
        ("Deepen", Deepen("layer1.0.conv1"), None),
        ("Deepen, calibrated on 2 images", Deepen("layer1.0.conv1"), x),
    ]
    found = []
    for name, transform, example in todo:
        done = milliseconds(lambda t=transform, e=example: t.grow(network, example=e), repetitions)  # type: ignore[misc]
        found.append((name, 2 * done / pair))
    return found


def network_row(
    name: str,
    options: dict[str, object],
    shape: tuple[int, int, int],
    images: int,
    repetitions: int,
) -> tuple[float, float, float, float, float, float]:
    """Returns milliseconds: evaluation of base and grown, calibration, growing, transform, copy."""
    network: nn.Module = networks.build(name, channels=shape[0], classes=10, **options)
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.randn(images, *shape).contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        base = milliseconds(lambda: network(x), repetitions)
        calibrated = milliseconds(lambda: training.calibrate(network, x), repetitions)
        grown = grow(network, DEPTH_3)
        after = milliseconds(lambda: grown(x), repetitions)
    growing = milliseconds(lambda: grow(network, DEPTH_3), repetitions)
    logged = milliseconds(lambda: growth.transform(network, DEPTH_3), repetitions)
    copied = milliseconds(lambda: deepcopy(grown), repetitions)
    return base, after, calibrated, growing, logged, copied


def network_rows(title: str, row: tuple[float, ...], floor: float) -> list[Row]:
    """Returns the row of the one table for a network of :func:`network_row`."""
    base, _, calibrated, growing, *_ = row
    cost = growing + calibrated
    what, against = f"growing, calibrating: {title}", "evaluating the base"
    return [Row(what, "ms", cost, against, base, cost / base, EVALUATIONS, True, floor)]


def transform_rows(found: list[tuple[str, float]], aim: float | None, of: str) -> list[Row]:
    """Returns the rows of the one table for ratios to a deepcopy."""
    return [Row(f"{name}: {of}", "copies", ratio, aim=aim, most=True) for name, ratio in found]


def pass_floor(
    name: str, options: dict[str, object], shape: tuple[int, int, int], flops: float
) -> float:
    """Returns the milliseconds that an image's pass of a network takes at the least."""
    network = networks.build(name, channels=shape[0], classes=10, **options)
    return 2e3 * probing.counted(network, torch.zeros(1, *shape))[1] / flops


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="what growing costs, as ratios")
    parser.add_argument("--repetitions", type=int, default=7, help="of each figure (default: 7)")
    parser.add_argument("--images", type=int, default=256, help="in the batch (default: 256)")
    table.add_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    flops = rate()
    print(facts())
    columns = [transform_ratios(width, 3 * arguments.repetitions) for width in (16, 256)]
    print(f"\n{'a transform, in deepcopies of its cell':<40}{'16 wide':>9}{'256 wide':>9}")
    for (name, narrow), (_, wide) in zip(*columns, strict=True):
        print(f"{name:<40}{narrow:9.2f}{wide:9.2f}")
    every = transform_rows(columns[0], None, "a cell 16 wide")
    print(f"\n{'in deepcopies of the network':<40}{'ResNet-18':>9}")
    layered = layer_ratios(torchvision.models.resnet18().eval(), arguments.repetitions)
    every += transform_rows(layered, COPIES, "ResNet-18")
    for name, ratio in layered:
        print(f"{name:<40}{ratio:9.2f}")
    print(f"\n{arguments.images} images; (growing + calibrating) / evaluating; ms")
    print(
        f"{'network':<36}{'base':>8}{'grown':>8}{'calibr.':>8}{'growing':>8}{'logged':>8}{'copying':>8}"
        f"{'/ base':>8}{'/ grown':>8}"
    )
    for title, name, options, shape in NETWORKS:
        row = network_row(name, options, shape, arguments.images, arguments.repetitions)
        base, after, calibrated, growing, *_ = row
        cost = growing + calibrated
        figures = "".join(f"{figure:8.1f}" for figure in row)
        print(f"{title:<36}{figures}{cost / base:8.2f}{cost / after:8.2f}")
        floor = arguments.images * pass_floor(name, options, shape, flops)
        every += network_rows(title, row, floor)
    table.save(arguments.rows, every)


if __name__ == "__main__":
    main()
