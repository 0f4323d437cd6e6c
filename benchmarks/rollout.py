"""Milliseconds a decision of the controller: sampling, and the gradient of the update.

Run it with ``python -m benchmarks.rollout``. Sampling counts all that a rollout does: the decision
process, its masks and observations, the controller. The gradient is one whole update.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from benchmarks import table
from benchmarks.machine import facts
from benchmarks.table import Row
from pathnas.controllers.policy import Controller
from pathnas.controllers.reinforce import Reinforce
from pathnas.controllers.rollout import rollout
from pathnas.limits import Limits

EPISODES = 1, 10, 64
NO_STEP = 1e-12
"""A learning rate that leaves the policy as it is, so that all repetitions do alike work."""


def measure(episodes: int, repetitions: int) -> tuple[float, float, float]:
    """Returns medians over repetitions: decisions, and milliseconds a decision of both halves."""
    learner = Reinforce(Controller(), learning_rate=NO_STEP)
    generator = torch.Generator().manual_seed(episodes)
    limits = Limits()
    found = []
    for _ in range(3 + repetitions):
        start = time.perf_counter()
        batch = rollout(learner.controller, limits, episodes, generator)
        sampled = time.perf_counter()
        learner.update(batch, [float(index % 2) for index in range(episodes)])
        learned = time.perf_counter()
        decisions = sum(len(episode.actions) for episode in batch)
        each = 1e3 / decisions
        found.append((decisions, (sampled - start) * each, (learned - sampled) * each))
    decided, sampling, gradient = zip(*found[3:], strict=True)
    return statistics.median(decided), statistics.median(sampling), statistics.median(gradient)


def rows(episodes: int, sampling: float, gradient: float) -> list[Row]:
    """Returns the rows of the one table, of milliseconds a decision."""
    halves = {"sampling": sampling, "gradient": gradient}
    return [Row(f"{n}: {episodes} episodes", "ms a decision", ms) for n, ms in halves.items()]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="milliseconds a decision of the controller")
    parser.add_argument("--repetitions", type=int, default=20, help="of each row (default: 20)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: 1)")
    table.add_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(facts())
    print(f"{'episodes':>8} {'decisions':>9} {'sampling':>9} {'gradient':>9} {'together':>9}  (ms)")
    every = []
    for episodes in EPISODES:
        decided, sampling, gradient = measure(episodes, arguments.repetitions)
        print(
            f"{episodes:8} {decided:9.0f} {sampling:9.3f} {gradient:9.3f} "
            f"{sampling + gradient:9.3f}"
        )
        every += rows(episodes, sampling, gradient)
    table.save(arguments.rows, every)


if __name__ == "__main__":
    main()
