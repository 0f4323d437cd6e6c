"""Controllers side by side: ``python -m pathnas.compare experiments/x.yaml --seeds 5``.

The same env, evaluator, budget and seeds for each. Every search is a run with a folder of its own,
so a comparison that was broken off goes on with the same command.
"""

# Threads are set before torch is imported, and workers import this module again: so the rest of the
# library is imported where it is used.
from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pathnas.executors import THREADS
from pathnas.exits import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_USAGE, fail

if TYPE_CHECKING:
    from pathnas.comparison import Curve
    from pathnas.config import Config

KINDS = ("reinforce", "ppo", "evolution", "random")
TESTED = {"test": "best", "base": "base_longer", "wider": "wider_base"}
"""Names of figures, and of the networks of a run whose test accuracies they are."""


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    found = argparse.ArgumentParser(
        prog="python -m pathnas.compare",
        description="Compare controllers on the same space, trials, budget and seeds. The same "
        "command again continues what was broken off.",
        epilog="example: python -m pathnas.compare experiments/surrogate.yaml --surrogate "
        "--seeds 10",
    )
    found.add_argument("config", help="YAML file of the experiment")
    found.add_argument("overrides", nargs="*", metavar="key=value", help="override of a key")
    found.add_argument(
        "--controllers",
        default="reinforce,random,evolution",
        help=f"names with commas, of {', '.join(KINDS)} (default: reinforce,random,evolution)",
    )
    found.add_argument("--seeds", type=int, default=5, help="seeds 0 to N - 1 (default: 5)")
    found.add_argument(
        "--surrogate", action="store_true", help="trials of microseconds instead of trainings"
    )
    found.add_argument("--to", type=Path, help="folder of the results (default: in the runs)")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit code."""
    options = parser().parse_intermixed_args(arguments)
    os.environ.update(THREADS)
    import torch

    from pathnas import comparison, config, files

    torch.set_num_threads(1)
    try:
        names = _names(options)
        settings = config.load(options.config, options.overrides)
        if settings.search.rounds > 1:
            raise ValueError(f"search.rounds: expected 1, got {settings.search.rounds}")
        kind = "compare-surrogate" if options.surrogate else "compare"
        to = options.to or Path(settings.runs) / f"{settings.name}-{kind}"
        search = on_surrogate if options.surrogate else in_run
        curves: dict[str, list[Curve]] = {name: [] for name in names}
        for seed in range(options.seeds):
            for name in names:
                curves[name].append(search(settings, name, seed))
                best = max(curves[name][-1].rewards)
                print(f"{name}, seed {seed}: best reward {best:.4f}", flush=True)
        found = comparison.summary(curves, settings.search.trials)
        to.mkdir(parents=True, exist_ok=True)
        files.write_json(to / "comparison.json", found)
        comparison.draw(curves, settings.search.trials).savefig(to / "comparison.png")
    except (ValueError, FileNotFoundError, ImportError) as error:
        return fail(EXIT_USAGE, error)
    except (RuntimeError, OSError) as error:
        return fail(EXIT_FAILED, f"the comparison failed: {error}")
    except KeyboardInterrupt:
        return fail(EXIT_INTERRUPTED, "interrupted; the same command continues")
    print(comparison.table(found))
    print(f"table and picture in {to}")
    return 0


def _names(options: argparse.Namespace) -> list[str]:
    names = [str(name) for name in options.controllers.split(",")]
    if options.seeds < 1 or not set(names) <= set(KINDS) or len(set(names)) < len(names):
        raise ValueError(
            f"expected --seeds >= 1 and distinct --controllers of {', '.join(KINDS)}, got "
            f"{options.seeds} and {options.controllers!r}"
        )
    return names


def on_surrogate(settings: Config, name: str, seed: int) -> Curve:
    """Returns the curve of a search whose trials the surrogate answers."""
    import torch

    from pathnas import controllers
    from pathnas.comparison import Curve
    from pathnas.evaluators import seed_of
    from pathnas.plan import Plan
    from pathnas.search import Budget, Progress, search
    from pathnas.surrogate import Surrogate

    plan = Plan.of(settings)
    plan.check_timed()
    metric = settings.search.reward.metric
    if metric != "accuracy":
        raise ValueError(f"search.reward.metric: the surrogate knows accuracy alone, got {metric}")
    limits, evaluator = plan.limits, Surrogate(plan.limits)
    seed = seed_of(seed, "search")
    own = settings.search.controller.model_dump(exclude={"name"})
    progress, seconds, start = Progress(), [], time.perf_counter()
    for update in search(
        controllers.make(name, limits.actions, seed=seed, **own),
        limits,
        lambda proposal: [evaluator(candidate) for candidate in proposal.fresh],
        plan.reward(),
        progress,
        budget=Budget(settings.search.trials, settings.search.patience),
        episodes=settings.search.episodes,
        generator=torch.Generator().manual_seed(seed),
    ):
        seconds += [time.perf_counter() - start] * len(update.trials)
    return Curve([trial.reward for trial in progress.record.trials.values()], seconds)


def in_run(settings: Config, name: str, seed: int) -> Curve:
    """Returns the curve of a run, which is begun, continued or only read."""
    from pathnas import config, experiment, facts, folder
    from pathnas.comparison import Curve
    from pathnas.console import Console
    from pathnas.plan import Plan

    own = config.override(
        settings,
        [
            f"name={settings.name}-{name}-{seed}",
            f"seed={seed}",
            f"search.controller.name={name}",
            "search.control=false",
            "search.asynchronous=false",  # a trial's update is then the one that learned from it
        ],
    )
    plan = Plan.of(own)  # before there is a folder: what is wrong is refused without a trace
    plan.check_timed()
    with folder.open_run(own) as store:
        summary = experiment.run(plan, store, Console(quiet=True))
    found = facts.read(store.path)
    ended = {row["number"]: row["seconds"] for row in found.updates["search"]}
    rows = [
        row
        for row in found.trials["search"]
        if row["reward"] is not None and row["update"] in ended
    ]
    return Curve(
        [row["reward"] for row in rows],
        [ended[row["update"]] for row in rows],
        {
            title: summary["networks"][name]["test"]
            for title, name in TESTED.items()
            if "test" in summary["networks"].get(name, {})
        },
    )


if __name__ == "__main__":
    sys.exit(main())
