"""How much trees differ, and how much seeds of one tree do: ``python -m benchmarks.spread FILE``.

Random trees of an experiment are evaluated as its trials are, each with several seeds. Where
trees differ by no more than seeds, the search has nothing to learn from.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from pathnas import config, evaluators, executors, experiment
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.rollout import rollout
from pathnas.decisions import Limits
from pathnas.evaluators import InheritAndTrain
from pathnas.outcomes import Candidate
from pathnas.plan import Plan


def random_candidates(limits: Limits, count: int, seed: int) -> list[Candidate]:
    """Returns distinct candidates of random search."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Candidate] = {}
    while len(found) < count:
        [episode] = rollout(RandomController(limits.actions), limits, 1, generator)
        candidate = Candidate(episode.tree)
        found.setdefault(candidate.key, candidate)
    return list(found.values())


def measure(evaluator: InheritAndTrain, trees: int, seeds: int, workers: int) -> list[list[float]]:
    """Returns accuracies, one row a tree and one column a seed."""
    candidates = random_candidates(evaluator.limits, trees, evaluator.run_seed)
    columns = []
    with executors.executor("processes", workers, experiment.PRELOAD) as executor:
        for seed in range(seeds):
            results = dict(executor.run(replace(evaluator, run_seed=seed), candidates))
            columns.append([results[index].value.accuracy for index in range(trees)])
    return [list(row) for row in zip(*columns, strict=True)]


def main() -> None:
    """Prints the base network's accuracy and the two standard deviations."""
    parser = argparse.ArgumentParser(description="spread of trees against spread of seeds")
    parser.add_argument("file", help="YAML file of an experiment")
    parser.add_argument("--trees", type=int, default=16, help="random trees (default: 16)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each (default: 3)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = config.load(arguments.file)
    planned = Plan.of(settings)
    with tempfile.TemporaryDirectory() as folder:
        setting = planned.prepare(Path(folder))
        base = planned.base_training(setting, Path(folder) / "base.safetensors")
        trained = evaluators.train(base)
        evaluator = planned.evaluator(base)
        rows = measure(evaluator, arguments.trees, arguments.seeds, settings.workers.count)
    means = [statistics.fmean(row) for row in rows]
    within = statistics.fmean(statistics.variance(row) for row in rows) ** 0.5
    print(f"base {trained.accuracy:.3f}, trials {statistics.fmean(means):.3f} on average")
    print(f"standard deviation of trees {statistics.stdev(means):.4f}, of seeds {within:.4f}")


if __name__ == "__main__":
    main()
