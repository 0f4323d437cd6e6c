"""How many times faster the controller is than one written from the paper, as pairs in one run.

Run it with ``python -m benchmarks.controller``. Both sides do all that sampling and the gradient of
one update need: the decision process with its masks, the controller forwards, and its gradient; the
optimizer's step, which would be the same, is left out. They take turns, so a machine that slows
down slows both; the ratio is the median over the pairs, of CPU time of one thread. Ours remembers
what it has seen, so no seed is sampled twice. :mod:`benchmarks.reference_controller` says what the
reference does.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import table
from benchmarks.machine import facts, rate
from benchmarks.reference_controller import ReferenceController
from benchmarks.rollout import NO_STEP
from benchmarks.table import Row
from pathnas.controllers.forest import ZERO
from pathnas.controllers.policy import Controller
from pathnas.controllers.reinforce import Reinforce
from pathnas.controllers.rollout import rollout
from pathnas.controllers.tree_lstm import ChildSumWeights
from pathnas.decisions import Limits

PAIRS = {10: 15, 64: 7, 256: 3}
"""Episodes of an update, and how many pairs are measured by default."""

AIMS = {10: 25.0, 64: 70.0, 256: 130.0}
"""By episodes, how many times as fast as the reference the controller is meant to be."""


def ours(learner: Reinforce, limits: Limits, episodes: int, seed: int) -> int:
    """Samples and learns as a search does; returns the number of decisions."""
    generator = torch.Generator().manual_seed(seed)
    batch = rollout(learner.controller, limits, episodes, generator)
    learner.update(batch, [float(index % 2) for index in range(episodes)])
    return sum(len(episode.actions) for episode in batch)


def theirs(learner: Reinforce, limits: Limits, episodes: int, seed: int) -> int:
    """Does the same with the reference."""
    generator = torch.Generator().manual_seed(seed)
    reference = ReferenceController(learner.controller, limits)
    learner.controller.zero_grad()
    walks = [reference.sample(generator) for _ in range(episodes)]
    reference.learn(walks, [index % 2 - 0.5 for index in range(episodes)], learner.entropy)
    return sum(len(walk.actions) for walk in walks)


Side = Callable[[Reinforce, Limits, int, int], int]

WARM: dict[Side, int] = {theirs: 2, ours: 256}
"""Episodes at most of a batch that does not count."""


def timed(side: Side, learner: Reinforce, limits: Limits, episodes: int, seed: int) -> float:
    """Returns the milliseconds of CPU time that a side needs for a decision.

    A few batches that do not count come first: the memory and the caches that the other side and
    the garbage collector have left make them slower.
    """
    gc.collect()
    for warm in range(1, 4):
        side(learner, limits, min(episodes, WARM[side]), 1000 * warm + seed)
    start = time.process_time()
    decided = side(learner, limits, episodes, seed)
    return (time.process_time() - start) * 1e3 / decided


def measure(episodes: int, pairs: int) -> dict[str, float]:
    """Returns medians: milliseconds a decision of either side, and the ratio of a pair."""
    learner = Reinforce(Controller(), learning_rate=NO_STEP)
    limits = Limits()
    found = []
    with mock.patch.object(learner._optimizer, "step"):
        for seed in range(pairs):
            sides = theirs, ours
            reference, own = (timed(side, learner, limits, episodes, seed) for side in sides)
            found.append((reference, own, reference / own))
    names = "reference", "controller", "ratio"
    return dict(zip(names, map(statistics.median, zip(*found, strict=True)), strict=True))


def operations(episodes: int) -> float:
    """Returns the operations of an update's matrix products, for each of its decisions.

    torch counts those of the heads; those of the tree-LSTM are numpy's: a product forward, and two
    backward, of the states of each kind with its weights.
    """
    learner = Reinforce(Controller(), learning_rate=NO_STEP)
    batch = rollout(learner.controller, Limits(), episodes, torch.Generator().manual_seed(0))
    with FlopCounterMode(display=False) as counter:
        learner.update(batch, [float(index % 2) for index in range(episodes)])
    network = learner.controller.tree_lstm
    forest, steps = network.forest(), network.steps()
    seen = [state for episode in batch for state in episode.observations.states]
    macs = 0
    for group in forest.plant(seen, {ZERO: 0}).groups:
        weights = steps[group.kind]
        each = sum(weight.numel() for weight in weights.recurrent())
        if isinstance(weights, ChildSumWeights):  # every child goes through the same
            each += (network.adds - 1) * weights.forget.numel()
        macs += len(group.inputs) * each
    decided = sum(len(episode.actions) for episode in batch)
    return (counter.get_total_flops() + 3 * 2 * macs) / decided


def rows(found: dict[int, dict[str, float]], flops: float) -> list[Row]:
    """Returns the rows of the one table; the floor is that of the update's products.

    Args:
        found: by episodes, of :func:`measure`.
        flops: operations a second of matrix products.
    """
    return [
        Row(
            f"sampling and learning: {episodes} episodes",
            "ms a decision",
            row["controller"],
            "written from the paper",
            row["reference"],
            row["ratio"],
            AIMS[episodes],
            floor=1e3 * operations(episodes) / flops,
        )
        for episodes, row in found.items()
    ]


def main() -> None:
    """Prints the table, and writes it as JSON if asked."""
    parser = argparse.ArgumentParser(description="the controller against its reference")
    parser.add_argument("--pairs", type=int, help="of each row (default: 15, 7, 3)")
    parser.add_argument("--json", type=Path, help="file for the figures")
    table.add_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(facts())
    print(f"{'episodes':>8} {'reference':>10} {'controller':>11} {'ratio':>6}  (ms a decision)")
    found = {}
    for episodes, pairs in PAIRS.items():
        row = found[episodes] = measure(episodes, arguments.pairs or pairs)
        print(
            f"{episodes:8} {row['reference']:10.3f} {row['controller']:11.4f} {row['ratio']:6.1f}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": facts(), "rows": found}, indent=1))
    if arguments.rows:
        table.save(arguments.rows, rows(found, rate()))


if __name__ == "__main__":
    main()
