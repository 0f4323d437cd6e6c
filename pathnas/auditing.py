"""The trainings of an audit: random trees, each trained in several ways with several seeds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import get_args

import numpy as np
import torch

from pathnas import config, evaluators, outcomes
from pathnas.agreement import Scores
from pathnas.config import Config
from pathnas.controllers.random_controller import RandomController
from pathnas.controllers.rollout import rollout
from pathnas.evaluators import InheritAndTrain, Training, seed_of
from pathnas.executors import Failure
from pathnas.jobs import Jobs, trained_of
from pathnas.limits import Limits
from pathnas.outcomes import Candidate, Metric, Trained
from pathnas.plan import Plan

INHERITED = "full, inherited"
SCRATCH = "full, from scratch"

LEAST = 4
"""Trees that must have been trained in every way: fewer have no order to speak of."""


@dataclass(frozen=True)
class Stage:
    """One way of training a tree.

    Attributes:
        name: of its row in the report.
        training: a description, but for tree and seed.
        purpose: of its seeds; stages of one purpose train a tree with the same ones.
    """

    name: str
    training: Training
    purpose: str

    def job(self, candidate: Candidate, run_seed: int, replicate: int) -> Training:
        """Returns the training of a tree with one of its seeds, from 0.

        The first of a trial is the one that it has in a search.
        """
        seed = seed_of(run_seed, f"{self.purpose} {candidate.key}", replicate)
        return replace(self.training, tree=candidate.tree, seed=seed)


@dataclass(frozen=True, eq=False)
class Measured:
    """What the trainings brought, of the trees that none of them failed for.

    Attributes:
        trees: their keys.
        macs: `[N, 1]` multiply-adds of the whole network for one image.
        scores: by stage and metric, `[N, S]`; a metric that is not known of all trainings of a
            stage is absent.
        images: by stage, training images that one training saw.
        seconds: by stage, the mean of a training.
        failed: by key of a tree that is left out, why.
    """

    trees: list[str]
    macs: Scores
    scores: dict[str, dict[Metric, Scores]]
    images: dict[str, int]
    seconds: dict[str, float]
    failed: dict[str, str]


def random_candidates(limits: Limits, count: int, seed: int) -> list[Candidate]:
    """Returns distinct candidates of random search.

    Raises:
        ValueError: if so many are not to be found in the space.
    """
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, Candidate] = {}
    episodes = 10 * count + 200
    for _ in range(episodes):
        [episode] = rollout(RandomController(limits.actions), limits, 1, generator)
        candidate = Candidate(episode.tree)
        found.setdefault(candidate.key, candidate)
        if len(found) == count:
            return list(found.values())
    raise ValueError(
        f"expected {count} distinct trees, got {len(found)} in {episodes} random episodes: the "
        f"space is too small"
    )


@dataclass(frozen=True)
class Ways:
    """The trials that are audited: each birth with each length, learning rate and average.

    Attributes:
        births: as `search.trial.birth` names them.
        epochs: lengths.
        rates: learning rates at their highest; empty: that of `search.trial`.
        averages: shares of the steps whose weights are averaged; empty: that of `search.trial`.
    """

    births: Sequence[str]
    epochs: Sequence[int]
    rates: Sequence[float] = ()
    averages: Sequence[float] = ()


def stages(plan: Plan, base: Training, ways: Ways) -> list[Stage]:
    """Returns the trials, and the two full trainings.

    From scratch, a network of one's own (`base.model`) begins with the weights that its function
    gives it.

    Args:
        plan: of the experiment.
        base: the training of the base network.
        ways: of the trials.

    Raises:
        ConfigError: if a trial cannot be so.
    """
    found = [
        Stage(name, replace(plan, config=own).inherit(base), "trial")
        for name, own in trials(plan.config, ways).items()
    ]
    full = replace(plan.inherit(base), recipe=plan.config.final.training)
    fresh = replace(full, weights=None, birth="scratch", inherit_optimizer=False)
    return [*found, Stage(INHERITED, full, "full"), Stage(SCRATCH, fresh, "scratch")]


def trials(settings: Config, ways: Ways) -> dict[str, Config]:
    """Returns the settings of the trials by name.

    Raises:
        ConfigError: if a trial cannot be so.
    """
    found = {}
    trial = settings.search.trial
    rates = ways.rates or [trial.learning_rate]
    averages = ways.averages or [trial.average_fraction]
    for birth, length, rate, average in product(ways.births, ways.epochs, rates, averages):
        words = [f"search.trial.epochs={length}", f"search.trial.birth={birth}"]
        words.append(f"search.trial.learning_rate={rate}")
        words.append(f"search.trial.average_fraction={average}")
        words.append("search.halving=null")  # it bounds the epochs, and is not what is measured
        name = trial_name(birth, length)
        name += f", rate {rate:g}" if rate != trial.learning_rate else ""
        name += f", average {average:g}" if average != trial.average_fraction else ""
        found[name] = config.override(settings, words)
    return found


def trial_name(birth: str, epochs: int) -> str:
    """Returns the name of the stage of these trials."""
    return f"{birth}, {epochs} epoch{'s' if epochs > 1 else ''}"


def measure(
    jobs: Jobs,
    ways: Sequence[Stage],
    candidates: Sequence[Candidate],
    evaluator: InheritAndTrain,
    *,
    seeds: int,
) -> Measured:
    """Does all trainings that the record does not hold, and returns what they brought.

    Args:
        jobs: does them and records each as it ends.
        ways: how each tree is trained, :data:`INHERITED` among them.
        candidates: the trees.
        evaluator: knows the run's seed and what trees cost.
        seeds: trainings of each tree in each way.

    Raises:
        RuntimeError: if fewer than :data:`LEAST` trees came through.
    """
    named: dict[str, Training] = {}
    of: dict[str, list[list[str]]] = {way.name: [] for way in ways}
    # By seed first: what an audit that was broken off has done is spread over all trees and ways.
    for replicate in range(seeds):
        for way in ways:
            jobs_of_way = {
                f"{way.name}, seed {replicate}: {one.key}": way.job(
                    one, evaluator.run_seed, replicate
                )
                for one in candidates
            }
            named |= jobs_of_way
            of[way.name].append(list(jobs_of_way))
    results = jobs.all(evaluators.train, named, "audit")
    failed: dict[str, str] = {}
    for name, result in results.items():
        if result.failure is not None:
            failed.setdefault(str(named[name].tree), _why(name, result.failure))
    sound = [one for one in candidates if one.key not in failed]
    if len(sound) < LEAST:
        raise RuntimeError(
            f"expected at least {LEAST} trees whose trainings all succeed, got {len(sound)}"
            + "".join(f"; {why}" for why in list(failed.values())[:1])
        )
    places = [place for place, one in enumerate(candidates) if one.key not in failed]
    trained = {
        name: [[trained_of(results[row[place]].value) for row in rows] for place in places]
        for name, rows in of.items()
    }
    [full] = {way.training.recipe.epochs for way in ways if way.name == INHERITED}
    return Measured(
        [one.key for one in sound],
        np.array([[float(evaluator.macs(one.tree))] for one in sound]),
        {name: _scores(rows, full) for name, rows in trained.items()},
        {name: rows[0][0].images for name, rows in trained.items()},
        {name: _mean(t.seconds for row in rows for t in row) for name, rows in trained.items()},
        failed,
    )


def _scores(trained: Sequence[Sequence[Trained]], epochs: int) -> dict[Metric, Scores]:
    found: dict[Metric, Scores] = {}
    for metric in get_args(Metric):
        values = [[outcomes.measure(metric, one, epochs) for one in row] for row in trained]
        if not any(value is None for row in values for value in row):
            found[metric] = np.array(values)
    return found


def _why(name: str, failure: Failure) -> str:
    return f"{name}: {failure.status}: {failure.reason}"


def _mean(values: Iterable[float]) -> float:
    return float(np.mean(list(values)))
