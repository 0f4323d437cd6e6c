"""The table of latencies against clocks: ``python -m benchmarks.latency``.

Random trees of each experiment are built, and the fastest of many passes of one image is compared
with what the table promises for the tree.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.machine import facts
from pathnas import config, counting, networks
from pathnas.plan import Plan
from pathnas.tree import Node

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
NAMES = ("digits", "mnist", "photos")
PASSES = 40


def timed(plan: Plan, tree: Node) -> float:
    """Returns the microseconds of one image through the network of a tree."""
    shape = plan.splits.image_shape
    network = networks.build(
        tree=tree, channels=shape[0], classes=plan.splits.classes, **plan.config.base.arguments()
    )
    network = network.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    image = torch.zeros(1, *shape)
    found = []
    with torch.no_grad():
        for _ in range(PASSES):
            start = time.perf_counter()
            network(image)
            found.append(1e6 * (time.perf_counter() - start))
    return min(found)


def promised(plan: Plan, tree: Node) -> float:
    """Returns the microseconds that the table promises for the network of a tree."""
    limits = plan.limits
    assert limits.latencies is not None
    grown = limits.costs(tree).latency - limits.costs(limits.start).latency
    return (limits.latencies.network + grown) / 1e3


def main() -> None:
    """Prints for each experiment how promised and measured latencies go together."""
    parser = argparse.ArgumentParser(description="the table of latencies against clocks")
    parser.add_argument("--trees", type=int, default=24, help="random trees (default: 24)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(facts())
    print(f"{'':10}{'correlation':>12}{'of macs':>9}   measured / promised: least, median, most")
    for name in NAMES:
        words = ["search.max_latency=1.5", "data.train=64", "data.validation=64"]
        plan = Plan.of(config.load(EXPERIMENTS / f"{name}.yaml", words))
        plan = plan.timed(plan.measured())
        generator = torch.Generator().manual_seed(0)
        trees = counting.random_trees(plan.limits, arguments.trees, generator)
        clock = np.array([timed(plan, tree) for tree in trees])
        table = np.array([promised(plan, tree) for tree in trees])
        macs = np.array([plan.limits.cost(tree) for tree in trees])
        least, median, most = np.quantile(clock / table, [0, 0.5, 1])
        print(
            f"{name:10}{np.corrcoef(clock, table)[0, 1]:12.2f}{np.corrcoef(clock, macs)[0, 1]:9.2f}"
            f"   {least:.2f}, {median:.2f}, {most:.2f}"
        )


if __name__ == "__main__":
    main()
