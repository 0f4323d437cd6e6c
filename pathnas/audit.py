"""Is the reward worth anything? ``python -m pathnas.audit experiments/x.yaml --trees 30``.

A search believes that a tree which does well in a short trial does well when it is trained in full.
An audit tests that before the search is paid for: random trees go through trials of several lengths
and births and through full trainings, and the rankings are compared.
"""

# Threads are set before torch is imported, and workers import this module again: so the rest of the
# library is imported where it is used.
from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnas.executors import THREADS
from pathnas.exits import EXIT_USAGE, fail
from pathnas.run import stopped

if TYPE_CHECKING:
    from pathnas.auditing import Ways
    from pathnas.config import Config

BIRTHS = ("gated", "hard", "distilled")


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.audit",
        description="Measure whether short trials rank trees as full trainings do, at what cost. "
        "The same command again continues an audit that was broken off; with more trees, seeds, "
        "epochs or births it trains only what is new.",
        epilog="example: python -m pathnas.audit experiments/digits.yaml --trees 30 --seeds 3",
    )
    found.add_argument("config", help="YAML file of the experiment")
    found.add_argument("overrides", nargs="*", metavar="key=value", help="override of a key")
    found.add_argument("--trees", type=int, default=30, help="random trees (default: 30)")
    found.add_argument("--seeds", type=int, default=3, help="of each training (default: 3)")
    found.add_argument(
        "--epochs",
        help="lengths of trials, with commas (default: half, once and twice those of search.trial)",
    )
    found.add_argument(
        "--births",
        default="gated,hard",
        help=f"of trials, with commas, of {', '.join(BIRTHS)} (default: gated,hard)",
    )
    found.add_argument(
        "--learning-rates",
        dest="rates",
        help="of trials at their highest, with commas (default: that of search.trial)",
    )
    found.add_argument(
        "--averages",
        help="of trials: shares of the steps, the last, whose weights are averaged, in [0, 1] with "
        "commas (default: that of search.trial)",
    )
    found.add_argument(
        "--share",
        type=float,
        default=0.5,
        help="of the ceiling: tau that a trustworthy trial must have (default: 0.5)",
    )
    found.add_argument("--quiet", action="store_true", help="print only the result")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code, as `pathnas.run` has them."""
    options = parser().parse_intermixed_args(arguments)
    os.environ.update(THREADS)
    import torch

    from pathnas.interrupts import Interrupted, Interrupts

    torch.set_num_threads(1)
    try:
        with Interrupts():
            return _command(options)
    except Interrupted as interrupted:
        return fail(interrupted.exit_code, "interrupted; the same command continues")
    except (RuntimeError, OSError, ValueError) as error:
        return stopped(error, "audit")


def _command(options: argparse.Namespace) -> int:
    from pathnas import auditing, config, verdict
    from pathnas.plan import Plan

    try:
        settings = config.load(options.config, options.overrides)
        settings = config.override(settings, [f"name={settings.name}-audit"])
        ways = _ways(options, settings.search.trial.epochs)
        auditing.trials(settings, ways)  # what cannot be is refused before there is a folder
        plan = Plan.of(settings)
        plan.check_timed()
        candidates = auditing.random_candidates(plan.limits, options.trees, settings.seed)
    except (ValueError, FileNotFoundError, ImportError) as error:
        return fail(EXIT_USAGE, error)
    found, path = _audit(options, settings, (plan, candidates, ways))
    print(verdict.table(found))
    print(f"all in {path}")
    return 0


def _ways(options: argparse.Namespace, epochs: int) -> Ways:
    """Returns the trials that the command line asks for, when its numbers are sound."""
    from pathnas.auditing import Ways

    if options.trees < 4 or options.seeds < 2 or not 0 < options.share <= 1:
        raise ValueError(
            "expected --trees >= 4, --seeds >= 2 and --share in (0, 1], got "
            f"{options.trees}, {options.seeds} and {options.share}"
        )
    births = str(options.births).split(",")
    if not set(births) <= set(BIRTHS) or len(set(births)) < len(births):
        raise ValueError(
            f"--births: expected distinct names of {', '.join(BIRTHS)}, got {options.births!r}"
        )
    lengths = sorted({max(1, round(epochs * share)) for share in (0.5, 1, 2)})
    if options.epochs is not None:
        lengths = [int(number) for number in _numbers("--epochs", options.epochs, int)]
    rates = []
    if options.rates is not None:
        rates = _numbers("--learning-rates", options.rates, float)
    averages = []
    if options.averages is not None:
        averages = _shares("--averages", options.averages)
    return Ways(births, lengths, rates, averages)


def _numbers(option: str, text: str, kind: type[int] | type[float]) -> list[float]:
    """Returns distinct positive numbers with commas, the smallest first."""
    try:
        found = sorted({kind(word) for word in text.split(",")})
    except ValueError:
        found = []
    least = 1 if kind is int else 0
    if len(found) < text.count(",") + 1 or not all(least <= n < 1e4 and n for n in found):
        what = "whole numbers >= 1" if kind is int else "numbers > 0"
        raise ValueError(f"{option}: expected distinct {what} with commas, got {text!r}")
    return [float(number) for number in found]


def _shares(option: str, text: str) -> list[float]:
    """Returns distinct numbers in [0, 1] with commas, the smallest first."""
    try:
        found = sorted({float(word) for word in text.split(",")})
    except ValueError:
        found = []
    if len(found) < text.count(",") + 1 or not all(0 <= n <= 1 for n in found):
        raise ValueError(f"{option}: expected distinct numbers in [0, 1] with commas, got {text!r}")
    return found


def _audit(
    options: argparse.Namespace, settings: Config, asked: tuple[Any, ...]
) -> tuple[dict[str, Any], Path]:
    """Does an audit, or what is left of it; returns its findings and the file they stand in."""
    from pathnas import auditing, executors, experiment, files, folder, verdict
    from pathnas.console import Console
    from pathnas.jobs import JobFailed, Jobs

    plan, candidates, ways = asked
    workers = settings.workers.model_dump(exclude={"loaders", "deadline"})
    with (
        folder.open_run(settings) as store,
        executors.executor(preload=(*experiment.PRELOAD, *settings.plugins), **workers) as executor,
    ):
        experiment.check_images(plan, store)
        jobs = Jobs(executor, Console(quiet=options.quiet), store)
        base = plan.base_training(
            plan.prepare(store.path / "data"), store.path / "weights" / "base.safetensors"
        )
        stages = auditing.stages(plan, base, ways)
        with jobs.phase("base"):
            [trained] = jobs.train([base], "base network")
        if trained.failure is not None:
            raise JobFailed("base network", trained.failure)
        evaluator = plan.evaluator(base)
        with jobs.phase("audit"):
            measured = auditing.measure(jobs, stages, candidates, evaluator, seeds=options.seeds)
        found = {
            "base": trained.accuracy,
            **verdict.findings(measured, settings.seed, options.share),
        }
        path = store.path / "audit.json"
        files.write_json(path, found)
    return found, path


if __name__ == "__main__":
    sys.exit(main())
