"""Births compared, with each other and with training from scratch: ``python -m benchmarks.birth``.

Random trees are grown from trained base networks, and trained for ten epochs once for each way of
being born, the same images in the same order for all of them. The table has the validation accuracy
at birth and after 1, 2, 5 and 10 epochs; the epochs of a distillation are the first of the ten.
Controls: the same trees from random weights, and the base network trained on without growing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import study
from pathnas import config, evaluators, executors, experiment, networks, training
from pathnas.config import Recipe, TrialRecipe
from pathnas.evaluators import Training, trial_seed
from pathnas.outcomes import Candidate
from pathnas.plan import Plan
from pathnas.tree import BASE_TREE

DIGITS = Path(__file__).parent.parent / "experiments" / "digits.yaml"
DATASETS: dict[str, tuple[str, ...]] = {
    "digits": (),
    "mnist": (
        "data.name=mnist",
        "data.train=500",
        "data.validation=300",
        "base.network.widths=[4, 8, 16]",
        "base.training.epochs=40",
    ),
}
"""What differs from experiments/digits.yaml, by dataset."""
EPOCHS = (0, 1, 2, 5, 10)
BIRTHS: dict[str, dict[str, Any]] = {
    "gated": {"birth": "gated"},
    "gated, momentum": {"birth": "gated", "inherit_optimizer": True},
    "hard": {"birth": "hard"},
    "hard, momentum": {"birth": "hard", "inherit_optimizer": True},
    "distilled": {"birth": "distilled"},
}
"""Changes of a trial; ``momentum``: inherited from the base network's training.

Distillation comes first, with an optimizer of its own: what the base network's remembered is out of
date after it.
"""
SCRATCH, NOT_GROWN = "from scratch", "base, not grown"
REFERENCE = "gated"
"""What the others are compared with, tree by tree."""


class Watched:
    """Batches that measure the network before certain epochs."""

    def __init__(self, batches: training.Batches, measure: Callable[[], float]) -> None:
        self.batches = batches
        self.measure = measure
        self.epoch = 0
        self.accuracies: list[float] = []

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.epoch in EPOCHS:
            self.accuracies.append(self.measure())
        self.epoch += 1
        yield from self.batches


@dataclass(frozen=True)
class Run:
    """One training of a tree.

    Attributes:
        birth: its name in the table.
        training: its description.
    """

    birth: str
    training: Training


def curve(run: Run) -> list[float]:
    """Does a training and returns the accuracies at :data:`EPOCHS`; a function for executors."""
    job, setting = run.training, run.training.setting
    network = from_scratch(job) if run.birth == SCRATCH else evaluators.build(job)
    network = network.to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    validation = setting.evaluation_batches(setting.source("validation"))

    def measure() -> float:
        return training.accuracy(network, validation)

    batches = Watched(evaluators.training_batches(job), measure)
    evaluators.learn(job, network, batches)
    return [*batches.accuracies, measure()]


def from_scratch(job: Training) -> nn.Module:
    """Returns a network of the tree with random weights, as the base network begins."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        shape, classes = job.setting.image_shape, job.setting.classes
        return networks.build(channels=shape[0], classes=classes, tree=job.tree, **job.network)


def runs(plan: Plan, base: Training, candidates: Sequence[Candidate]) -> list[Run]:
    """Returns all trainings of these trees; those of one tree have one seed."""
    recipe = plan.config.search.trial.model_copy(update={"epochs": EPOCHS[-1]})
    settings = plan.config.model_copy(
        update={"search": plan.config.search.model_copy(update={"trial": recipe})}
    )
    inherit = replace(plan, config=settings).inherit(base)
    found = []
    for candidate in candidates:
        seed = trial_seed(plan.config.seed, candidate)
        job = replace(inherit, tree=candidate.tree, seed=seed, inherit_optimizer=False)
        found += [Run(name, replace(job, **changes)) for name, changes in BIRTHS.items()]
        found.append(Run(NOT_GROWN, replace(job, tree=BASE_TREE)))
        found.append(Run(SCRATCH, replace(job, weights=None, recipe=fresh(plan, recipe))))
    return found


def fresh(plan: Plan, trial: TrialRecipe) -> Recipe:
    """Returns the recipe for random weights: the base network's, for as long as a trial."""
    assert plan.config.base.training is not None
    return plan.config.base.training.model_copy(update={"epochs": trial.epochs})


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs a dataset.

    Returns:
        ``bases``: accuracies of the base networks; ``trees``; ``accuracy``: by birth, a row for
        each tree and a column for each of :data:`EPOCHS`; ``seconds``.
    """
    start = time.perf_counter()
    bases: list[float] = []
    trees: list[str] = []
    accuracy: dict[str, list[list[float]]] = {}

    def load(seed: str) -> config.Config:
        return config.load(DIGITS, [*DATASETS[name], *arguments.set, seed])

    with executors.executor("processes", arguments.workers, experiment.PRELOAD) as executor:
        for plan, base, trained, candidates in study.bases(load, arguments):
            bases.append(trained.accuracy)
            jobs = runs(plan, base, candidates)
            results = dict(executor.run(curve, jobs))
            trees += [str(candidate.tree) for candidate in candidates]
            for index, job in enumerate(jobs):
                if results[index].failure is not None:
                    raise RuntimeError(f"{job.birth}, {job.training.tree}: {results[index]}")
                accuracy.setdefault(job.birth, []).append(results[index].value or [])
    seconds = round(time.perf_counter() - start, 1)
    return {"bases": bases, "trees": trees, "accuracy": accuracy, "seconds": seconds}


def summary(rows: Sequence[Sequence[float]]) -> str:
    """Returns mean and standard error of each column in points, as cells of a table."""
    cells = []
    for column in zip(*rows, strict=True):
        error = statistics.stdev(column) / len(column) ** 0.5 if len(column) > 1 else 0.0
        cells.append(f"{100 * statistics.fmean(column):.1f} ± {100 * error:.1f}")
    return " | ".join(cells)


def tables(accuracy: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """Returns two tables: accuracies, and what each birth has more than the reference."""
    head = " | ".join(["at birth", *(f"epoch {epochs}" for epochs in EPOCHS[1:])])
    lines = [f"| validation accuracy, % | {head} |", "|---" * (1 + len(EPOCHS)) + "|"]
    lines += [f"| {birth} | {summary(rows)} |" for birth, rows in accuracy.items()]
    lines += ["", f"| difference to {REFERENCE} | {head} |", lines[1]]
    for birth, rows in accuracy.items():
        pairs = zip(rows, accuracy[REFERENCE], strict=True)
        differences = [[a - b for a, b in zip(*pair, strict=True)] for pair in pairs]
        if birth != REFERENCE:
            lines.append(f"| {birth} | {summary(differences)} |")
    return "\n".join(lines)


def main() -> None:
    """Prints the tables and writes all accuracies."""
    study.run(
        "birth",
        "births compared, and training from scratch",
        list(DATASETS),
        measure,
        lambda found: tables(found["accuracy"]),
    )


if __name__ == "__main__":
    # Worker processes know the functions of an importable module, not those of __main__.
    from benchmarks import birth

    birth.main()
