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
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pathnas.executors import THREADS
from pathnas.exits import EXIT_USAGE, fail
from pathnas.run import stopped

if TYPE_CHECKING:
    from pathnas.auditing import Measured
    from pathnas.config import Config

BIRTHS = ("gated", "hard", "distilled")
CONTROL = "multiply-adds"
"""The row that trains nothing: what a tree costs, as a score."""


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
        help="lengths of trials, with commas (default: a quarter, half and all of those of "
        "search.trial)",
    )
    found.add_argument(
        "--births",
        default="gated,hard",
        help=f"of trials, with commas, of {', '.join(BIRTHS)} (default: gated,hard)",
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
    from pathnas import auditing, config
    from pathnas.plan import Plan

    try:
        settings = config.load(options.config, options.overrides)
        settings = config.override(settings, [f"name={settings.name}-audit"])
        lengths = _lengths(options, settings.search.trial.epochs)
        births = _births(options)
        plan = Plan.of(settings)
        candidates = auditing.random_candidates(plan.limits, options.trees, settings.seed)
    except (ValueError, FileNotFoundError, ImportError) as error:
        return fail(EXIT_USAGE, error)
    found, path = _audit(options, settings, (plan, candidates, lengths, births))
    print(table(found))
    print(f"all in {path}")
    return 0


def _lengths(options: argparse.Namespace, epochs: int) -> list[int]:
    """Returns the lengths of trials and checks the numbers of the command line."""
    words = str(options.epochs).split(",") if options.epochs is not None else []
    found = [int(word) for word in words if word.isascii() and word.isdecimal()]
    if not words:
        found = sorted({max(1, round(epochs * share)) for share in (0.25, 0.5, 1.0)})
    if (words and len(found) < len(words)) or len(set(found)) < len(found) or min(found) < 1:
        raise ValueError(
            f"--epochs: expected distinct whole numbers >= 1 with commas, got {options.epochs!r}"
        )
    if options.trees < 4 or options.seeds < 2 or not 0 < options.share <= 1:
        raise ValueError(
            "expected --trees >= 4, --seeds >= 2 and --share in (0, 1], got "
            f"{options.trees}, {options.seeds} and {options.share}"
        )
    return sorted(found)


def _births(options: argparse.Namespace) -> list[str]:
    births = str(options.births).split(",")
    if not set(births) <= set(BIRTHS) or len(set(births)) < len(births):
        raise ValueError(
            f"--births: expected distinct names of {', '.join(BIRTHS)}, got {options.births!r}"
        )
    return births


def _audit(
    options: argparse.Namespace, settings: Config, asked: tuple[Any, ...]
) -> tuple[dict[str, Any], Path]:
    """Does an audit, or what is left of it; returns its findings and the file they stand in."""
    from pathnas import auditing, executors, experiment, files, folder
    from pathnas.console import Console
    from pathnas.jobs import JobFailed, Jobs

    plan, candidates, lengths, births = asked
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
        ways = auditing.stages(plan, base, lengths, births)
        with jobs.phase("base"):
            [trained] = jobs.train([base], "base network")
        if trained.failure is not None:
            raise JobFailed("base network", trained.failure)
        evaluator = plan.evaluator(base)
        with jobs.phase("audit"):
            measured = auditing.measure(jobs, ways, candidates, evaluator, seeds=options.seeds)
        found = {"base": trained.accuracy, **findings(measured, settings.seed, options.share)}
        path = store.path / "audit.json"
        files.write_json(path, found)
    return found, path


def findings(measured: Measured, seed: int, share: float) -> dict[str, Any]:
    """Returns what the trainings say, in values that JSON holds.

    Args:
        measured: the trainings.
        seed: of the bootstrap.
        share: of the ceiling, see :func:`recommended`.
    """
    from pathnas import agreement
    from pathnas.auditing import INHERITED, SCRATCH

    full = (INHERITED, SCRATCH)
    tests = len(measured.accuracy) - len(full)
    rows: dict[str, Any] = {}
    for name, scores in {**measured.accuracy, CONTROL: measured.macs}.items():
        taus = {}
        for other in full:
            reference = measured.accuracy[other]
            taus[other] = asdict(
                agreement.within(scores, seed=seed, tests=tests)
                if other == name
                else agreement.between(scores, reference, seed=seed, tests=tests)
            )
        rows[name] = {"tau": taus, "scores": scores.tolist()}
        if name != CONTROL:
            spread = asdict(agreement.spread(scores))
            cost = {"images": measured.images[name], "seconds": measured.seconds[name]}
            rows[name] |= {**spread, **cost}
    best, reason = recommended(rows, share)
    return {
        "trees": measured.trees,
        "seeds": len(measured.accuracy[INHERITED][0]),
        "failed": measured.failed,
        "rows": rows,
        "recommended": best,
        "reason": reason,
    }


def recommended(rows: Mapping[str, Any], share: float) -> tuple[str | None, str]:
    """Returns the cheapest trial whose ranking is trustworthy, or None, and why.

    Trustworthy is a trial whose tau with full inherited training is above 0 although the best of
    several trials is looked for (the interval's lower end at the level divided by their number),
    and is at least a share of the ceiling, which is how two full trainings agree. If those agree no
    better than by chance, nothing is trustworthy.

    Args:
        rows: of :func:`findings`.
        share: in (0, 1].
    """
    from pathnas.auditing import INHERITED, SCRATCH

    ceiling = rows[INHERITED]["tau"][INHERITED]
    trials = {n: r for n, r in rows.items() if n not in (INHERITED, SCRATCH, CONTROL)}
    if ceiling["low"] <= 0:
        return None, (
            f"two full trainings of the same trees agree no better than by chance "
            f"({_interval(ceiling)}): these trees differ too little for any ranking"
        )
    least = share * ceiling["tau"]
    trusted = {
        name: row
        for name, row in trials.items()
        if row["tau"][INHERITED]["strict"] > 0 and row["tau"][INHERITED]["tau"] >= least
    }
    if not trusted:
        return None, (
            f"no trial's tau is surely above 0 and at least {least:.2f}, {share:.0%} of the ceiling"
        )
    best = min(trusted, key=lambda n: (trusted[n]["images"], -trusted[n]["tau"][INHERITED]["tau"]))
    tau = trusted[best]["tau"][INHERITED]["tau"]
    reason = f"tau {tau:.2f} is surely above 0 and at least {least:.2f}, {share:.0%} of the ceiling"
    control = rows[CONTROL]["tau"][INHERITED]["tau"]
    if abs(control) >= tau:
        reason += f"; but counting {CONTROL} ranks as well at no cost (tau {control:.2f})"
    return best, reason


def table(found: Mapping[str, Any]) -> str:
    """Returns the findings as lines for a person."""
    from pathnas.auditing import INHERITED, SCRATCH

    trees, rows = len(found["trees"]), found["rows"]
    lines = [
        f"{trees} random trees, {found['seeds']} seeds; base network {found['base']:.4f}",
        *(f"left out: {why}" for why in found["failed"].values()),
        "",
        f"{'validation accuracy':<22}{'mean':>8}{'sd trees':>10}{'sd seeds':>10}"
        f"{'images':>12}{'seconds':>9}",
    ]
    lines += [
        f"{name:<22}{row['mean']:>8.4f}{row['things']:>10.4f}{row['seeds']:>10.4f}"
        f"{row['images']:>12,}{row['seconds']:>9.2f}"
        for name, row in rows.items()
        if name != CONTROL
    ]
    lines += ["", f"{'Kendall tau with':<22}{INHERITED:>24}{SCRATCH:>24}"]
    lines += [
        f"{name:<22}" + "".join(f"{_interval(row['tau'][o]):>24}" for o in (INHERITED, SCRATCH))
        for name, row in rows.items()
    ]
    lines += [
        "95% intervals by a bootstrap over trees; one training against one; a full training with",
        "itself is one seed against another, the ceiling",
        "",
    ]
    if found["recommended"] is None:
        return "\n".join([*lines, f"no trial can be recommended: {found['reason']}"])
    return "\n".join([*lines, f"recommended: {found['recommended']}: {found['reason']}"])


def _interval(tau: Mapping[str, float]) -> str:
    return f"{tau['tau']:.2f} ({tau['low']:.2f} to {tau['high']:.2f})"


if __name__ == "__main__":
    sys.exit(main())
