"""What inheriting saves: ``python -m benchmarks.inheriting``.

Random trees are trained in two ways: grown from a trained base network, and from random weights.
For each tree, the validation accuracy is measured after every epoch, and the table tells how many
training images and seconds each way needs to come from the base network's accuracy some part of the
way to what the full training of the grown tree reaches. Both ways have two schedules, and the
faster of the two counts, level by level and tree by tree. With ``--lengths`` both have the same
ones, and any number of them.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks import study
from pathnas import config, evaluators, executors, experiment, training
from pathnas.evaluators import Training, seed_of
from pathnas.plan import Plan
from pathnas.tree import Node

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
LEVELS = (0.25, 0.5, 0.75, 1.0)
"""Parts of the way from the base network's accuracy to that of the fully trained tree."""


@dataclass(frozen=True)
class Point:
    """A network after an epoch.

    Attributes:
        images: training images seen, repeats counted.
        seconds: of CPU time, building and growing included, evaluations not.
        accuracy: on the validation images, in [0, 1].
    """

    images: int
    seconds: float
    accuracy: float


def curve(job: Training) -> list[Point]:
    """Does a training and returns how it got on; a function for executors."""
    start = time.process_time()
    aside = 0.0
    setting = job.setting
    network = evaluators.build(job).to(setting.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    validation = setting.evaluation_batches(setting.source("validation"))
    found: list[Point] = []

    def measure(epoch: training.Epoch) -> None:
        nonlocal aside
        now = time.process_time()
        accuracy = training.accuracy(network, validation)
        found.append(Point(epoch.images, now - start - aside, accuracy))
        aside += time.process_time() - now

    evaluators.learn(job, network, evaluators.training_batches(job), measure)
    return found


def ways(
    plan: Plan, base: Training, tree: Node, lengths: Sequence[float] = ()
) -> dict[str, list[Training]]:
    """Returns the trainings of a tree by way, the full one first.

    The two schedules are that of a full training and one of half its length. What is inherited
    is trained at the learning rate of a trial in the latter, random weights always at that of a
    full training.

    Args:
        plan: of the experiment.
        base: the training of the base network.
        tree: what is trained.
        lengths: parts of the full training's epochs; given, both ways have each of them at both
            learning rates, beside the full training.
    """
    final, trial = plan.config.final.training, plan.config.search.trial
    short = final.model_copy(update={"epochs": max(1, final.epochs // 2)})
    careful = short.model_copy(update={"learning_rate": trial.learning_rate})
    inherit = replace(plan.inherit(base), tree=tree)
    inherit = replace(inherit, seed=seed_of(plan.config.seed, f"inheriting {tree}"))
    fresh = replace(inherit, weights=None, birth="scratch", inherit_optimizer=False)
    recipes = {"inherited": [final, careful], "from scratch": [final, short]}
    if lengths:
        all_lengths = [
            final.model_copy(update={"epochs": epochs, "learning_rate": rate})
            for epochs in (max(1, round(final.epochs * part)) for part in lengths)
            for rate in (final.learning_rate, trial.learning_rate)
        ]
        both = [final, *(recipe for recipe in all_lengths if recipe != final)]
        recipes = dict.fromkeys(recipes, both)
    jobs = {"inherited": inherit, "from scratch": fresh}
    return {way: [replace(jobs[way], recipe=one) for one in of] for way, of in recipes.items()}


def reached(curves: Sequence[Sequence[Point]], accuracy: float) -> tuple[float, float]:
    """Returns the fewest images and the fewest seconds after which a curve is so high.

    Infinite if none ever is.
    """
    firsts = [next((p for p in points if p.accuracy >= accuracy), None) for points in curves]
    points = [point for point in firsts if point is not None]
    return (
        min((float(point.images) for point in points), default=math.inf),
        min((point.seconds for point in points), default=math.inf),
    )


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs an experiment's trees.

    Returns:
        ``bases``: accuracies of the base networks; ``images``: that each was trained on; ``rows``:
        for each tree its key, the accuracy of its ``base``, that of its ``full`` training and the
        points of all ``curves``; ``seconds``.
    """
    start = time.perf_counter()
    bases: list[float] = []
    images = 0
    rows: list[dict[str, Any]] = []

    def load(seed: str) -> config.Config:
        return config.load(EXPERIMENTS / f"{name}.yaml", [*arguments.set, seed])

    with executors.executor("processes", arguments.workers, experiment.PRELOAD) as executor:
        for plan, base, trained, trees in study.bases(load, arguments):
            bases.append(trained.accuracy)
            images = trained.images
            jobs = [
                (row, way, job)
                for row, one in enumerate(trees, start=len(rows))
                for way, two in ways(plan, base, one.tree, arguments.lengths).items()
                for job in two
            ]
            results = dict(executor.run(curve, [job for _, _, job in jobs]))
            rows += [{"tree": one.key, "base": bases[-1], "curves": {}} for one in trees]
            for index, (row, way, _) in enumerate(jobs):
                if results[index].failure is not None:
                    raise RuntimeError(f"{way}, {rows[row]['tree']}: {results[index].failure}")
                rows[row]["curves"].setdefault(way, []).append(results[index].value)
    for row in rows:
        row["full"] = row["curves"]["inherited"][0][-1].accuracy
    seconds = round(time.perf_counter() - start, 1)
    return {"bases": bases, "images": images, "rows": rows, "seconds": seconds}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Returns the medians over the trees as lines; of trees that the full training has improved."""
    better = [row for row in rows if row["full"] > row["base"]]
    lines = [
        f"{len(better)} of {len(rows)} trees are better than their base network in the end",
        "",
        "| level | inherited: images, s | from scratch: images, s | ratio: images, s | reached |",
        "|---|---|---|---|---|",
    ]
    for level in LEVELS:
        taken: dict[str, list[tuple[float, float]]] = {"inherited": [], "from scratch": []}
        for row in better:
            accuracy = row["base"] + level * (row["full"] - row["base"])
            for way, found in taken.items():
                found.append(reached(row["curves"][way], accuracy))
        pairs = list(zip(taken["inherited"], taken["from scratch"], strict=True))
        cells = [_medians(found) for found in taken.values()]
        # A tree that neither way brings so far says nothing of their ratio.
        known = [pair for pair in pairs if math.isfinite(pair[0][0]) or math.isfinite(pair[1][0])]
        cells.append(_medians([(s[0] / i[0], s[1] / i[1]) for i, s in known]))
        counts = [sum(math.isfinite(images) for images, _ in found) for found in taken.values()]
        lines.append(f"| {level:.0%} | {' | '.join(cells)} | {counts[0]}, {counts[1]} |")
    return "\n".join(lines)


def _medians(values: Sequence[tuple[float, float]]) -> str:
    return ", ".join(
        f"{statistics.median(column):.4g}" if column else "-"
        for column in zip(*values, strict=True)
    )


def tables(found: dict[str, Any]) -> str:
    """Returns what the base networks cost, and the table."""
    return f"base networks saw {found['images']:,} images\n{table(found['rows'])}"


def main() -> None:
    """Prints the tables and writes all curves."""
    study.run(
        "inheriting",
        "what inheriting weights saves",
        ("digits", "mnist"),
        measure,
        tables,
        lambda parser: parser.add_argument(
            "--lengths",
            nargs="*",
            type=float,
            default=[],
            help="parts of the full training; both ways have these schedules, at both rates",
        ),
    )


if __name__ == "__main__":
    # Worker processes know the functions of an importable module, not those of __main__.
    from benchmarks import inheriting

    inheriting.main()
